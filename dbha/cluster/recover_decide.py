"""Which member a cluster that is down begins from, and how the others come back; or why nobody may say. Pure.

Most data loss in this field comes from a tool that chose the wrong node. So what speaks against a node comes before
any numbers are compared: half of a state transfer claims the highest of all. A member of which nothing is known stops
everything, unless it is accepted by name; waiting longer never makes a choice easier. Two bootstraps of one state
share their UUID and overlap in numbers, and would be merged without an error: they are told by other signs.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from dbha.cluster.assess import Verdict, assess
from dbha.cluster.evidence import Evidence, Member
from dbha.cluster.saved_state import PrimaryView
from dbha.errors import UnreachableError, UnsafeError, UsageError

Way = Literal["nothing", "join", "promote", "reform", "force"]

_FEW = "a few numbers are changes of membership"
RUNBOOK = "docs/runbooks/recover-refused.md"
_PROMOTES_BEFORE = (11, 2)  # dynamic pc.bootstrap is not dependable from this series on (MDEV-32800)


@dataclass(frozen=True, slots=True)
class Join:
    """A member that comes back to the others; `afresh` is why its data is moved aside for a full transfer."""

    name: str
    afresh: str = ""


@dataclass(frozen=True, slots=True)
class Decision:
    """What will be done. `first` make the Primary component; where `way` is `reform`, Galera gets the chance to make
    it of them. `chosen` is the one that a new cluster is formed on when that has to be."""

    way: Way
    first: tuple[str, ...] = ()
    chosen: str = ""
    joins: tuple[Join, ...] = ()
    left_alone: tuple[tuple[str, str], ...] = ()
    missing: tuple[str, ...] = ()
    why: tuple[str, ...] = ()


class ForkedError(UnsafeError):
    """Two members went on from one state without each other: what one wrote is not in the other."""

    def __init__(self, message: str) -> None:
        super().__init__(
            f"the history is forked: {message}. They would be merged without an error, and rows be lost",
            hint=f"{RUNBOOK}#the-history-is-forked     which one to keep, and how",
        )


def decide(evidence: Evidence, *, accept_missing: Sequence[str] = ()) -> Decision:
    """Return what to do.

    Raises UsageError for a node that is none, UnreachableError when a member is unknown and not accepted,
    UnsafeError when it is not certain who holds everything.
    """
    members = evidence.members
    verdict = assess([member.state for member in members], expected=len(members))
    _require_admitted(members)
    if verdict.level == "unsafe":
        raise UnsafeError(
            f"the cluster is unsafe: {'; '.join(verdict.reasons)}", hint="docs/runbooks/cluster-unsafe.md"
        )
    known = _known(members, verdict, accept_missing)
    missing = tuple(member.name for member in members if member.name in accept_missing)
    primary = [node.name for node in verdict.nodes if node.view_agrees]
    decision = _join(known, primary, evidence.timeline) if primary else _begin(known)
    return Decision(
        decision.way,
        decision.first,
        decision.chosen,
        decision.joins,
        decision.left_alone,
        missing,
        decision.why,
    )


# --- what is known at all ----------------------------------------------------------------------------------


def _require_admitted(members: Iterable[Member]) -> None:
    if refusing := [member.state.error for member in members if member.state.is_refusing]:
        raise UnreachableError(
            "; ".join(refusing),
            hint="set the password of the administrator that the servers have now, then try again",
        )


def _known(members: Sequence[Member], verdict: Verdict, accepted: Sequence[str]) -> list[Member]:
    """Return the members that something is known of: all, but for those that are accepted as missing."""
    if unknown := sorted(set(accepted) - {member.name for member in members}):
        raise UsageError(
            f"no node is called {', '.join(unknown)}; there are {', '.join(member.name for member in members)}"
        )
    agree = {node.name for node in verdict.nodes if node.view_agrees}
    silent = {
        member.name: member.problem for member in members if member.problem and member.name not in agree
    }
    if there := [name for name in accepted if name not in silent]:
        raise UnsafeError(
            f"{_and(there)} accepted as missing, and can be asked: what it knows counts",
            hint="dbha cluster recover --dry-run     without it",
        )
    if needed := {name: why for name, why in silent.items() if name not in accepted}:
        flags = " ".join(f"--accept-missing {name}" for name in needed)
        raise UnreachableError(
            "not every member can be asked, and one of them may hold the most: "
            + "; ".join(f"{name}: {why}" for name, why in needed.items()),
            hint=f"bring {_and(list(needed))} back. If that cannot be, and what only they have may be lost:\n"
            f"dbha cluster recover {flags}\n{RUNBOOK}#a-member-cannot-be-asked",
        )
    return [member for member in members if member.name not in accepted]


# --- a Primary component lives -----------------------------------------------------------------------------


def _join(known: Sequence[Member], primary: Sequence[str], timeline: Sequence[str]) -> Decision:
    """Return who is to join the component that lives: never a bootstrap beside it."""
    inside = [member for member in known if member.name in primary]
    outside = [member for member in known if member.name not in primary]
    joins, left_alone = [], []
    for member in outside:
        if member.answers or member.hangs:
            left_alone.append((member.name, _why_alone(member)))
        else:
            joins.append(Join(member.name, _why_afresh(member, inside, timeline, outside)))
    why = [f"{_and(primary)} are a Primary component: nothing is bootstrapped, what is missing joins it"]
    if len(primary) == 1:
        why = [f"{primary[0]} is a Primary component: nothing is bootstrapped, what is missing joins it"]
    why += [
        f"{join.name}: {join.afresh}; it gets a full transfer, its data is moved aside"
        for join in joins
        if join.afresh
    ]
    why += [f"{name} is left alone: it {reason}" for name, reason in left_alone]
    way: Way = "join" if joins else "nothing"
    return Decision(way, tuple(primary), joins=_in_order(joins), left_alone=tuple(left_alone), why=tuple(why))


def _why_alone(member: Member) -> str:
    if member.is_frozen:
        return "is frozen (SIGSTOP, or a debugger)"
    if member.hangs:
        return f"runs and does not answer: {member.state.error}"
    return (
        f"runs and is {member.state.local_state_comment or member.state.cluster_status}, beside the component:"
        " it joins by itself when it reaches the others"
    )


def _why_afresh(
    member: Member, inside: Sequence[Member], timeline: Sequence[str], outside: Sequence[Member]
) -> str:
    """Return why the member cannot catch up with what it has, or nothing. Raises ForkedError."""
    if member.waits:
        return ""  # it runs: whatever it gets, it gets already
    reasons = vetoes(member)
    _require_no_fork_beside(member, inside, timeline, outside, is_believed=not reasons)
    if reasons:
        return reasons[0]
    living = next((one.position for one in inside if one.position is not None), None)
    if member.position and living and member.position.uuid != living.uuid:
        return f"its data is of another history, {member.position.uuid}"
    if member.timeline and timeline and member.timeline[-1] != timeline[-1]:
        return f"its data is of an older timeline, {member.timeline[-1]}"
    return ""


def _require_no_fork_beside(
    member: Member,
    inside: Sequence[Member],
    timeline: Sequence[str],
    outside: Sequence[Member],
    *,
    is_believed: bool,
) -> None:
    """Raise ForkedError for signs that the member went on without the component that lives."""
    if member.timeline and timeline:
        if member.timeline[-1] not in timeline:
            raise ForkedError(
                f"{member.name} is of timeline {member.timeline[-1]}, unknown to those that serve"
            )
        if member.timeline[-1] != timeline[-1]:
            return  # dbha went on without it, and whoever asked for that was told
    if member.was_last and not _is_foreign(member, inside):
        raise ForkedError(f"{member.name} was the last to stop of a component of its own, and others serve")
    if _is_whole(member.view, [one for one in outside if not one.answers]) and not _is_foreign(
        member, inside
    ):
        raise ForkedError(f"all members of {member.name}'s last component are down, and others serve")
    furthest = max((_seqno(one) for one in inside), default=-1)
    if is_believed and _seqno(member) > furthest >= 0 and not _is_foreign(member, inside):
        raise ForkedError(f"{member.name} is at {_seqno(member)}, beyond {furthest} of those that serve")


def _is_foreign(member: Member, inside: Sequence[Member]) -> bool:
    """Return whether the member's data is of another history, which nothing is ever merged with."""
    known = member.position or member.saved
    return known is not None and any(one.position and one.position.uuid != known.uuid for one in inside)


