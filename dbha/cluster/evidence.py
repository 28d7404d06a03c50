"""What is known of every member of a cluster that may be down, by its server and by its host.

Being unknown is a value here.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from dbha.cluster.handle import Cluster, side_by_side
from dbha.cluster.home import timeline_chain
from dbha.cluster.observe import observe, observe_settled
from dbha.cluster.saved_state import (
    PrimaryView,
    SavedState,
    parse_identity,
    parse_position,
    parse_state,
    parse_view,
    says_safe,
)
from dbha.cluster.state import PRIMARY, NodeState
from dbha.errors import DbhaError, UnreachableError
from dbha.inventory import Node
from dbha.transport.sent_program import SentProgram

PROGRAM = SentProgram(("dbha.cluster.member_program",))
_LOOK_WITHIN_S = 2000.0  # a storage engine that recovers first
_ACT_WITHIN_S = 120.0
_SQL_WITHIN_S = 5.0
_OBSERVE_WITHIN_S = 3.0

Answer = Mapping[str, Any]


class MemberProblemError(DbhaError):
    """A host did not do what it was asked to; the message has its words."""


@dataclass(frozen=True, slots=True)
class Member:
    """One member. `problem` is why its host says nothing; then all that follows is empty.

    `position` is how far its storage engine is, of a server that runs and does not answer where it was started;
    of one that answers, what it says itself. `timeline` are the identities that its data came through, as dbha
    wrote them down beside it; the last is the one it belongs to.
    """

    state: NodeState
    problem: str = ""
    runs: bool = False
    is_frozen: bool = False
    is_transferring: bool = False
    has_data: bool = False
    markers: tuple[str, ...] = ()
    saved: SavedState | None = None
    safe_to_bootstrap: bool = False
    identity: str | None = None
    view: PrimaryView | None = None
    has_torn_view: bool = False
    position: SavedState | None = None
    position_problem: str = ""
    timeline: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The node's name."""
        return self.state.name

    @property
    def answers(self) -> bool:
        """Whether its server answers."""
        return self.state.reachable

    @property
    def hangs(self) -> bool:
        """Whether its server runs, takes connections and says nothing: nobody knows what it knows."""
        silent = self.runs and not self.answers and not self.state.is_refusing
        return silent and (self.is_frozen or "refused" not in self.state.error.lower())

    @property
    def waits(self) -> bool:
        """Whether its server runs and does not take connections yet: it waits for other members, or for its data."""
        return self.runs and not self.answers and not self.hangs and not self.state.is_refusing

    @property
    def was_last(self) -> bool:
        """Whether it was stopped cleanly as the last of its component."""
        return self.safe_to_bootstrap and self.saved is not None and self.saved.is_clean and not self.runs


@dataclass(frozen=True, slots=True)
class Evidence:
    """All members in inventory order; the timelines of the component that lives, if one does, the oldest first."""

    members: tuple[Member, ...]
    timeline: tuple[str, ...] = ()

    def as_json(self) -> list[dict[str, Any]]:
        """Return what was seen, for the journal."""
        return [_as_json(member) for member in self.members]


def gather(cluster: Cluster, *, is_settled: bool = False) -> Evidence:
    """Return what every server and every host says, asked side by side. Never raises for a node or host.

    Waits until nodes that were lost a moment ago are noticed by the others, unless that `is_settled`.

    The storage engine of a stopped server is asked for its position; for that it recovers, as at any start.
    """
    looked = (
        observe(cluster, _OBSERVE_WITHIN_S) if is_settled else observe_settled(cluster, _OBSERVE_WITHIN_S)
    )
    states = {state.name: state for state in looked}
    living = [node for node in cluster.nodes if states[node.name].cluster_status == PRIMARY]
    members = side_by_side(lambda node: _member(cluster, node, states[node.name]), cluster.nodes)
    return Evidence(tuple(members[node.name] for node in cluster.nodes), _living_timeline(cluster, living))


def ask(cluster: Cluster, node: Node, action: str, **request: object) -> Answer:
    """Have a node's host do something, and return its answer.

    Raises TransportError for a host out of reach, MemberProblemError with what it says against it.
    """
    full = {"action": action, "datadir": node.datadir, "defaults_file": node.configuration_file, **request}
    done = cluster.transport(node).run(
        PROGRAM.argv,
        stdin=PROGRAM.source + json.dumps(full).encode() + b"\n",
        timeout_s=_LOOK_WITHIN_S if action == "look" else _ACT_WITHIN_S,
    )
    try:
        answer: Answer = json.loads(done.stdout)
    except ValueError as error:
        words = done.stderr.decode(errors="replace").strip()[-300:]
        raise MemberProblemError(f"{node}: its host did not answer: {words or done.returncode}") from error
    if problem := answer.get("problem"):
        raise MemberProblemError(f"{node}: {problem}")
    return answer


def parse_member(state: NodeState, answer: Answer) -> Member:
    """Return the member that a server's state and its host's answer describe."""
    saved = parse_state(answer["state"])
    view = parse_view(answer["view"])
    runs = bool(answer["pids"])
    if state.reachable:
        position = _told(state)
    else:
        position = parse_position(answer["start_position"] if runs else answer["position"])
    return Member(
        state,
        runs=runs,
        is_frozen=answer["is_frozen"],
        is_transferring=answer["is_transferring"],
        has_data=answer["has_data"],
        markers=tuple(answer["markers"]),
        saved=saved,
        safe_to_bootstrap=says_safe(answer["state"]),
        identity=parse_identity(answer["view"]),
        view=view,
        has_torn_view=answer["has_view"] and view is None,
        position=position,
        position_problem=answer["position_problem"],
        timeline=tuple(line.split()[0] for line in answer["timeline"].splitlines() if line.strip()),
    )


def _told(state: NodeState) -> SavedState | None:
    if state.cluster_state_uuid is None or state.last_committed is None:
        return None
    return SavedState(state.cluster_state_uuid, state.last_committed)


def _member(cluster: Cluster, node: Node, state: NodeState) -> Member:
    try:
        return parse_member(state, ask(cluster, node, "look", recover=True))
    except (UnreachableError, MemberProblemError) as error:
        return Member(state, problem=str(error))


def _living_timeline(cluster: Cluster, living: list[Node]) -> tuple[str, ...]:
    for node in living:
        try:
            with cluster.session(node, read_timeout_s=_SQL_WITHIN_S) as session:
                return timeline_chain(session)
        except DbhaError:
            continue
    return ()


def _as_json(member: Member) -> dict[str, Any]:
    known = asdict(member)
    state = known.pop("state")
    told = (
        "name",
        "reachable",
        "error",
        "cluster_status",
        "local_state_comment",
        "last_committed",
        "version",
    )
    view = known.pop("view")
    return {
        **{name: state[name] for name in told},
        **known,
        "view": None if view is None else {**view, "members": sorted(view["members"])},
    }
