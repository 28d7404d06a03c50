"""Retention: tables of what stays and why, and what holds for whatever a store may hold."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dbha.backup.retention import Decision, Listed, decide, deletion_order, good_ones
from dbha.backup.store import Status
from dbha.config.model import RetentionPolicy

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
COMPLETE, BAD, FAILED = Status.COMPLETE, Status.BAD, Status.FAILED


def backup(
    name: str,
    *,
    hours: float,
    status: Status = COMPLETE,
    verified: bool = False,
    base: str | None = None,
    mark: str = "",
    run: str = "",
) -> Listed:
    """Return a backup that is so many hours old; its id sorts by its time, as real ones do."""
    created = NOW - timedelta(hours=hours)
    return Listed(f"{created:%Y%m%dT%H%M%SZ}-{name}", created, status, verified, base, mark, run)


def kept(backups: Sequence[Listed], *, also_spoilt: bool = False, **rules: int) -> dict[str, str]:
    """Return what stays, by the names of the backups, with the reasons."""
    return {
        each.id[17:]: each.reason
        for each in decide(backups, RetentionPolicy(**rules), NOW, also_spoilt=also_spoilt)
        if each.keep
    }


def nights(count: int, *, verified: bool = True) -> list[Listed]:
    """Return a backup of each of the last nights; `n0` is of this morning, at 2 o'clock."""
    return [backup(f"n{night}", hours=10 + 24 * night, verified=verified) for night in range(count)]


def test_the_last_ones_stay() -> None:
    assert kept(nights(4), last=2) == {
        "n0": "the newest one, the last verified one, last 2",
        "n1": "last 2",
    }


def test_backups_of_some_services_displace_none_of_the_whole_cluster() -> None:
    nova = [replace(each, id=f"{each.id}x", part="nova") for each in nights(3)]
    glance = [replace(each, id=f"{each.id}y", part="glance", verified=False) for each in nights(2)[1:]]
    assert kept([*nights(4)[2:], *nova, *glance], last=1) == {
        "n0x": "the newest one of nova, the last verified one of nova, last 1",
        "n1y": "the newest one of glance, last 1",
        "n2": "the newest one, the last verified one, last 1",
    }


def test_young_ones_stay() -> None:
    assert list(kept(nights(5), days=2)) == ["n1", "n0"]
    assert kept(nights(5), days=2)["n1"] == "younger than 2 days"


def test_one_of_each_hour_day_week_month_and_year_stays() -> None:
    hourly = [backup(f"{hour}.{half}", hours=hour + half / 2) for hour in range(5) for half in (0, 1)]
    assert list(kept(hourly, hourly=2)) == ["0.1", "0.0"]  # 11:30 and 12:00
    assert kept(hourly, hourly=2)["0.1"] == "hourly 2026-11-23 11:00"
    assert list(kept(nights(400), daily=3)) == ["n2", "n1", "n0"]
    weekly = kept(nights(400), weekly=3)  # the 23rd is a Monday: the newest of the week before is the 22nd
    assert weekly["n1"] == "weekly 2026-W47" and list(weekly) == ["n8", "n1", "n0"]
    assert list(kept(nights(400), monthly=2)) == ["n23", "n0"]
    assert kept(nights(400), yearly=2)["n327"] == "yearly 2025"


def test_the_first_days_of_january_belong_to_the_week_they_are_in() -> None:
    backups = [
        Listed("20270101T020000Z-0001", datetime(2027, 1, 1, 2, tzinfo=UTC), COMPLETE),
        Listed("20261231T020000Z-0001", datetime(2026, 12, 31, 2, tzinfo=UTC), COMPLETE),
    ]
    decisions = decide(backups, RetentionPolicy(weekly=2), datetime(2027, 1, 2, tzinfo=UTC))
    assert [each.reason for each in decisions] == ["no rule wants it", "the newest one, weekly 2026-W53"]


def test_a_period_without_a_backup_does_not_count() -> None:
    backups = [backup("today", hours=1), backup("week", hours=170), backup("month", hours=800)]
    assert list(kept(backups, daily=3)) == ["month", "week", "today"]


