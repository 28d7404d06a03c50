"""Which backup is brought to a point in time, when nobody named one: a pure function with reasons."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from dbha.backup.binlog.gtid import parse_gtid
from dbha.backup.binlog.target import BeforeGtid, BeforeTime, Target
from dbha.backup.binlog.windows import Restorable
from dbha.errors import UnsafeError, UsageError

_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Reach:
    """A complete backup, and where the archived logs lead from it."""

    id: str
    verified: bool
    finished: datetime
    timeline: str
    until: Restorable


def choose_backup(backups: Sequence[Reach], target: Target) -> str:
    """Return the newest verified backup that the logs bring to the point; less is then left to replay.

    Raises UnsafeError with the reason against each when there is none, UsageError for a GTID that two timelines gave.
    """
    newest_first = sorted(backups, key=lambda backup: backup.finished, reverse=True)
    against = {backup.id: _against(backup, target) for backup in newest_first}
    fit = [backup for backup in newest_first if not against[backup.id]]
    if not fit:
        reasons = "; ".join(f"{name} {why}" for name, why in list(against.items())[:_SHOWN])
        raise UnsafeError(
            f"no backup can be brought to just before {target}: {reasons or 'there is none'}",
            hint="dbha backup list     shows how far each one reaches",
        )
    timelines = sorted({backup.timeline for backup in fit})
    if isinstance(target, BeforeGtid) and len(timelines) > 1:
        raise UsageError(
            f"{target} is another transaction in each of the timelines {', '.join(timelines)}",
            hint=f"dbha restore {fit[0].id} --to {target}     names the timeline by a backup of it",
        )
    return fit[0].id


def _against(backup: Reach, target: Target) -> str:
    """Return why a backup cannot be used, in words; empty when it can."""
    until = backup.until
    if not backup.verified:
        return "is not verified"
    if until.start is None or until.gtid is None or until.time is None:
        return f"cannot be brought further: {until.reason}"
    window = f"reaches from {_utc(backup.finished)}, {until.start} to {_utc(until.time)}, {until.gtid}"
    if isinstance(target, BeforeTime) and not backup.finished <= target.time <= until.time:
        return window
    if isinstance(target, BeforeGtid):
        end = parse_gtid(until.gtid).sequence
        if not parse_gtid(until.start).sequence < target.gtid.sequence <= end:
            return window
    return ""


def _utc(time: datetime) -> str:
    return f"{time:%Y-%m-%dT%H:%M:%SZ}"
