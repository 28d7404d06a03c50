"""Which backup is brought to a point in time, as a table."""

import pytest

from dbha.backup.binlog.choose import Reach, choose_backup
from dbha.backup.binlog.gtid import Gtid
from dbha.backup.binlog.records import in_utc
from dbha.backup.binlog.target import BeforeGtid, BeforeTime, Newest, Target
from dbha.backup.binlog.windows import Restorable
from dbha.errors import UnsafeError, UsageError


def backup(
    name: str,
    start: int,
    end: int | None,
    *,
    verified: bool = True,
    timeline: str = "T1",
    reason: str = "no binary log of its timeline is archived",
) -> Reach:
    """A backup with transaction `start` as its last, finished at that second, brought to `end` by the logs."""
    until = (
        Restorable(reason=reason, start=f"1-1-{start}")
        if end is None
        else Restorable(f"1-1-{end}", in_utc(end), "", f"1-1-{start}")
    )
    return Reach(name, verified, in_utc(start), timeline, until)


def gtid(sequence: int) -> BeforeGtid:
    return BeforeGtid(Gtid(1, 1, sequence))


OLD, NEW = backup("old", 10, 90), backup("new", 50, 90)
UNVERIFIED = backup("unverified", 70, 90, verified=False)
RESTORED = backup("restored", 40, 60, timeline="T2")


@pytest.mark.parametrize(
    ("backups", "target", "chosen"),
    [
        pytest.param([OLD, NEW], gtid(80), "new", id="the newest before it: the least to replay"),
        pytest.param([OLD, NEW], gtid(51), "new", id="the very next transaction: nothing to replay"),
        pytest.param([OLD, NEW], gtid(50), "old", id="the newer one has it already"),
        pytest.param([OLD, NEW], gtid(90), "new", id="up to the last but one"),
        pytest.param([OLD, NEW, UNVERIFIED], gtid(80), "new", id="never one that is not verified"),
        pytest.param([OLD, NEW], BeforeTime(in_utc(50)), "new", id="the second at which it was finished"),
        pytest.param([OLD, NEW], BeforeTime(in_utc(49)), "old", id="a second before"),
        pytest.param(
            [OLD, backup("new", 50, None)], BeforeTime(in_utc(80)), "old", id="a gap after the newer"
        ),
        pytest.param([OLD, NEW], Newest(), "new", id="the newest of all"),
        pytest.param([OLD, RESTORED], BeforeTime(in_utc(55)), "restored", id="the newer history, by time"),
        pytest.param([OLD, RESTORED], gtid(80), "old", id="only one timeline has it"),
    ],
)
def test_the_chosen_backup(backups: list[Reach], target: Target, chosen: str) -> None:
    assert choose_backup(backups, target) == chosen


@pytest.mark.parametrize(
    ("backups", "target", "words"),
    [
        pytest.param([], gtid(80), "there is none", id="no backup"),
        pytest.param([UNVERIFIED], gtid(80), "unverified is not verified", id="not verified"),
        pytest.param([OLD], gtid(91), "old reaches from .*, 1-1-10 to .*, 1-1-90", id="after the end"),
        pytest.param([OLD], gtid(10), "old reaches from", id="in the backup already"),
        pytest.param(
            [OLD], BeforeTime(in_utc(91)), "to 1970-01-01T00:01:30Z, 1-1-90", id="a time after the end"
        ),
        pytest.param([OLD], BeforeTime(in_utc(9)), "old reaches from", id="a time before"),
        pytest.param(
            [backup("x", 5, None)], Newest(), "x cannot be brought further: no binary log", id="no log"
        ),
    ],
)
def test_why_there_is_none(backups: list[Reach], target: Target, words: str) -> None:
    with pytest.raises(UnsafeError, match=words):
        choose_backup(backups, target)


def test_a_gtid_that_two_timelines_gave_is_asked_about() -> None:
    with pytest.raises(UsageError, match="another transaction in each of the timelines T1, T2"):
        choose_backup([OLD, RESTORED], gtid(55))