def test_the_last_verified_one_stays_however_old_it_is() -> None:
    backups = [backup("proven", hours=5000, verified=True), *nights(3, verified=False)]
    assert kept(backups, last=1) == {
        "proven": "the last verified one, last 1",
        "n0": "the newest one, last 1",
    }


def test_unverified_ones_do_not_push_out_verified_ones() -> None:
    proven = [backup(f"p{each}", hours=1000 + each, verified=True) for each in range(3)]
    assert {"p0", "p1"} <= kept([*proven, *nights(9, verified=False)], last=2).keys()


@pytest.mark.parametrize("status", [BAD, FAILED, Status.DAMAGED, Status.INTERRUPTED, Status.WRITING])
def test_what_is_not_good_never_counts(status: Status) -> None:
    spoilt = [backup(f"x{each}", hours=each, status=status) for each in range(1, 9)]
    assert {"n0", "n1"} <= kept([*spoilt, *nights(3)], last=2).keys()


@pytest.mark.parametrize(
    ("one", "reason"),
    [
        pytest.param(backup("x", hours=900, status=Status.WRITING), "it is being written", id="writing"),
        pytest.param(backup("x", hours=900, run="r1"), "run r1 needs it", id="a run needs it"),
        pytest.param(
            backup("x", hours=900, run="r1", status=Status.INTERRUPTED),
            "run r1 needs it",
            id="is taken up again",
        ),
        pytest.param(backup("x", hours=900, mark="kept: why"), "kept: why", id="marked"),
        pytest.param(
            backup("x", hours=900, status=BAD), "bad ones stay until you ask for them with --bad", id="bad"
        ),
        pytest.param(
            backup("x", hours=900, base="gone"),
            "its base gone is not good: it stays until you ask for it with --bad",
            id="without its base",
        ),
        pytest.param(
            backup("x", hours=300, status=FAILED), "what failed is shown for 14 days", id="failed lately"
        ),
        pytest.param(backup("x", hours=400, status=FAILED), None, id="failed long ago"),
        pytest.param(backup("x", hours=1, status=Status.INTERRUPTED), None, id="left over"),
        pytest.param(backup("x", hours=900), None, id="nobody wants it"),
    ],
)
def test_why_one_stays_that_no_rule_wants(one: Listed, reason: str | None) -> None:
    assert kept([one, *nights(2)], last=1).get("x") == reason


def test_spoilt_ones_go_only_when_asked_for_and_never_when_they_are_needed() -> None:
    backups = [
        backup("bad", hours=50, status=BAD), backup("damaged", hours=50, status=Status.DAMAGED),
        backup("orphan", hours=50, base="gone"), backup("marked", hours=50, status=BAD, mark="kept"),
        *nights(1),
    ]  # fmt: skip
    assert kept(backups, also_spoilt=True, last=1).keys() == {"marked", "n0"}


def test_the_base_of_what_stays_stays_and_of_what_goes_goes() -> None:
    full = backup("full", hours=100)
    first = backup("first", hours=90, base=full.id)
    second = backup("second", hours=80, base=first.id)
    assert kept([full, first, second], last=1) == {
        "full": f"the base of {first.id}",
        "first": f"the base of {second.id}",
        "second": "the newest one, last 1",
    }
    newer = [full, first, second, *nights(1)]
    assert kept(newer, last=1).keys() == {"n0"}
    order = deletion_order(decide(newer, RetentionPolicy(last=1), NOW), newer)
    assert [each.id for each in order] == [second.id, first.id, full.id], "what depends on another goes first"


def test_a_chain_is_as_good_as_what_it_is_based_on() -> None:
    full = backup("full", hours=100, status=BAD)
    increment = backup("increment", hours=90, base=full.id)
    assert good_ones([full, increment]) == []
    circle = Listed("a", NOW, COMPLETE, base="b"), Listed("b", NOW, COMPLETE, base="a")
    assert good_ones(circle) == []