# --- no Primary component lives ----------------------------------------------------------------------------


def vetoes(member: Member) -> tuple[str, ...]:
    """Return what forbids to believe a member's position, whatever it is; nothing when it may be compared."""
    if member.answers:
        return () if member.position else ("its server does not say how far it is",)
    reasons = []
    if member.markers:
        reasons.append(
            f"a state transfer was cut off in the middle ({', '.join(member.markers)}): its data is half a copy"
        )
    elif member.is_transferring:
        reasons.append("it is in the middle of a state transfer")
    if not member.has_data:
        reasons.append("it has no data")
    elif member.saved is None:
        reasons.append(
            "its grastate.dat is missing, empty or nonsense, as after a state transfer that was cut off"
        )
    elif member.position_problem:
        reasons.append(f"its position cannot be recovered: {member.position_problem}")
    elif member.position is None:
        reasons.append("its storage engine knows no position")
    elif member.position.uuid != member.saved.uuid:
        reasons.append(
            f"its grastate.dat is of history {member.saved.uuid}, its data of {member.position.uuid}"
        )
    elif member.saved.is_clean and not member.runs and member.saved.seqno != member.position.seqno:
        reasons.append(
            f"its grastate.dat says {member.saved.seqno}, its storage engine {member.position.seqno}"
        )
    return tuple(reasons)


