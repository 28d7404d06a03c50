"""Who a cluster that is down begins from. Each row is a night that somebody had."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbha.cluster.assess import assess
from dbha.cluster.evidence import Evidence, Member
from dbha.cluster.recover_decide import Decision, ForkedError, Join, decide, vetoes
from dbha.cluster.saved_state import SavedState
from dbha.errors import DbhaError, UnreachableError, UnsafeError, UsageError
from tests.unit.any_member import (
    FOREIGN,
    HISTORY,
    alone,
    empty,
    half_copied,
    killed,
    seen,
    serving,
    silent,
    stopped,
    unreachable,
    view,
    waiting,
)

OLD, NEW, OTHER = "timeline-1", "timeline-2", "timeline-3"


def shape(decision: Decision) -> tuple[object, ...]:
    """Return way, first, chosen, and who joins; one that joins afresh has a `*`."""
    joins = " ".join(f"{join.name}{'*' if join.afresh else ''}" for join in decision.joins)
    return decision.way, " ".join(decision.first), decision.chosen, joins


@pytest.mark.parametrize(
    ("evidence", "expected"),
    [
        pytest.param(
            seen(serving("a"), serving("b"), serving("c")), ("nothing", "a b c", "", ""), id="healthy: nothing to do"
        ),
        pytest.param(
            seen(serving("a", size=2), serving("b", size=2), killed("c", 80, view=view("a", "b", "c"))),
            ("join", "a b", "", "c"),
            id="a Primary lives: only the missing one is started",
        ),
        pytest.param(
            seen(serving("a", size=1), half_copied("b"), empty("c")),
            ("join", "a", "", "b* c*"),
            id="a Primary lives: what is half a copy gets a whole one",
        ),
        pytest.param(
            seen(serving("a", size=2), serving("b", size=2), stopped("c", uuid=FOREIGN)),
            ("join", "a b", "", "c*"),
            id="a Primary lives: data of another history is moved aside",
        ),
        pytest.param(
            seen(killed("a", 40), killed("b", 40), killed("c", 39)),
            ("reform", "a b c", "a", ""),
            id="all killed at once: Galera gets its chance, the furthest is the second choice",
        ),
        pytest.param(
            seen(killed("a", 40), killed("b", 41), waiting("c", 39)),
            ("reform", "a b c", "b", ""),
            id="all killed, one was started already and waits",
        ),
        pytest.param(
            seen(killed("a", 90, view=view("a", "b", sequence=9)), killed("b", 91, view=view("a", "b", sequence=9)),
                 killed("c", 40)),
            ("reform", "a b", "b", "c"),
            id="one was killed before the others: it must not be waited for",
        ),
        pytest.param(
            seen(killed("a", 90), killed("b", 91), half_copied("c")),
            ("force", "b", "b", "a c*"),
            id="half a copy claims the highest number: vetoed before any comparison",
        ),
        pytest.param(
            seen(killed("a", 90), killed("b", 91), killed("c", 95, saved=None)),
            ("force", "b", "b", "a c*"),
            id="nonsense in grastate.dat",
        ),
        pytest.param(
            seen(killed("a", 90), killed("b", 91), empty("c")), ("force", "b", "b", "a c*"), id="one lost its disk"
        ),
        pytest.param(
            seen(stopped("a", 265), stopped("b", 267), stopped("c", 269, last=True)),
            ("force", "c", "c", "a b"),
            id="all stopped: the last; a few numbers are no data (M14)",
        ),
        pytest.param(
            seen(stopped("a", 50), stopped("b", 50), stopped("c", 50, last=True)),
            ("force", "c", "c", "a b"),
            id="equal numbers: the one that says it was last",
        ),
        pytest.param(
            seen(stopped("a", 50), stopped("b", 50), stopped("c", 50)),
            ("force", "a", "a", "b c"),
            id="equal numbers and nobody was last: the first of the inventory",
        ),
        pytest.param(
            seen(stopped("a", 60), killed("b", 70, view=view("b", "c", sequence=9)),
                 killed("c", 70, view=view("b", "c", sequence=9))),
            ("reform", "b c", "b", "a"),
            id="one was stopped, the others went on and were killed",
        ),
        pytest.param(
            seen(alone("a", 100), killed("b", 98), killed("c", 99)),
            ("promote", "a", "a", "b c"),
            id="one is alive without quorum and ahead: it goes on",
        ),
        pytest.param(
            seen(alone("a", 100), killed("b", 103), killed("c", 99)),
            ("reform", "a b c", "b", ""),
            id="one is alive and a dead one is ahead: all members of the component start",
        ),
        pytest.param(
            seen(alone("a", 100, version="11.8.3-MariaDB"), killed("b", 98, saved=None), killed("c", 99)),
            ("force", "a", "a", "c b*"),
            id="one is alive, and its version cannot be promoted",
        ),
        pytest.param(
            seen(killed("a", 70, timeline=(OLD,)), killed("b", 80, timeline=(OLD, NEW)), killed("c", 85)),
            ("force", "c", "c", "b a*"),
            id="of an older timeline, and behind",
        ),
    ],
)  # fmt: skip
def test_what_is_done(evidence: Evidence, expected: tuple[object, ...]) -> None:
    assert shape(decide(evidence)) == expected


@pytest.mark.parametrize(
    ("evidence", "error", "words"),
    [
        pytest.param(
            seen(killed("a"), unreachable("b"), killed("c")), UnreachableError, "one of them may hold the most",
            id="a member cannot be asked",
        ),
        pytest.param(
            seen(serving("a", conf_id=9, size=1), serving("b", conf_id=8, size=1), killed("c")), UnsafeError,
            "the cluster is unsafe", id="two components are alive",
        ),
        pytest.param(
            seen(stopped("a", 106, last=True), stopped("b", 102, last=True), killed("c", 100)), ForkedError,
            "a was the last to stop of a component; b was the last", id="forked (M17), both stopped",
        ),
        pytest.param(
            seen(killed("a", 106, view=view("a", sequence=1)), killed("b", 102, view=view("b", sequence=1)),
                 killed("c", 100)), ForkedError,
            "a was a whole component, and was killed", id="forked, both killed",
        ),
        pytest.param(
            seen(stopped("a", 106, last=True), killed("b", 102, view=view("b", sequence=1)), killed("c", 100)),
            ForkedError, "a was the last to stop", id="forked, one stopped and one killed",
        ),
        pytest.param(
            seen(stopped("a", 100, last=True), stopped("b", 110), stopped("c", 90)), ForkedError,
            "b went on beyond it", id="who was last is not the furthest",
        ),
        pytest.param(
            seen(serving("a", 100, size=1), stopped("b", 60, last=True), killed("c", 50)), ForkedError,
            "b was the last to stop", id="forked, one side serves and the other was stopped",
        ),
        pytest.param(
            seen(serving("a", 100, size=1), killed("b", 60, view=view("b", sequence=1)), killed("c", 50)),
            ForkedError, "b's last component", id="forked, one side serves and the other was killed",
        ),
        pytest.param(
            seen(serving("a", 100, size=2), serving("b", 100, size=2), killed("c", 101)), ForkedError,
            "c is at 101, beyond 100", id="a dead one is ahead of those that serve",
        ),
        pytest.param(
            seen(serving("a", size=2), serving("b", size=2), killed("c", 50, timeline=(OLD, OTHER)),
                 timeline=(OLD, NEW)), ForkedError, "timeline-3", id="a timeline that came from elsewhere",
        ),
        pytest.param(
            seen(killed("a", timeline=(OLD, NEW)), killed("b", timeline=(OLD, OTHER)), killed("c")), ForkedError,
            "neither came first", id="two timelines from one",
        ),
        pytest.param(
            seen(killed("a", 90, timeline=(OLD,)), killed("b", 80, timeline=(OLD, NEW)), killed("c", 85)),
            ForkedError,
            "a is of an older timeline, and at 90 beyond", id="of an older timeline, and ahead",
        ),
        pytest.param(
            seen(killed("a", timeline=(OLD,)), replace(half_copied("b"), timeline=(OLD, NEW)), empty("c")),
            UnsafeError,
            "no member to begin from", id="the newer timeline is known of one that cannot be believed",
        ),
        pytest.param(
            seen(killed("a"), killed("b", uuid=FOREIGN), killed("c")), UnsafeError, "different histories",
            id="two histories, and no timeline tells which came first",
        ),
        pytest.param(
            seen(half_copied("a"), empty("b"), killed("c", saved=None)), UnsafeError, "no member to begin from",
            id="none can be believed",
        ),
        pytest.param(
            seen(killed("a"), waiting("b", is_frozen=True), killed("c")), UnsafeError, "b is frozen",
            id="a frozen server",
        ),
        pytest.param(
            seen(killed("a"), killed("b", runs=True, state=silent("b", "no answer within 3 s")), killed("c")),
            UnsafeError, "b runs and does not answer", id="a server that hangs",
        ),
        pytest.param(
            seen(killed("a"), killed("b", state=replace(silent("b", "refused the account"), is_refusing=True)),
                 killed("c")), UnreachableError, "refused the account", id="the password is wrong",
        ),
    ],
)  # fmt: skip
def test_what_is_refused(evidence: Evidence, error: type[DbhaError], words: str) -> None:
    with pytest.raises(error) as caught:
        decide(evidence)
    assert words in str(caught.value)
    assert caught.value.hint


def test_a_missing_member_is_accepted_by_name_alone() -> None:
    evidence = seen(killed("a", 90), unreachable("b"), unreachable("c"))
    with pytest.raises(UnreachableError) as caught:
        decide(evidence, accept_missing=["b"])
    assert "--accept-missing c" in caught.value.hint
    decision = decide(evidence, accept_missing=["b", "c"])
    assert (shape(decision), decision.missing) == (("force", "a", "a", ""), ("b", "c"))
    with pytest.raises(UsageError, match="no node is called d"):
        decide(evidence, accept_missing=["d"])
    with pytest.raises(UnsafeError, match="can be asked"):
        decide(evidence, accept_missing=["a", "b", "c"])


def test_an_old_timeline_comes_back_by_a_full_transfer() -> None:
    member = killed("c", 50, timeline=(OLD,))
    decision = decide(seen(serving("a", size=2), serving("b", size=2), member, timeline=(OLD, NEW)))
    assert decision.joins == (Join("c", f"its data is of an older timeline, {OLD}"),)


def test_one_that_runs_beside_the_component_is_left_alone() -> None:
    decision = decide(seen(serving("a", size=2), serving("b", size=2), alone("c")))
    assert decision.way == "nothing"
    assert [name for name, _ in decision.left_alone] == ["c"]


@pytest.mark.parametrize(
    ("member", "words"),
    [
        (half_copied("a"), "half a copy"),
        (empty("a"), "no data"),
        (killed("a", saved=None), "grastate.dat is missing, empty or nonsense"),
        (killed("a", position=None), "knows no position"),
        (killed("a", position=None, position_problem="exit 1"), "exit 1"),
        (killed("a", saved=SavedState(FOREIGN, -1)), f"grastate.dat is of history {FOREIGN}"),
        (stopped("a", 9, saved=SavedState(HISTORY, 99999)), "says 99999, its storage engine 9"),
    ],
)
def test_what_forbids_to_believe_a_position(member: Member, words: str) -> None:
    assert words in vetoes(member)[0]


# --- properties --------------------------------------------------------------------------------------------

SEQNOS = st.integers(1, 5)
TIMELINES = st.sampled_from([(), (OLD,), (OLD, NEW), (OLD, OTHER)])
VIEWS = st.sampled_from(
    [view("a", "b", "c"), view("a", "b", sequence=9), view("a", sequence=10), view("c", sequence=8)]
)


def members(name: str) -> st.SearchStrategy[Member]:
    return st.one_of(
        st.builds(killed, st.just(name), SEQNOS, timeline=TIMELINES, view=VIEWS),
        st.builds(stopped, st.just(name), SEQNOS, timeline=TIMELINES, last=st.booleans()),
        st.builds(killed, st.just(name), SEQNOS, uuid=st.just(FOREIGN)),
        st.builds(half_copied, st.just(name), st.integers(1, 9)),
        st.builds(alone, st.just(name), SEQNOS),
        st.builds(waiting, st.just(name), SEQNOS, is_frozen=st.booleans()),
        st.builds(serving, st.just(name), SEQNOS, size=st.integers(1, 3)),
        st.just(empty(name)),
        st.just(unreachable(name)),
    )


CLUSTERS = st.tuples(members("a"), members("b"), members("c"))
ACCEPTED = st.sets(st.sampled_from("abc"))


def outcome(cluster: tuple[Member, ...], accepted: set[str] | None = None) -> Decision | None:
    """Return the decision; None where there is none."""
    try:
        return decide(seen(*cluster), accept_missing=sorted(accepted or ()))
    except DbhaError:
        return None


@given(CLUSTERS, ACCEPTED)
def test_nobody_begins_who_is_vetoed_or_behind(cluster: tuple[Member, ...], accepted: set[str]) -> None:
    decision = outcome(cluster, accepted)
    if decision is None or not decision.chosen:
        return
    chosen = next(member for member in cluster if member.name == decision.chosen)
    assert not vetoes(chosen)
    assert chosen.position is not None
    for member in cluster:
        if not vetoes(member) and not member.problem and member.position:
            assert member.position.uuid == chosen.position.uuid
            assert member.position.seqno <= chosen.position.seqno


@given(CLUSTERS, ACCEPTED)
def test_nothing_is_decided_while_a_member_is_unknown_and_not_accepted(
    cluster: tuple[Member, ...], accepted: set[str]
) -> None:
    unknown = {member.name for member in cluster if member.problem}
    if unknown != accepted:
        assert outcome(cluster, accepted) is None


@given(CLUSTERS, st.integers(0, 2), st.booleans())
def test_seeing_less_never_makes_a_choice_of_a_refusal(
    cluster: tuple[Member, ...], index: int, is_veto: bool
) -> None:
    """Neither a member that falls silent, nor a veto against one that is not ahead of those it is compared with (that
    one's own claim, when it cannot be believed any more, is no sign of a fork)."""
    member = cluster[index]
    if outcome(cluster) is not None or (is_veto and is_ahead(member, cluster)) or member.runs:
        return
    worse = [*cluster]
    worse[index] = replace(member, markers=("sst_in_progress",)) if is_veto else unreachable(member.name)
    assert outcome(tuple(worse)) is None


def is_ahead(member: Member, cluster: tuple[Member, ...]) -> bool:
    """Return whether a member claims more than those that serve, or than all others where none does."""
    verdict = assess([one.state for one in cluster], expected=len(cluster))
    serving = {node.name for node in verdict.nodes if node.view_agrees}
    others = [one for one in cluster if one is not member and (not serving or one.name in serving)]
    claims = [one.position.seqno for one in others if one.position and not vetoes(one)]
    return member.position is not None and member.position.seqno > max(claims, default=0)


@given(CLUSTERS)
def test_a_component_that_lives_is_never_bootstrapped_beside(cluster: tuple[Member, ...]) -> None:
    decision = outcome(cluster)
    verdict = assess([member.state for member in cluster], expected=len(cluster))
    if decision and any(node.view_agrees for node in verdict.nodes):
        assert decision.way in ("nothing", "join")
        assert not decision.chosen


@given(CLUSTERS)
def test_everybody_known_takes_part_exactly_once(cluster: tuple[Member, ...]) -> None:
    decision = outcome(cluster)
    if decision:
        names = [
            *decision.first,
            *(join.name for join in decision.joins),
            *(name for name, _ in decision.left_alone),
        ]
        assert sorted(names) == sorted(member.name for member in cluster)
