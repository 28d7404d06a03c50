"""Members of a cluster that is down, for tests of what is decided about them."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from dbha.cluster.evidence import Evidence, Member
from dbha.cluster.saved_state import PrimaryView, SavedState
from dbha.cluster.state import NodeState

HISTORY, FOREIGN = "11111111-0000-11f1-0000-000000000000", "22222222-0000-11f1-0000-000000000000"
NOW = datetime(2026, 11, 24, 3, 0, tzinfo=UTC)
REFUSED = "Can't connect to MySQL server on '10.0.0.1' ([Errno 111] Connection refused)"


def view(*names: str, sequence: int = 7) -> PrimaryView:
    """A Primary component of these members, whose identity is their name here."""
    return PrimaryView(names[0], sequence, frozenset(names))


ALL = view("a", "b", "c")


def silent(name: str, error: str = REFUSED) -> NodeState:
    return NodeState(name, "10.0.0.1", 3306, False, NOW, error=error)


def serving(name: str, seqno: int = 100, *, size: int = 3, conf_id: int = 9) -> Member:
    """A Synced member of a Primary component."""
    state = NodeState(
        name, "10.0.0.1", 3306, True, NOW, cluster_status="Primary", local_state=4, local_state_comment="Synced",
        ready=True, connected=True, cluster_state_uuid=HISTORY, conf_id=conf_id, cluster_size=size,
        last_committed=seqno, receive_queue=0, version="10.11.19-MariaDB",
    )  # fmt: skip
    return Member(state, runs=True, has_data=True, position=SavedState(HISTORY, seqno))


def alone(name: str, seqno: int = 100, *, version: str = "10.11.19-MariaDB", **known: Any) -> Member:
    """A member that lost its quorum."""
    state = NodeState(
        name, "10.0.0.1", 3306, True, NOW, cluster_status="non-Primary", local_state=0,
        local_state_comment="Initialized", connected=True, cluster_state_uuid=HISTORY, cluster_size=1,
        last_committed=seqno, version=version,
    )  # fmt: skip
    member = Member(
        state, runs=True, has_data=True, saved=SavedState(HISTORY, -1), identity=name, view=ALL,
        position=SavedState(HISTORY, seqno),
    )  # fmt: skip
    return replace(member, **known)


def killed(name: str, seqno: int = 100, *, uuid: str = HISTORY, **known: Any) -> Member:
    """A member whose server was killed in the component of all."""
    member = Member(
        silent(name), has_data=True, saved=SavedState(uuid, -1), identity=name, view=ALL,
        position=SavedState(uuid, seqno),
    )  # fmt: skip
    return replace(member, **known)


def stopped(name: str, seqno: int = 100, *, last: bool = False, uuid: str = HISTORY, **known: Any) -> Member:
    """A member whose server was stopped cleanly."""
    position = SavedState(uuid, seqno)
    member = Member(silent(name), has_data=True, saved=position, safe_to_bootstrap=last, position=position)
    return replace(member, **known)


def half_copied(name: str, seqno: int = 100_000) -> Member:
    """A member whose state transfer was cut off: it claims what its donor had."""
    return killed(name, seqno, saved=None, markers=("sst_in_progress",), view=None, identity=None)


def empty(name: str) -> Member:
    return Member(silent(name))


def unreachable(name: str) -> Member:
    return Member(silent(name, "timed out"), problem=f"cannot connect to {name} port 22: timed out")


def waiting(name: str, seqno: int = 100, **known: Any) -> Member:
    """A member whose server was started, and waits for the others."""
    return replace(killed(name, seqno, runs=True), **known)


def seen(*members: Member, timeline: tuple[str, ...] = ()) -> Evidence:
    return Evidence(members, timeline)