@st.composite
def stores(draw: st.DrawFn) -> list[Listed]:
    """Return whatever a store may hold, also what it should not: bases that are missing, or in a circle."""
    ages = draw(st.lists(st.integers(-24, 24 * 800), max_size=25, unique=True))
    ids = [backup("", hours=hours).id for hours in ages]
    return [
        Listed(
            id=backup_id,
            created=NOW - timedelta(hours=hours),
            status=draw(st.sampled_from(list(Status))),
            verified=draw(st.booleans()),
            base=draw(st.sampled_from([None, None, "gone", *ids])),
            mark=draw(st.sampled_from(["", "", "kept"])),
            run=draw(st.sampled_from(["", "", "", "r1"])),
        )
        for backup_id, hours in zip(ids, ages, strict=True)
    ]


POLICIES = st.builds(
    RetentionPolicy,
    last=st.integers(1, 4),
    failed_days=st.integers(0, 30),
    **{name: st.integers(0, 4) for name in ("days", "hourly", "daily", "weekly", "monthly", "yearly")},
)
properties = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
gives = given(stores(), POLICIES, st.booleans())


def staying(decisions: Sequence[Decision]) -> set[str]:
    return {each.id for each in decisions if each.keep}


@properties
@gives
def test_every_backup_gets_one_decision_with_a_reason(
    backups: list[Listed], policy: RetentionPolicy, spoilt: bool
) -> None:
    decisions = decide(backups, policy, NOW, also_spoilt=spoilt)
    assert [each.id for each in decisions] == sorted(each.id for each in backups)
    assert all(each.reason for each in decisions)


@properties
@gives
def test_a_good_backup_and_the_last_verified_one_are_never_deleted(
    backups: list[Listed], policy: RetentionPolicy, spoilt: bool
) -> None:
    good, stay = good_ones(backups), staying(decide(backups, policy, NOW, also_spoilt=spoilt))
    verified = [each for each in good if each.verified]
    assert not good or good[0].id in stay
    assert not verified or verified[0].id in stay


@properties
@gives
def test_what_is_needed_is_never_deleted(
    backups: list[Listed], policy: RetentionPolicy, spoilt: bool
) -> None:
    stay = staying(decide(backups, policy, NOW, also_spoilt=spoilt))
    for each in backups:
        if each.mark or each.run or each.status is Status.WRITING:
            assert each.id in stay
        if each.id in stay and each.base in {other.id for other in backups}:
            assert each.base in stay
        if each.status in (BAD, Status.DAMAGED) and not spoilt:
            assert each.id in stay


@properties
@gives
def test_asked_again_it_deletes_nothing_more_also_when_it_was_cut_off(
    backups: list[Listed], policy: RetentionPolicy, spoilt: bool
) -> None:
    decisions = decide(backups, policy, NOW, also_spoilt=spoilt)
    left = [each for each in backups if each.id in staying(decisions)]
    assert all(each.keep for each in decide(left, policy, NOW, also_spoilt=spoilt))
    order = deletion_order(decisions, backups)
    assert {each.id for each in order} | staying(decisions) == {each.id for each in backups}
    gone: set[str] = set()
    for each in order:  # cut off anywhere
        gone.add(each.id)
        rest = [other for other in backups if other.id not in gone]
        assert staying(decide(rest, policy, NOW, also_spoilt=spoilt)) == staying(decisions)


@properties
@given(stores(), POLICIES, st.booleans(), st.randoms(use_true_random=False))
def test_the_order_they_come_in_does_not_matter(
    backups: list[Listed], policy: RetentionPolicy, spoilt: bool, random: Random
) -> None:
    shuffled = list(backups)
    random.shuffle(shuffled)
    assert decide(shuffled, policy, NOW, also_spoilt=spoilt) == decide(
        backups, policy, NOW, also_spoilt=spoilt
    )


@properties
@given(stores(), POLICIES, st.integers(-24, 24 * 800), st.sampled_from(list(Status)))
def test_one_more_that_is_not_proven_good_displaces_none_that_is(
    backups: list[Listed], policy: RetentionPolicy, hours: int, status: Status
) -> None:
    before = [replace(each, base=None) for each in backups]
    more = backup("more", hours=hours, status=status, verified=status is not COMPLETE)
    stayed = staying(decide(before, policy, NOW)) & {each.id for each in good_ones(before) if each.verified}
    assert stayed <= staying(decide([*before, more], policy, NOW))