def _begin(known: Sequence[Member]) -> Decision:
    """Return who makes the Primary component. Raises UnsafeError when that is not certain."""
    if hanging := [member for member in known if member.hangs]:
        raise UnsafeError(
            "; ".join(f"{member.name} {_why_alone(member)}" for member in hanging)
            + ": what it knows is not known",
            hint=f"dbha cluster recover     once it goes on (kill -CONT), or has ended\n{RUNBOOK}#a-server-hangs",
        )
    against = {member.name: vetoes(member) for member in known}
    _veto_older_timelines(known, against)
    candidates = [member for member in known if not against[member.name]]
    _require_one_history(known, candidates, against)
    complete = {view for member in known if (view := member.view) and _is_whole(view, known)}
    _require_no_fork(known, candidates, complete)
    chosen = _furthest(candidates)
    assert chosen.position is not None
    why = [f"{name}: {reasons[0]}: not to begin from" for name, reasons in against.items() if reasons]
    others = [member for member in known if member is not chosen]
    members = [
        member for member in candidates if member.view in complete and _is_whole(member.view, candidates)
    ]
    ahead = "; ".join(f"{one.name} at {one.position.seqno}" for one in candidates if one.position)
    if chosen.answers and _can_promote(chosen):
        why.append(
            f"{chosen.name} is alive, outside of a Primary component, and nobody is ahead of it ({ahead})"
        )
        return Decision("promote", (chosen.name,), chosen.name, _joins(others, against), why=tuple(why))
    if len(members) > 1 and chosen in members:
        names = tuple(member.name for member in members)
        why += [
            f"{_and(names)} are all members of the last Primary component: Galera restores it when they start",
            f"if it does not, {chosen.name} is the furthest ({ahead}); {_FEW}",
        ]
        rest = [member for member in known if member not in members]
        return Decision("reform", names, chosen.name, _joins(rest, against), why=tuple(why))
    why.append(_why_chosen(chosen, candidates, ahead))
    return Decision("force", (chosen.name,), chosen.name, _joins(others, against), why=tuple(why))


def _why_chosen(chosen: Member, candidates: Sequence[Member], ahead: str) -> str:
    if len(candidates) == 1:
        return f"{chosen.name} is the only one to begin from ({ahead})"
    reason = "it was the last to stop" if chosen.was_last else "nobody is ahead of it"
    return f"{chosen.name} begins: {reason} ({ahead}); {_FEW}"


