"""Are the backups as they should be? Named tests, each a pure function of what the store holds, limits and time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import IntEnum
from statistics import median

from dbha.backup.estimate import in_mib, store_needs
from dbha.backup.pruning import listed
from dbha.backup.retention import Listed, good_ones
from dbha.backup.store import Status, StoredBackup
from dbha.config.model import BackupCheckPolicy

_COMPARED = 5  # with so many before it the newest backup is compared; one odd one among them does no harm
_CLOCK_MAY_DIFFER = timedelta(minutes=5)
_FAILURES = (Status.FAILED, Status.INTERRUPTED, Status.ORPHANED, Status.BAD, Status.DAMAGED)
_HOUR_S = 3600


class Level(IntEnum):
    """How one test, or all of them, came out; the numbers are the exit codes of Nagios plugins."""

    OK = 0
    WARNING = 1
    CRITICAL = 2


@dataclass(frozen=True, slots=True)
class Sizes:
    """The sizes of a complete backup in bytes: of the data, of the stream unpacked, and of what is stored."""

    kind: str
    data_bytes: int
    raw_bytes: int
    stored_bytes: int


@dataclass(frozen=True, slots=True)
class Known:
    """What the tests look at. `free_bytes` is None for a store that does not tell."""

    backups: tuple[Listed, ...]
    sizes: Mapping[str, Sizes]
    free_bytes: int | None


def known_of(backups: Sequence[StoredBackup], free_bytes: int | None, now: datetime) -> Known:
    """Return what the tests look at, of what a store listed."""
    return Known(
        backups=listed(backups, (), now),
        sizes={backup.id: sizes for backup in backups if (sizes := _sizes(backup))},
        free_bytes=free_bytes,
    )


def _sizes(backup: StoredBackup) -> Sizes | None:
    if (manifest := backup.manifest) is None:
        return None
    return Sizes(
        kind=manifest.kind,
        data_bytes=manifest.data_bytes,
        raw_bytes=manifest.stream.raw_bytes,
        stored_bytes=manifest.stream.stored_bytes,
    )


@dataclass(frozen=True, slots=True)
class Figure:
    """A measured value with its limits in the form of Nagios ranges: `7` is at most 7, `7:` is at least 7."""

    label: str
    value: float
    unit: str
    warning: str = ""
    critical: str = ""

    def __str__(self) -> str:
        return f"{self.label}={self.value:.15g}{self.unit};{self.warning};{self.critical}"


@dataclass(frozen=True, slots=True)
class Result:
    """How one test came out, in words and, where there is something to measure, in figures."""

    name: str
    level: Level
    detail: str
    figure: Figure | None = None


def check(known: Known, policy: BackupCheckPolicy, now: datetime) -> tuple[Result, ...]:
    """Return the result of every test, always in the same order. Backups of only some services count for nothing."""
    good = good_ones([backup for backup in known.backups if not backup.part])
    full = [backup for backup in good if backup.base is None]
    return (
        _age("age", "complete", good, policy.warning_age_h, policy.critical_age_h, now),
        _age(
            "verified", "verified", [backup for backup in good if backup.verified],
            policy.verified_warning_age_h, policy.verified_critical_age_h, now,
        ),
        _age("full", "full", full, policy.full_warning_age_h, policy.full_critical_age_h, now),
        _size([known.sizes[backup.id] for backup in good], policy),
        _failures(known.backups, good, policy),
        _minimum(len(full), policy),
        _room(known.free_bytes, [known.sizes[backup.id] for backup in good], policy),
    )  # fmt: skip


def worst(results: Sequence[Result]) -> Level:
    """Return how all of them together came out."""
    return max((result.level for result in results), default=Level.OK)


def nagios_line(results: Sequence[Result]) -> str:
    """Return the one line that a Nagios plugin prints: what is wrong, worst first, then all figures."""
    wrong = sorted((each for each in results if each.level), key=lambda each: -each.level)
    words = "; ".join(f"{each.name}: {each.detail}" for each in wrong) or f"{len(results)} tests passed"
    figures = " ".join(str(each.figure) for each in results if each.figure)
    return f"BACKUP {worst(results).name} - {words.replace('|', '/')} | {figures}"


def _age(
    name: str, what: str, newest_first: Sequence[Listed], warning_h: float, critical_h: float, now: datetime
) -> Result:
    if not newest_first:
        return Result(name, Level.CRITICAL, f"there is no {what} backup")
    newest = newest_first[0]
    age = now - newest.created
    seconds = max(age.total_seconds(), 0)
    figure = Figure(
        f"{name}_s" if name == "age" else f"{name}_age_s", round(seconds), "s",
        f"{warning_h * _HOUR_S:.15g}", f"{critical_h * _HOUR_S:.15g}",
    )  # fmt: skip
    detail = f"the last {what} backup, {newest.id}, is {in_words(age)} old"
    if age < -_CLOCK_MAY_DIFFER:
        detail = f"the last {what} backup, {newest.id}, is from the future: look at this machine's clock"
        return Result(name, Level.WARNING, detail, figure)
    level = _level(seconds > warning_h * _HOUR_S, seconds > critical_h * _HOUR_S)
    limit_h = critical_h if level is Level.CRITICAL else warning_h
    return Result(name, level, f"{detail}{f' (limit {limit_h:g} h)' if level else ''}", figure)


def _size(newest_first: Sequence[Sizes], policy: BackupCheckPolicy) -> Result:
    """Compare the newest with those before it. Unpacked: how well it was compressed says nothing of the data.

    How much an incremental one holds says nothing of the data either: then the size of all tables is compared.
    """
    is_full = bool(newest_first) and newest_first[0].kind == "full"
    what = "unpacked" if is_full else "of tables"
    alike = (
        [sizes.raw_bytes for sizes in newest_first if sizes.kind == "full"]
        if is_full
        else [sizes.data_bytes for sizes in newest_first]
    )
    usual = median(alike[1 : _COMPARED + 1]) if len(alike) > 1 else 0
    if not usual:
        return Result("size", Level.OK, "there are no two backups to compare")
    change = (alike[0] - usual) / usual * 100
    low, high = -policy.shrunk_percent, policy.grown_percent
    figure = Figure("size_change", round(change, 1), "%", f"{low:g}:{high:g}")
    detail = f"{in_mib(alike[0])} {what}, {change:+.0f} % against those before it"
    level = _level(not low <= change <= high, bad=False)
    limit = f" (limits {low:+g} % and {high:+g} %)" if level else ""
    return Result("size", level, detail + limit, figure)


def _failures(backups: Sequence[Listed], good: Sequence[Listed], policy: BackupCheckPolicy) -> Result:
    last_good = good[0].id if good else ""
    since = sorted(each.id for each in backups if each.status in _FAILURES and each.id > last_good)
    most = policy.critical_failures
    figure = Figure("failures", len(since), "", "0", f"{most - 1}")
    if not since:
        return Result("failures", Level.OK, "none since the last good backup", figure)
    detail = f"{len(since)} since the last good backup, the last is {since[-1]}"
    return Result("failures", _level(True, len(since) >= most), detail, figure)


def _minimum(good: int, policy: BackupCheckPolicy) -> Result:
    """Count the full ones: when one is lost, so is everything that is based on it."""
    least = policy.minimum_good
    detail = f"{good} good full backup{'' if good == 1 else 's'}, at least {least} wanted"
    return Result(
        "minimum", _level(good < least, good < least), detail, Figure("good", good, "", "", f"{least}:")
    )


def _room(free_bytes: int | None, newest_first: Sequence[Sizes], policy: BackupCheckPolicy) -> Result:
    if free_bytes is None:
        return Result("room", Level.OK, "the store does not tell how much room it has")
    full = next((sizes for sizes in newest_first if sizes.kind == "full"), None)
    if full is None:
        figure = Figure("free", free_bytes, "B")
        return Result("room", Level.OK, f"{in_mib(free_bytes)} free, no backup yet to estimate from", figure)
    ratio = full.stored_bytes / full.data_bytes if full.data_bytes else None
    needed = store_needs(full.data_bytes, ratio)
    figure = Figure("free", free_bytes, "B", f"{needed * policy.warning_room}:", f"{needed}:")
    detail = f"{in_mib(free_bytes)} free, the next full backup needs about {in_mib(needed)}"
    return Result(
        "room", _level(free_bytes < needed * policy.warning_room, free_bytes < needed), detail, figure
    )


def _level(wrong: bool, bad: bool) -> Level:
    if bad:
        return Level.CRITICAL
    return Level.WARNING if wrong else Level.OK


def in_words(age: timedelta) -> str:
    """Return an age for people: `50 min`, `7 h`, `3 days`."""
    hours = age.total_seconds() / _HOUR_S
    if hours < 1:
        return f"{max(hours * 60, 0):.0f} min"
    return f"{hours:.0f} h" if hours < 72 else f"{hours / 24:.0f} days"
