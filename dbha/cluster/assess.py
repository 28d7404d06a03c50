"""The one judgement of a cluster that everything else uses: what is wrong, who serves, who is the writer.

A node's own word is not proof. A node that was frozen and let go on answers `Primary`, `Synced`, `ready` for
about six seconds while the others have gone on without it. What gives it away is its view: the triple
(`cluster_state_uuid`, `conf_id`, `cluster_size`) is the same on all members of one Primary component, and a
view that says three members is refuted when two of them say something else. So a node serves only if it is
well by its own word and stands in the view that the evidence supports.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from dbha.cluster.state import DONOR, PRIMARY, SYNCED, NodeState

Level = Literal["healthy", "degraded", "unsafe", "down"]

_JOINING = (1, 3)  # Joining and Joined: such a node may still show the view that it had before


class View(NamedTuple):
    """What the members of one Primary component agree on."""

    uuid: str
    conf_id: int
    size: int

    def __str__(self) -> str:
        return f"configuration {self.conf_id} with {_members(self.size)}"


Claims = Mapping[View, Sequence[str]]  # each view, and the names of the nodes that say they have it


@dataclass(frozen=True, slots=True)
class NodeVerdict:
    """What is thought of one node; `why` says why it does not serve, or what is odd about one that does."""

    name: str
    state: str
    synced: bool
    view_agrees: bool
    serves: bool
    why: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is thought of the cluster.

    healthy: every expected node serves. degraded: some do. down: none does. unsafe: more than one history or
    Primary component is alive, and nobody may change anything; a component that holds a majority still serves.
    `writer` is the node that clients should write to. `may_write` says that there is one and that the cluster
    may be changed through it.
    """

    level: Level
    reasons: tuple[str, ...]
    nodes: tuple[NodeVerdict, ...]
    writer: str | None
    may_write: bool

    @property
    def serving(self) -> tuple[str, ...]:
        """The names of the nodes that serve, in inventory order."""
        return tuple(node.name for node in self.nodes if node.serves)


def assess(states: Sequence[NodeState], *, expected: int | None = None) -> Verdict:
    """Return the verdict on the nodes of one cluster, given in inventory order.

    `expected` is the number of members that the cluster should have, None for as many as there are states;
    it is larger where an arbitrator takes part. Reasons are sentences, the most severe first; a healthy
    cluster has none.
    """
    wanted = len(states) if expected is None else expected
    claims = _claims(states)
    standing = _standing(states, claims, wanted)
    view = _believed(claims, standing, wanted)
    conflicts = _conflicts(claims, standing)
    nodes = _judge_all(states, view)
    writer = next((node.name for node in nodes if node.serves), None)
    reasons = (
        *conflicts,
        *(_outage(states, claims) if writer is None and not conflicts else ()),
        *(f"{node.name} {node.why}" for node in nodes if node.why),
        *(_of_size(states, claims, view, wanted) if view else ()),
    )
    level = _level(conflicts, writer, reasons)
    return Verdict(level, reasons, nodes, writer, may_write=writer is not None and not conflicts)


def _level(conflicts: Sequence[str], writer: str | None, reasons: Sequence[str]) -> Level:
    if conflicts:
        return "unsafe"
    if writer is None:
        return "down"
    return "degraded" if reasons else "healthy"


def _view(state: NodeState) -> View | None:
    """Return the view of a node that says it is in a Primary component."""
    if not state.reachable or state.cluster_status != PRIMARY:
        return None
    if state.cluster_state_uuid is None or state.conf_id is None or state.cluster_size is None:
        return None
    return View(state.cluster_state_uuid, state.conf_id, state.cluster_size)


def _claims(states: Sequence[NodeState]) -> Claims:
    claims: dict[View, list[str]] = defaultdict(list)
    for state in states:
        if (view := _view(state)) is not None and state.local_state not in _JOINING:
            claims[view].append(state.name)
    return claims


def _standing(states: Sequence[NodeState], claims: Claims, wanted: int) -> dict[View, int]:
    """Return the views that are not refuted, each with how many nodes may be its members.

    Those that claim a view may be members, and those of which nobody knows: silent, joining, or outside of the
    inventory. A node that answered something else is not one. A view without a possible majority of its own
    members has no quorum any more, and a view with more members than it counts is two components that look alike.
    """
    unknown = sum(not state.reachable or state.local_state in _JOINING for state in states)
    possible = {
        view: len(names) + unknown + max(0, view.size - len(states), wanted - len(states))
        for view, names in claims.items()
    }
    return {
        view: members
        for view, members in possible.items()
        if members * 2 > view.size and len(claims[view]) <= view.size
    }


def _complete(standing: Mapping[View, int]) -> list[View]:
    """Return the views that may have all the members they count; of one history there should be one."""
    return [view for view, members in standing.items() if members >= view.size]


def _believed(claims: Claims, standing: Mapping[View, int], wanted: int) -> View | None:
    """Return the view that the evidence supports, or None.

    Within one history the newest is right, for `conf_id` grows with each Primary component. Where several
    components may be alive that says nothing, and only one with a majority of the wanted nodes is believed.
    """
    if len(_complete(standing)) > 1 or len({view.uuid for view in claims}) > 1:
        return next((view for view in standing if len(claims[view]) * 2 > wanted), None)
    return max(standing, key=lambda view: view.conf_id, default=None)