def _veto_older_timelines(known: Sequence[Member], against: dict[str, tuple[str, ...]]) -> None:
    """Add what speaks against members of older timelines to `against`. Raises ForkedError.

    Also one whose data cannot be believed tells that there was a newer timeline.
    """
    newest = max((member.timeline for member in known), key=len, default=())
    for member in known:
        own = member.timeline
        if own and own[-1] not in newest:
            raise ForkedError(
                f"{member.name} is of timeline {own[-1]}, others of {newest[-1]}, and neither came first"
            )
        if own and own[-1] != newest[-1]:
            against[member.name] += (f"its data is of an older timeline, {own[-1]}",)


def _require_one_history(
    known: Sequence[Member], candidates: Sequence[Member], against: dict[str, tuple[str, ...]]
) -> None:
    """Raise UnsafeError when there is nobody to begin from, or when a human has to say which history counts."""
    if not candidates:
        told = "; ".join(f"{name}: {'; '.join(reasons)}" for name, reasons in against.items())
        raise UnsafeError(
            f"there is no member to begin from: {told}",
            hint=f"{RUNBOOK}#no-member-to-begin-from\ndbha restore ID     the whole cluster, from a backup",
        )
    uuids = {
        member.name: found.uuid for member in known
        if (found := member.position or member.saved) and not _is_older(member, known)
    }  # fmt: skip
    if len(set(uuids.values())) > 1:
        raise UnsafeError(
            "the members are of different histories, and which one counts is for a human to say: "
            + "; ".join(f"{name} of {uuid}" for name, uuid in uuids.items()),
            hint=f"{RUNBOOK}#different-histories",
        )


def _is_older(member: Member, known: Sequence[Member]) -> bool:
    newest = max((one.timeline for one in known), key=len, default=())
    return bool(member.timeline) and member.timeline[-1] != newest[-1]


def _require_no_fork(
    known: Sequence[Member], candidates: Sequence[Member], complete: set[PrimaryView]
) -> None:
    """Raise ForkedError for signs that two parts of the cluster went on without each other.

    A component whose members were all killed was never gone on from; a node that stopped last was the end of its
    component. There can be only one of all of these. Members of older timelines do not count: dbha went on without.
    """
    present = [member for member in known if not _is_older(member, known)]
    last = [member for member in present if member.was_last]
    ends = [f"{member.name} was the last to stop of a component" for member in last]
    for view in sorted(complete, key=lambda each: (each.sequence, each.representative)):
        if names := [member.name for member in present if member.view == view]:
            were = "was" if len(names) == 1 else "were"
            ends.append(f"{_and(names)} {were} a whole component, and {were} killed")
    if len(ends) > 1:
        raise ForkedError("; ".join(ends))
    for member in candidates:
        if any(_seqno(member) > _seqno(one) for one in last):
            raise ForkedError(f"{ends[0]}, and {member.name} went on beyond it")
    for member in known:
        if member not in candidates and not vetoes(member) and _seqno(member) > max(map(_seqno, candidates)):
            raise ForkedError(
                f"{member.name} is of an older timeline, and at {_seqno(member)} beyond all others"
            )


def _is_whole(view: PrimaryView | None, members: Iterable[Member]) -> bool:
    """Return whether all members of a component are among these, with that component as their last."""
    return view is not None and view.members <= {each.identity for each in members if each.view == view}


def _furthest(candidates: Sequence[Member]) -> Member:
    """Return the member to begin from: the furthest; among equals one that was last, one that is alive, the first."""
    return max(candidates, key=lambda each: (_seqno(each), each.was_last, each.answers))


def _seqno(member: Member) -> int:
    return member.position.seqno if member.position else -1


def _can_promote(member: Member) -> bool:
    series = re.match(r"(\d+)\.(\d+)", member.state.version)
    return series is not None and (int(series[1]), int(series[2])) < _PROMOTES_BEFORE


def _joins(others: Iterable[Member], against: dict[str, tuple[str, ...]]) -> tuple[Join, ...]:
    return _in_order([Join(member.name, next(iter(against[member.name]), "")) for member in others])


def _in_order(joins: Iterable[Join]) -> tuple[Join, ...]:
    """Return those first that only catch up: each of them makes the cluster safer at once."""
    by_need: Callable[[Join], bool] = lambda join: bool(join.afresh)  # noqa: E731
    return tuple(sorted(joins, key=by_need))


def _and(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
