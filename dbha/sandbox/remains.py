"""What stopped and killed nodes left on the disk, and which of them have to form the cluster again."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dbha.errors import UnsafeError
from dbha.inventory import Node


@dataclass(frozen=True, slots=True)
class View:
    """A Primary component that a node was a member of; all its members wrote down the same one."""

    representative: str
    sequence: int
    members: frozenset[str]


@dataclass(frozen=True, slots=True)
class Remains:
    """What Galera left in a node's data directory.

    A killed server leaves its `identity` and the last Primary component's `view` (gvwstate.dat); a server that
    was stopped leaves neither, and the last one of a cluster is `safe_to_bootstrap`.
    """

    name: str
    running: bool
    identity: str | None = None
    view: View | None = None
    safe_to_bootstrap: bool = False


@dataclass(frozen=True, slots=True)
class Beginning:
    """The nodes that have to be Synced before the others start, and the one that has to form a new cluster."""

    first: tuple[str, ...] = ()
    new_cluster_node: str | None = None


def choose_beginning(remains: Sequence[Remains]) -> Beginning:
    """Return which nodes start first; none where a server runs, for then the others join it.

    When all members of a Primary component were killed, Galera restores it by itself with whatever was committed
    last, but only if exactly its members start: a node that was lost before waits for another component, and
    would keep them all waiting. Raises UnsafeError when no node is known to hold everything.
    """
    if any(each.running for each in remains):
        return Beginning()
    complete = [view for view in {each.view for each in remains if each.view} if _is_complete(view, remains)]
    if complete:
        last = max(complete, key=lambda view: view.sequence)
        names = tuple(each.name for each in remains if each.view == last)
        return Beginning(names, names[0] if len(names) == 1 else None)  # alone it has nobody to hear from
    safe = [each.name for each in remains if each.safe_to_bootstrap]
    if len(safe) == 1:
        return Beginning((safe[0],), safe[0])
    raise UnsafeError(
        "no node is known to hold everything: none was the last to stop, and no last cluster is complete",
        hint="docs/runbooks/cluster-down.md",
    )


def read_remains(node: Node, *, running: bool) -> Remains:
    """Return what the node's data directory says; files that are missing or empty say nothing."""
    view, state = _read(node, "gvwstate.dat"), _read(node, "grastate.dat")
    identity = re.search(r"^my_uuid: (\S+)$", view, re.MULTILINE)
    return Remains(
        node.name,
        running,
        identity=_without_counter(identity[1]) if identity else None,
        view=_parse_view(view),
        safe_to_bootstrap=bool(re.search(r"^safe_to_bootstrap: 1$", state, re.MULTILINE)),
    )


def _is_complete(view: View, remains: Sequence[Remains]) -> bool:
    return view.members <= {each.identity for each in remains if each.view == view}


def _parse_view(text: str) -> View | None:
    head = re.search(r"^view_id: 3 (\S+) (\d+)$", text, re.MULTILINE)
    members = re.findall(r"^member: (\S+) \d+$", text, re.MULTILINE)
    if head is None or not members or "#vwend" not in text:
        return None
    return View(_without_counter(head[1]), int(head[2]), frozenset(map(_without_counter, members)))


def _without_counter(uuid: str) -> str:
    """Return a node's UUID without its fourth group, which Galera counts up at each start."""
    groups = uuid.split("-")
    return "-".join(groups[:3] + groups[4:])


def _read(node: Node, name: str) -> str:
    try:
        return Path(node.datadir, name).read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
