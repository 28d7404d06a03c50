"""`dbha backup check`: every test at every level, as a table, and the line that Nagios reads."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from dbha.backup.checks import Figure, Known, Level, Result, Sizes, check, in_words, nagios_line, worst
from dbha.backup.estimate import store_needs
from dbha.backup.retention import Listed
from dbha.backup.store import Status
from dbha.config.model import BackupCheckPolicy

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
MIB = 1 << 20
USUAL = Sizes("full", data_bytes=1000 * MIB, raw_bytes=1000 * MIB, stored_bytes=100 * MIB)
NEEDED = store_needs(1000 * MIB, 0.1)
PLENTY = 100 * NEEDED
COMPLETE = Status.COMPLETE


def backup(
    hours: float, status: Status = COMPLETE, *, verified: bool = True, base: str | None = None
) -> Listed:
    created = NOW - timedelta(hours=hours)
    return Listed(f"{created:%Y%m%dT%H%M%SZ}-0001", created, status, verified, base)


def known(*backups: Listed, sizes: dict[float, Sizes] | None = None, free: int | None = PLENTY) -> Known:
    """Return a store with these backups; `sizes` has those, by age in hours, that are not as usual."""
    odd = {backup(hours).id: each for hours, each in (sizes or {}).items()}
    complete = [each.id for each in backups if each.status is COMPLETE]
    return Known(backups, {each: odd.get(each, USUAL) for each in complete}, free)


def result(name: str, of: Known, **limits: float) -> Result:
    """Return how one of the tests came out."""
    (found,) = [
        each for each in check(of, BackupCheckPolicy.model_validate(limits), NOW) if each.name == name
    ]
    return found


def raw(mib: float) -> Sizes:
    return replace(USUAL, raw_bytes=round(mib * MIB))


@pytest.mark.parametrize(
    ("of", "level", "words"),
    [
        pytest.param(known(backup(3)), Level.OK, "is 3 h old", id="young"),
        pytest.param(known(backup(26)), Level.OK, "is 26 h old", id="at the limit"),
        pytest.param(known(backup(26.1)), Level.WARNING, "is 26 h old (limit 26 h)", id="old"),
        pytest.param(known(backup(90)), Level.CRITICAL, "is 4 days old (limit 50 h)", id="too old"),
        pytest.param(known(), Level.CRITICAL, "there is no complete backup", id="none"),
        pytest.param(known(backup(1, Status.FAILED)), Level.CRITICAL, "there is no", id="failed ones only"),
        pytest.param(known(backup(60), backup(1, Status.BAD)), Level.CRITICAL, "60 h", id="bad ones do not count"),
        pytest.param(
            known(backup(60), backup(1, base="gone")), Level.CRITICAL, "60 h", id="nor those without a base"
        ),
        pytest.param(
            known(backup(60), replace(backup(1), part="nova")), Level.CRITICAL, "60 h", id="nor those of a service"
        ),
        pytest.param(known(backup(-1)), Level.WARNING, "from the future", id="the clock went back"),
        pytest.param(known(backup(-0.01)), Level.OK, "is 0 min old", id="clocks differ a little"),
    ],
)  # fmt: skip
def test_age(of: Known, level: Level, words: str) -> None:
    found = result("age", of)
    assert found.level is level and words in found.detail


@pytest.mark.parametrize(
    ("of", "level", "words"),
    [
        pytest.param(known(backup(3)), Level.OK, "the last verified backup", id="young"),
        pytest.param(
            known(backup(30), backup(3, verified=False)), Level.WARNING, "30 h", id="unverified since"
        ),
        pytest.param(known(backup(200), backup(3, verified=False)), Level.CRITICAL, "8 days", id="for long"),
        pytest.param(known(backup(3, verified=False)), Level.CRITICAL, "there is no verified", id="never"),
    ],
)
def test_age_of_the_last_verified_one(of: Known, level: Level, words: str) -> None:
    found = result("verified", of)
    assert found.level is level and words in found.detail


@pytest.mark.parametrize(
    ("sizes", "level", "words"),
    [
        pytest.param({}, Level.OK, "1,000 MiB unpacked, +0 % against those before it", id="as usual"),
        pytest.param({1: raw(700)}, Level.OK, "-30 %", id="at the lower limit"),
        pytest.param(
            {1: raw(690)}, Level.WARNING, "-31 % against those before it (limits -30 %", id="shrunk"
        ),
        pytest.param({1: raw(0)}, Level.WARNING, "-100 %", id="empty"),
        pytest.param({1: raw(2000)}, Level.OK, "+100 %", id="at the upper limit"),
        pytest.param({1: raw(2010)}, Level.WARNING, "+101 %", id="grown"),
        pytest.param({2: raw(1)}, Level.OK, "+0 %", id="an odd one before it does no harm"),
        pytest.param(
            {1: replace(raw(1), kind="incremental")},
            Level.OK,
            "of tables, +0 %",
            id="what changed says nothing",
        ),
        pytest.param(
            {1: replace(raw(1), kind="incremental", data_bytes=USUAL.data_bytes // 2)},
            Level.WARNING,
            "of tables, -50 %",
            id="an incremental one of less data",
        ),
        pytest.param({2: replace(raw(1), kind="incremental")}, Level.OK, "+0 %", id="full ones only"),
        pytest.param({1: replace(USUAL, stored_bytes=1)}, Level.OK, "+0 %", id="only compressed better"),
    ],
)
def test_size(sizes: dict[float, Sizes], level: Level, words: str) -> None:
    found = result("size", known(*map(backup, (4, 3, 2, 1)), sizes=sizes))
    assert found.level is level and words in found.detail


def test_the_first_backup_is_compared_with_nothing() -> None:
    assert result("size", known(backup(1))).level is Level.OK
    assert result("size", known()).level is Level.OK


@pytest.mark.parametrize(
    ("since", "level", "words"),
    [
        pytest.param([], Level.OK, "none since the last good backup", id="none"),
        pytest.param([Status.FAILED], Level.WARNING, "1 since the last good backup", id="one"),
        pytest.param([Status.BAD], Level.WARNING, "1 since", id="a bad one"),
        pytest.param(
            [Status.INTERRUPTED, Status.DAMAGED], Level.WARNING, "2 since", id="interrupted, damaged"
        ),
        pytest.param([Status.FAILED] * 3, Level.CRITICAL, "3 since", id="many"),
        pytest.param([Status.WRITING], Level.OK, "none", id="one that is being written has not failed"),
    ],
)
def test_failures(since: list[Status], level: Level, words: str) -> None:
    later = [backup(5 - number, status) for number, status in enumerate(since)]
    found = result("failures", known(backup(8, Status.FAILED), backup(7), *later))
    assert found.level is level and words in found.detail


def test_all_failures_count_while_nothing_is_good() -> None:
    assert result("failures", known(backup(8, Status.FAILED), backup(2, Status.BAD))).level is Level.WARNING


@pytest.mark.parametrize(("least", "level"), [(1, Level.OK), (2, Level.OK), (3, Level.CRITICAL)])
def test_minimum(least: int, level: Level) -> None:
    of = known(backup(3), backup(2, Status.BAD), backup(1))
    found = result("minimum", of, minimum_good=least)
    assert (found.level, found.detail) == (level, f"2 good full backups, at least {least} wanted")


def test_what_is_based_on_another_is_no_further_backup() -> None:
    of = known(backup(3), backup(2, base=backup(3).id), backup(1, base=backup(3).id))
    assert result("minimum", of, minimum_good=2).level is Level.CRITICAL
    assert result("age", of).detail.endswith("is 60 min old") or "is 1 h old" in result("age", of).detail
    assert "is 3 h old" in result("full", of).detail


@pytest.mark.parametrize(
    ("hours", "level"),
    [(191, Level.OK), (193, Level.WARNING), (361, Level.CRITICAL)],
)
def test_age_of_the_last_full_one(hours: float, level: Level) -> None:
    of = known(backup(hours), backup(1, base=backup(hours).id))
    assert (result("age", of).level, result("full", of).level) == (Level.OK, level)
    assert result("full", known()).detail == "there is no full backup"


@pytest.mark.parametrize(
    ("free", "level"),
    [
        (3 * NEEDED, Level.OK), (3 * NEEDED - 1, Level.WARNING), (NEEDED, Level.WARNING),
        (NEEDED - 1, Level.CRITICAL), (0, Level.CRITICAL), (None, Level.OK),
    ],
)  # fmt: skip
def test_room(free: int | None, level: Level) -> None:
    assert result("room", known(backup(1), free=free)).level is level


def test_room_is_estimated_by_the_last_full_backup() -> None:
    increment = replace(USUAL, kind="incremental", stored_bytes=1)
    of = known(backup(2), backup(1), sizes={1: increment}, free=NEEDED - 1)
    assert result("room", of).level is Level.CRITICAL
    assert "no backup yet to estimate from" in result("room", known(free=5)).detail


def test_the_worst_counts() -> None:
    results = [Result("a", Level.OK, ""), Result("b", Level.CRITICAL, ""), Result("c", Level.WARNING, "")]
    assert worst(results) is Level.CRITICAL
    assert worst(()) is Level.OK


def test_the_line_for_nagios() -> None:
    assert nagios_line(check(known(backup(3), backup(1)), BackupCheckPolicy(), NOW)) == (
        "BACKUP OK - 7 tests passed | age_s=3600s;93600;180000 verified_age_s=3600s;93600;691200"
        " full_age_s=3600s;691200;1296000"
        f" size_change=0%;-30:100; failures=0;0;2 good=2;;1: free={PLENTY}B;{3 * NEEDED}:;{NEEDED}:"
    )


def test_the_line_for_nagios_begins_with_the_worst() -> None:
    wrong = [
        Result("a", Level.WARNING, "old"), Result("b", Level.OK, "fine", Figure("b", 1.5, "")),
        Result("c", Level.CRITICAL, "full | empty"),
    ]  # fmt: skip
    assert nagios_line(wrong) == "BACKUP CRITICAL - c: full / empty; a: old | b=1.5;;"


@pytest.mark.parametrize(
    ("hours", "words"), [(0.5, "30 min"), (7.2, "7 h"), (71, "71 h"), (72, "3 days"), (-1, "0 min")]
)
def test_ages_for_people(hours: float, words: str) -> None:
    assert in_words(timedelta(hours=hours)) == words
