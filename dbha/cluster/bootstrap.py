"""Form a cluster of nodes that have no data, and start and stop its nodes.

All nodes begin with the same data: one node makes a seed, every node unpacks it, and each finds the membership
of the first Primary component on its disk, as after a crash of all. They form it together, so nobody is a donor
and nothing is transferred.
"""

import secrets
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dbha.ansible import PlaybookResult, run_playbook, start_ahead
from dbha.cluster.certificates import Certificates
from dbha.cluster.handle import Cluster, side_by_side
from dbha.cluster.observe import observe
from dbha.cluster.state import PRIMARY, SYNCED, NodeState
from dbha.errors import DbhaError, UnreachableError, UnsafeError
from dbha.inventory import Node

POLL_S = 0.1
_OBSERVE_TIMEOUT_S = 3.0
_NOT_DATA = frozenset({"lost+found"})

OnLine = Callable[[str], None]


def _quiet(_: str) -> None:
    """Tell nobody."""


@dataclass(frozen=True, slots=True)
class DatadirState:
    """What is in a node's data directory, and whether a server answers on the node's port."""

    node: str
    entries: tuple[str, ...]
    answers: bool


class NotSyncedError(DbhaError):
    """Nodes did not become Synced in time; they still run, and may yet become so."""

    exit_code = 5


def observe_datadirs(cluster: Cluster) -> tuple[DatadirState, ...]:
    """Return the state of every node's data directory. Raises UnreachableError when one cannot be looked at."""
    answering = {state.name: state for state in observe(cluster, _OBSERVE_TIMEOUT_S)}
    entries = side_by_side(lambda node: _entries(cluster, node), cluster.nodes)
    return tuple(
        DatadirState(node.name, entries[node.name], answering[node.name].reachable) for node in cluster.nodes
    )


def may_bootstrap(states: Sequence[DatadirState]) -> None:
    """Return when no node has data and none answers. Raises UnsafeError that names every one that does.

    A second cluster made of a part of the nodes would write a second history of the same data.
    """
    reasons = [f"{state.node} answers" for state in states if state.answers]
    reasons += [
        f"{state.node} has data ({', '.join(found[:3])}{', ...' if len(found) > 3 else ''})"
        for state in states
        if (found := [entry for entry in state.entries if entry not in _NOT_DATA])
    ]
    if not states:
        reasons = ["there are no nodes"]
    if reasons:
        raise UnsafeError(
            f"a new cluster must not be made here: {'; '.join(reasons)}",
            hint="dbha cluster recover     brings a stopped cluster back",
        )


def first_view(nodes: Sequence[Node]) -> dict[str, str]:
    """Return a new UUID for each node, by name: the members of the first Primary component.

    Galera identifies nodes by UUIDs of version 1 and counts their clock sequence up at each restart.
    """
    return {node.name: str(uuid.uuid1(node=secrets.randbits(48), clock_seq=0)) for node in nodes}


def bootstrap(
    cluster: Cluster,
    *,
    inventory: Path,
    run_directory: Path,
    view: Mapping[str, str] | None = None,
    certificates: Certificates | None = None,
    on_line: OnLine = _quiet,
) -> PlaybookResult:
    """Make a new cluster of all nodes and start them; `wait_until_synced` tells when it is one.

    Repeated after an interruption with the same `view` it finishes what is missing. Ask `may_bootstrap` first.
    """
    return run_playbook(
        "bootstrap",
        inventory=inventory,
        run_directory=run_directory,
        variables={
            "mariadb_seed_node": cluster.nodes[0].name,
            "mariadb_first_view": dict(view or first_view(cluster.nodes)),
            "mariadb_admin_account": cluster.account.user,
            # A node alone has nobody to restore a membership with.
            "mariadb_new_cluster_node": cluster.nodes[0].name if len(cluster.nodes) == 1 else "",
            **tls_variables(certificates, cluster.nodes),
        },
        secrets={"mariadb_admin_password": cluster.account.password},
        on_line=on_line,
    )


def tls_variables(certificates: Certificates | None, nodes: Sequence[Node]) -> dict[str, object]:
    """Return what the playbooks get of certificates. They have the keys in them, and go where passwords go."""
    if certificates is None:
        return {}
    files = {
        name: {"ca": each.ca, "certificate": each.certificate, "key": each.key.reveal()}
        for name, each in certificates.of(nodes).items()
    }
    return {"mariadb_tls": True, "mariadb_tls_files": files}