def _conflicts(claims: Claims, standing: Mapping[View, int]) -> tuple[str, ...]:
    """Return why nothing may be changed: two histories, or two Primary components of one."""
    told = "; ".join(f"{_and(names)} with {one}" for one, names in claims.items())
    if len({one.uuid for one in claims}) > 1:
        told = "; ".join(f"{_and(names)} of cluster {one.uuid}" for one, names in claims.items())
        return (f"two histories are alive: {told}; what was written to one is not in the other",)
    for one, names in claims.items():
        if len(names) > one.size:
            return (
                f"{_and(names)} are {len(names)} nodes, but each counts {_members(one.size)}: "
                "two Primary components are alive and their data drifts apart",
            )
    if len(_complete(standing)) > 1:
        return (f"two Primary components seem to be alive, and their data would drift apart: {told}",)
    return ()


def _judge_all(states: Sequence[NodeState], view: View | None) -> tuple[NodeVerdict, ...]:
    """Return the verdict on each node; a donor serves only where no Synced node does."""
    nodes = tuple(_judge(state, view, accept_donor=False) for state in states)
    if any(node.serves for node in nodes):
        return nodes
    return tuple(_judge(state, view, accept_donor=True) for state in states)


def _judge(state: NodeState, view: View | None, *, accept_donor: bool) -> NodeVerdict:
    own = _view(state)
    why = _membership_fault(state, own, view) or _duty_fault(state)
    serves = not why
    if serves and (state.local_state == DONOR or state.desynced):
        serves = accept_donor
        why = f"is {_in_words(state)}: it gives a state transfer, or a backup, a lock or wsrep_desync holds it back"
        why += "; it serves because no Synced node does" if accept_donor else ""
    return NodeVerdict(
        name=state.name,
        state=_in_words(state),
        synced=own is not None and state.local_state == SYNCED,
        view_agrees=own is not None and own == view,
        serves=serves,
        why=why,
    )


def _membership_fault(state: NodeState, own: View | None, view: View | None) -> str:
    """Return why the node is no member of the component that is believed, or nothing."""
    if not state.reachable:
        return state.error.removeprefix(state.name).lstrip(": ") or "does not answer"
    if own is None:
        foreign = view and state.cluster_state_uuid and state.cluster_state_uuid != view.uuid
        return f"is {_in_words(state)}: it is in no Primary component and refuses queries" + (
            f"; its data is of another history, cluster {state.cluster_state_uuid}" if foreign else ""
        )
    return _view_fault(state, own, view) if own != view else ""


def _view_fault(state: NodeState, own: View, view: View | None) -> str:
    """Return why the node's view is not to be trusted."""
    if view is None:
        return f"has a view, {own}, that cannot be believed beside what the other nodes say"
    if own.uuid != view.uuid:
        return f"belongs to another history, cluster {own.uuid} with {_members(own.size)}"
    if state.local_state in _JOINING:
        return f"is {_in_words(state)} and not yet a member of {view}"
    return (
        f"calls itself {_in_words(state)} but has another view of the cluster than the others "
        f"({own}, not {view}): it may serve stale data"
    )


def _duty_fault(state: NodeState) -> str:
    """Return why a member cannot take reads and writes, or nothing. Being a donor is judged apart."""
    if state.local_state not in (SYNCED, DONOR):
        return f"is {_in_words(state)} and not yet Synced"
    if not (state.ready and state.connected):
        return f"is {_in_words(state)} but not ready for queries (wsrep_ready or wsrep_connected is OFF)"
    if state.rejects_queries:
        return "rejects queries: wsrep_reject_queries is set"
    if state.read_only:
        return "is read only: read_only is set"
    return ""


def _outage(states: Sequence[NodeState], claims: Claims) -> tuple[str, ...]:
    answering = [state.name for state in states if state.reachable]
    if not answering:
        return ("no node answers",)
    if not claims:
        return (f"no node is in a Primary component: {_and(answering)} cannot know what the others wrote",)
    return (f"no node serves, though {_and(answering)} answered",)


def _of_size(states: Sequence[NodeState], claims: Claims, view: View, wanted: int) -> tuple[str, ...]:
    """Return what is odd about the number of members, as far as the nodes' own faults do not explain it."""
    silent = [state.name for state in states if not state.reachable]
    joining = sum(state.reachable and state.local_state in _JOINING for state in states)
    counted = min(len(silent), view.size - len(claims[view]) - joining)
    found = []
    if counted > 0:
        which = _and(silent) if counted == len(silent) else f"{counted} of {_and(silent)}"
        found.append(
            f"the cluster still counts {which}: failed seconds ago, in a state transfer, or cut off from here only"
        )
    if view.size > wanted:
        stranger = "; one is not in the inventory" if view.size > len(states) else ""
        found.append(f"the cluster has {_members(view.size)}, expected are {wanted}{stranger}")
    elif view.size < wanted and len(claims[view]) == len(states):
        found.append(f"the cluster has {_members(view.size)}, expected are {wanted}: is the arbitrator down?")
    return tuple(found)


def _in_words(state: NodeState) -> str:
    """Return the state in Galera's words."""
    if not state.reachable:
        return "unreachable"
    if state.cluster_status != PRIMARY:
        return state.cluster_status or "not a Galera node"
    return state.local_state_comment or "in no state"


def _members(size: int) -> str:
    return "1 member" if size == 1 else f"{size} members"


def _and(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
