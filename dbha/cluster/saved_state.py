"""What Galera keeps beside the data while no server runs: `grastate.dat`, and of a view `gvwstate.dat`. Pure."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

STATE_FILE, VIEW_FILE = "grastate.dat", "gvwstate.dat"

_UUID = re.compile(r"^uuid:\s+([0-9a-f-]{36})$", re.MULTILINE)
_SEQNO = re.compile(r"^seqno:\s+(-?\d+)$", re.MULTILINE)
_SAFE = re.compile(r"^safe_to_bootstrap:\s+1$", re.MULTILINE)
_POSITION = re.compile(r"([0-9a-f-]{36}):(-?\d+)(?:,.*)?")  # a GTID follows where the cluster has them
_IDENTITY = re.compile(r"^my_uuid: (\S+)$", re.MULTILINE)
_NONE = "00000000-0000-0000-0000-000000000000"


@dataclass(frozen=True, slots=True)
class SavedState:
    """The position of a stopped node: history and transaction. -1 when it was not stopped cleanly, or runs."""

    uuid: str
    seqno: int

    def __str__(self) -> str:
        return f"{self.uuid}:{self.seqno}"

    @property
    def is_clean(self) -> bool:
        """Whether the server was stopped and wrote down how far it was."""
        return self.seqno >= 0


def parse_state(text: str) -> SavedState | None:
    """Return the position in a `grastate.dat`; None for a file that is missing, empty or torn."""
    uuid, seqno = _UUID.search(text), _SEQNO.search(text)
    if not uuid or not seqno or uuid[1] == _NONE:
        return None
    return SavedState(uuid[1], int(seqno[1]))


def parse_position(text: str) -> SavedState | None:
    """Return a position as servers log it and take it: `UUID:SEQNO`, maybe with a GTID behind; None for none."""
    found = _POSITION.fullmatch(text.strip())
    if not found or found[1] == _NONE or int(found[2]) < 0:
        return None
    return SavedState(found[1], int(found[2]))


def says_safe(text: str) -> bool:
    """Return whether a `grastate.dat` says that its node was the last to leave its cluster."""
    return bool(_SAFE.search(text))


@dataclass(frozen=True, slots=True)
class PrimaryView:
    """A Primary component that a node was a member of; all its members wrote down the same one."""

    representative: str
    sequence: int
    members: frozenset[str]


def parse_view(text: str) -> PrimaryView | None:
    """Return the component in a `gvwstate.dat`; None for a file that is missing, empty or torn."""
    head = re.search(r"^view_id: 3 (\S+) (\d+)$", text, re.MULTILINE)
    members = re.findall(r"^member: (\S+) \d+$", text, re.MULTILINE)
    if head is None or not members or "#vwend" not in text:
        return None
    return PrimaryView(
        _without_counter(head[1]), int(head[2]), frozenset(_without_counter(each) for each in members)
    )


def parse_identity(text: str) -> str | None:
    """Return the name that a node had in the component of its `gvwstate.dat`."""
    found = _IDENTITY.search(text)
    return _without_counter(found[1]) if found else None


def _without_counter(uuid: str) -> str:
    """Return a node's UUID without its fourth group, which Galera counts up at each start."""
    groups = uuid.split("-")
    return "-".join(groups[:3] + groups[4:])


def state_text(state: SavedState, *, safe_to_bootstrap: bool) -> str:
    """Return a `grastate.dat` as Galera writes it (Galera source, galera/src/saved_state.cpp)."""
    return (
        f"# GALERA saved state\nversion: 2.1\nuuid:    {state.uuid}\nseqno:   {state.seqno}\n"
        f"safe_to_bootstrap: {int(safe_to_bootstrap)}\n"
    )


def view_text(identity: str, members: Iterable[str]) -> str:
    """Return a `gvwstate.dat`: the node `identity` was in a Primary component of these members (Galera manual).

    Nodes that all find such a file, and name each other, form that component again: without a donor.
    """
    ordered = sorted(members)  # Galera orders UUIDs by their bytes; the lowest represents the view
    lines = (
        f"my_uuid: {identity}",
        "#vwbeg",
        f"view_id: 3 {ordered[0]} 1",
        "bootstrap: 0",
        *(f"member: {member} 0" for member in ordered),
        "#vwend",
    )
    return "".join(f"{line}\n" for line in lines)


def furthest(states: Iterable[tuple[str, SavedState | None]]) -> str | None:
    """Return the name of the stopped node that holds all that was ever committed; None when that is not certain.

    Certain it is when every node was stopped cleanly within one history: then it is the one with the highest seqno.
    """
    known = list(states)
    whole = [(name, state) for name, state in known if state is not None and state.is_clean]
    if not known or len(whole) != len(known) or len({state.uuid for _, state in whole}) != 1:
        return None
    return max(whole, key=lambda each: each[1].seqno)[0]