def start_nodes(
    nodes: Sequence[Node],
    *,
    inventory: Path,
    run_directory: Path,
    new_cluster_node: Node | None = None,
    on_line: OnLine = _quiet,
) -> PlaybookResult:
    """Start the servers of `nodes` that do not run; `new_cluster_node`, one of them, forms a new cluster.

    Returns once the servers are started, which is before they have joined. A node that forms a cluster starts
    by itself: the others have nothing to join before it is Synced.
    """
    return run_playbook(
        "start",
        inventory=inventory,
        run_directory=run_directory,
        variables={"mariadb_new_cluster_node": new_cluster_node.name} if new_cluster_node else {},
        secrets={},
        limit=[node.name for node in nodes],
        on_line=on_line,
    )


def stop_nodes(
    nodes: Sequence[Node],
    *,
    inventory: Path,
    run_directory: Path,
    at_once: bool = False,
    on_line: OnLine = _quiet,
) -> PlaybookResult:
    """Stop the servers of `nodes` cleanly, one after the other in the inventory's order or all `at_once`."""
    return run_playbook(
        "stop",
        inventory=inventory,
        run_directory=run_directory,
        variables={"mariadb_stopped_at_once": len(nodes) if at_once else 1},
        secrets={},
        limit=[node.name for node in nodes],
        on_line=on_line,
    )


def be_ready_to_restart(nodes: Sequence[Node], *, inventory: Path, run_directory: Path) -> None:
    """Have Ansible read its modules now, for one `stop_nodes` and one `start_nodes` of all of `nodes` that follow."""
    for playbook in ("stop", "start"):
        start_ahead(
            playbook, inventory=inventory, run_directory=run_directory, limit=[node.name for node in nodes]
        )


def wait_until_synced(
    cluster: Cluster,
    nodes: Sequence[Node],
    deadline_s: float,
    *,
    check: Callable[[], None] = lambda: None,
    poll_s: float = POLL_S,
) -> tuple[NodeState, ...]:
    """Return the states of `nodes` once all are Synced in one Primary component.

    `check` is called before each look and may raise to end the waiting. Raises NotSyncedError after `deadline_s`
    that says what each node is instead.
    """
    looked_at = cluster.only(node.name for node in nodes)
    ends_at = time.monotonic() + deadline_s
    while True:
        check()
        states = observe(looked_at, _OBSERVE_TIMEOUT_S)
        if not (missing := what_is_missing(states)):
            return states
        if time.monotonic() > ends_at:
            raise NotSyncedError(
                f"not Synced within {deadline_s:g} s: {'; '.join(missing)}", hint="dbha status"
            )
        time.sleep(poll_s)


def what_is_missing(states: Sequence[NodeState]) -> tuple[str, ...]:
    """Return what keeps the nodes from being one Synced cluster, by node; empty when they are."""
    missing = [f"{state.name} {reason}" for state in states if (reason := _fault(state))]
    views = {(state.cluster_state_uuid, state.conf_id, state.cluster_size) for state in states}
    if not missing and len(views) != 1:
        missing.append("the nodes do not agree on who belongs to the cluster")
    if not missing and (states[0].cluster_size or 0) < len(states):
        missing.append(f"the cluster has {states[0].cluster_size} of {len(states)} nodes")
    return tuple(missing)


def _fault(state: NodeState) -> str:
    if not state.reachable:
        return f"does not answer ({state.error})"
    if state.cluster_status != PRIMARY:
        return f"is {state.cluster_status or 'in no cluster'}"
    if state.local_state != SYNCED or not state.ready:
        return f"is {state.local_state_comment or 'not ready'}"
    return ""


def _entries(cluster: Cluster, node: Node) -> tuple[str, ...]:
    argv = ("find", node.datadir, "-mindepth", "1", "-maxdepth", "1", "-printf", "%f\\0")
    done = cluster.transport(node).run(argv, environment={"LC_ALL": "C"})
    if done.returncode != 0 and b"No such file or directory" not in done.stderr:
        raise UnreachableError(f"{node}: {node.datadir} cannot be looked at: {done.stderr.decode().strip()}")
    return tuple(sorted(done.stdout.decode(errors="replace").split("\0")[:-1]))
