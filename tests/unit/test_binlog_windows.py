"""Windows and gaps as tables: which runs of numbers add up, and how far a backup can be brought."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbha.backup.binlog.records import Run, Sighting, in_utc
from dbha.backup.binlog.windows import gaps_of, restorable, windows_of

LOCAL = {101, 102, 103}


def run(first: int, last: int, *, restarts: bool = False, domain: int = 1) -> Run:
    return Run(
        after=first - 1,
        first=f"{domain}-1-{first}", last=f"{domain}-1-{last}", first_time=in_utc(first), last_time=in_utc(last),
        restarts=restarts,
    )  # fmt: skip


def sighting(sequence: int, time_s: int) -> Sighting:
    return Sighting(
        timeline="t", node="db1", gtid=f"1-1-{sequence}", time=in_utc(time_s), local_domains=(101, 102)
    )


@pytest.mark.parametrize(
    ("runs", "expected"),
    [
        pytest.param([], [], id="nothing"),
        pytest.param([run(1, 9)], [(1, 9)], id="one"),
        pytest.param([run(1, 9), run(10, 12)], [(1, 12)], id="one follows the other"),
        pytest.param([run(10, 12), run(1, 9)], [(1, 12)], id="in any order"),
        pytest.param([run(1, 9), run(5, 12)], [(1, 12)], id="of two nodes, overlapping"),
        pytest.param([run(1, 9), run(2, 3)], [(1, 9)], id="one within the other"),
        pytest.param([run(1, 9), run(11, 12)], [(1, 9), (11, 12)], id="one is missing"),
        pytest.param(
            [run(1, 9), run(11, 12), run(10, 10)], [(1, 12)], id="the missing one came from elsewhere"
        ),
        pytest.param(
            [run(1, 4), run(5, 9, domain=0)], [(1, 9)], id="the domain changed, the counter goes on"
        ),
        pytest.param(
            [run(1, 9), run(10, 12, restarts=True)], [(1, 9), (10, 12)], id="a service was restored"
        ),
        pytest.param(
            [run(1, 9), run(10, 12, restarts=True), run(10, 15, restarts=True), run(11, 20)],
            [(1, 9), (10, 20)],
            id="a service was restored, as the logs of three nodes say",
        ),
    ],
)
def test_windows(runs: list[Run], expected: list[tuple[int, int]]) -> None:
    assert [(window.begin, window.end) for window in windows_of(runs)] == expected


@given(st.lists(st.tuples(st.integers(1, 60), st.integers(0, 9))))
def test_a_number_is_in_a_window_exactly_when_a_run_has_it(pairs: list[tuple[int, int]]) -> None:
    windows = windows_of([run(first, first + length) for first, length in pairs])
    archived = {number for first, length in pairs for number in range(first, first + length + 1)}
    assert archived == {number for window in windows for number in range(window.begin, window.end + 1)}
    gaps = gaps_of(windows)
    assert len(gaps) == max(0, len(windows) - 1)
    between = set(range(min(archived, default=0), max(archived, default=-1) + 1)) - archived
    assert sum(gap.missing for gap in gaps) == len(between)


def test_a_gap_names_what_is_missing() -> None:
    (gap,) = gaps_of(windows_of([run(1, 9), run(13, 20)]))
    assert (gap.first, gap.last, gap.missing) == ("1-1-10", "1-1-12", 3)
    assert str(gap) == "3 transaction(s) are missing: 1-1-10 to 1-1-12"
    (gap,) = gaps_of(windows_of([run(1, 9), run(10, 20, restarts=True)]))
    assert gap.missing == 0
    assert "a service was restored after 1-1-9" in str(gap)


@pytest.mark.parametrize(
    ("has", "runs", "gtid", "reason"),
    [
        pytest.param("1-1-5", [run(1, 9)], "1-1-9", "", id="within the window"),
        pytest.param("1-1-9", [run(1, 9)], "1-1-9", "", id="at its end"),
        pytest.param("1-1-9", [run(10, 12)], "1-1-12", "", id="just before it"),
        pytest.param("1-1-4,0-1-9,102-2-77", [run(10, 12)], "1-1-12", "", id="other domains do not count"),
        pytest.param("1-1-5", [run(1, 9), run(13, 20)], "1-1-9", "1-1-10 to 1-1-12", id="a gap after it"),
        pytest.param("1-1-15", [run(1, 9), run(13, 20)], "1-1-20", "", id="a gap before it"),
        pytest.param("1-1-5", [run(1, 9), run(10, 20, restarts=True)], "1-1-9", "was restored", id="up to a restore"),
        pytest.param("1-1-9", [run(10, 20, restarts=True)], None, "was restored at 1-1-10", id="a restore follows"),
        pytest.param("1-1-5", [run(8, 20)], None, "2 transaction(s) after it are missing: 1-1-6 to 1-1-7",
                     id="the logs begin too late"),
        pytest.param("1-1-10", [run(1, 9), run(12, 20)], None, "missing: 1-1-11 to 1-1-11", id="it is in a gap"),
        pytest.param("1-1-50", [run(1, 9)], None, "the archive ends with 1-1-9, before the backup", id="too short"),
        pytest.param("1-1-5", [], None, "no binary log of its timeline is archived", id="nothing archived"),
        pytest.param("", [run(1, 9)], None, "the backup has no GTID", id="no GTID"),
        pytest.param("102-2-5", [run(1, 9)], None, "the backup has no GTID", id="only one of the node itself"),
    ],
)  # fmt: skip
def test_how_far_a_backup_can_be_brought(has: str, runs: list[Run], gtid: str | None, reason: str) -> None:
    found = restorable(has, windows_of(runs), LOCAL)
    assert found.gtid == gtid
    assert reason in found.reason
    assert bool(found.reason) == bool(reason)
    assert (found.as_json() is None) == (gtid is None)


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        pytest.param(None, 9, id="never seen: the last transaction's time"),
        pytest.param(sighting(9, 500), 500, id="seen with nothing newer"),
        pytest.param(sighting(5, 7), 9, id="seen earlier"),
        pytest.param(sighting(12, 500), 9, id="seen with more than is archived"),
    ],
)
def test_up_to_when_a_window_is_complete(seen: Sighting | None, expected: int) -> None:
    (window,) = windows_of([run(1, 9)], seen)
    assert window.time == datetime.fromtimestamp(expected, UTC)
