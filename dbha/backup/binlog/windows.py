"""Which points in time the archived logs reach: pure functions over their records."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import pairwise
from typing import Any

from dbha.backup.binlog.gtid import latest, parse_gtid, parse_gtids
from dbha.backup.binlog.records import Run, Sighting


@dataclass(frozen=True, slots=True)
class Window:
    """A part of the history that is archived without a gap: from before transaction `first` to after `last`.

    `time` is up to when it is complete: when a node was seen to have nothing newer, else when `last` was made.
    """

    after: int
    first: str
    last: str
    first_time: datetime
    time: datetime
    restarts: bool = False

    @property
    def begin(self) -> int:
        """The number of the first transaction, or one before it that no transaction has."""
        return self.after + 1

    @property
    def end(self) -> int:
        """The number of the last transaction."""
        return parse_gtid(self.last).sequence


@dataclass(frozen=True, slots=True)
class Gap:
    """What lies between two windows: `missing` transactions, `first` to `last`; none where a service was restored."""

    first: str
    last: str
    missing: int
    after_time: datetime
    before_time: datetime

    @property
    def end(self) -> int:
        """The number of the last transaction before the window that follows."""
        return parse_gtid(self.last).sequence

    def __str__(self) -> str:
        if not self.missing:
            return f"a service was restored after {self.last}, and rows that a restore imports are in no log"
        return f"{self.missing} transaction(s) are missing: {self.first} to {self.last}"


@dataclass(frozen=True, slots=True)
class Restorable:
    """Up to where a backup can be brought by replaying logs; without a GTID not at all, and `reason` says why.

    `start` is the backup's own last transaction.
    """

    gtid: str | None = None
    time: datetime | None = None
    reason: str = ""  # why not at all, or why no further
    start: str | None = None

    def as_json(self) -> dict[str, Any] | None:
        """Return it in the shape of the `--json` contract."""
        return {"gtid": self.gtid, "time": self.time.isoformat()} if self.gtid and self.time else None


def restorable_as_json(reach: Restorable | None, begins: datetime) -> dict[str, Any] | None:
    """Return which points a backup that was finished at `begins` can be brought to, as the `--json` contract has it.

    `until` is null where it can be brought no further than it is. None for a backup that has nothing to be brought.
    """
    if reach is None:
        return None
    return {
        "from": {"gtid": reach.start, "time": begins.isoformat()},
        "until": reach.as_json(),
        "reason": reach.reason,
    }


def windows_of(runs: Iterable[Run], sighting: Sighting | None = None) -> tuple[Window, ...]:
    """Return the windows that runs of one timeline add up to, whichever node's logs they are in, in their order.

    Runs may overlap and may be given in any order.
    """
    found: list[Window] = []
    for run in sorted(runs, key=lambda run: (run.begin, run.end)):
        last = found[-1] if found else None
        if last and (run.begin <= last.end or (run.begin == last.end + 1 and not run.restarts)):
            if run.end > last.end:
                found[-1] = replace(last, last=run.last, time=run.last_time)
        else:
            found.append(Window(run.after, run.first, run.last, run.first_time, run.last_time, run.restarts))
    if found and sighting and found[-1].begin <= parse_gtid(sighting.gtid).sequence <= found[-1].end:
        found[-1] = replace(found[-1], time=max(found[-1].time, sighting.time))
    return tuple(found)


def gaps_of(windows: Sequence[Window]) -> tuple[Gap, ...]:
    """Return what lies between windows."""
    return tuple(_between(one, other) for one, other in pairwise(windows))


def restorable(gtids: str, windows: Sequence[Window], local_domains: Collection[int]) -> Restorable:
    """Return up to where a backup of this GTID position can be brought.

    It can be where a window holds the transaction after it, or ends with the very one it has. A window is exact:
    it ends with the last archived transaction before the first that is missing.
    """
    has = latest(parse_gtids(gtids), local_domains)
    if has is None:
        return Restorable(reason="the backup has no GTID: its donor kept no binary log")
    if not windows:
        return Restorable(reason="no binary log of its timeline is archived", start=str(has))
    for number, window in enumerate(windows):
        if _reaches_back_to(window, has.sequence):
            gap = gaps_of(windows[number : number + 2])
            return Restorable(window.last, window.time, str(gap[0]) if gap else "", str(has))
    return Restorable(reason=_why_not(has.sequence, windows), start=str(has))


def _reaches_back_to(window: Window, sequence: int) -> bool:
    follows_it = window.begin == sequence + 1 and not window.restarts
    return window.begin <= sequence <= window.end or follows_it


def _why_not(sequence: int, windows: Sequence[Window]) -> str:
    later = next((window for window in windows if window.begin > sequence), None)
    if later is None:
        return f"the archive ends with {windows[-1].last}, before the backup"
    if later.begin == sequence + 1:
        return f"a service was restored at {later.first}, and rows that a restore imports are in no log"
    first = parse_gtid(later.first)
    missing = replace(first, sequence=sequence + 1), replace(first, sequence=later.after)
    return (
        f"{missing[1].sequence - sequence} transaction(s) after it are missing: {missing[0]} to {missing[1]}"
    )


def _between(one: Window, other: Window) -> Gap:
    before = parse_gtid(other.first)
    missing = other.begin - one.end - 1
    return Gap(
        first=str(replace(before, sequence=one.end + 1)) if missing else one.last,
        last=str(replace(before, sequence=other.after)) if missing else one.last,
        missing=missing,
        after_time=one.time,
        before_time=other.first_time,
    )
