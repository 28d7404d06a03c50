"""The point in time that an operator names: replay ends just before it."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from dbha.backup.binlog.events import Transaction
from dbha.backup.binlog.gtid import Gtid, parse_gtid
from dbha.backup.binlog.records import in_utc
from dbha.errors import UsageError

NEWEST = "newest"
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")


@dataclass(frozen=True, slots=True)
class BeforeTime:
    """Up to the first transaction, in the order of the log, that was made at this time or later."""

    time: datetime

    def __str__(self) -> str:
        return self.time.isoformat().replace("+00:00", "Z")

    def reached(self, found: Transaction) -> bool:
        """Return whether this transaction, and so all that follow, must not be replayed."""
        return in_utc(found.time_s) >= self.time


@dataclass(frozen=True, slots=True)
class BeforeGtid:
    """Up to this transaction, which is not replayed: the one before it is the last."""

    gtid: Gtid

    def __str__(self) -> str:
        return str(self.gtid)

    def reached(self, found: Transaction) -> bool:
        """See BeforeTime."""
        return found.gtid.sequence >= self.gtid.sequence


@dataclass(frozen=True, slots=True)
class UpTo:
    """Up to and with this transaction: what an earlier look at the archive found."""

    gtid: Gtid

    def reached(self, found: Transaction) -> bool:
        """See BeforeTime."""
        return found.gtid.sequence > self.gtid.sequence


@dataclass(frozen=True, slots=True)
class Newest:
    """Everything that is archived without a gap."""

    def __str__(self) -> str:
        return NEWEST

    def reached(self, found: Transaction) -> bool:
        """See BeforeTime."""
        del found
        return False


Target = BeforeTime | BeforeGtid | UpTo | Newest


def in_words(backup_id: str, to: str) -> str:
    """Return what is restored from a backup and, when `to` is a point in time, the logs after it."""
    if not to:
        return f"backup {backup_id}"
    point = "just after the newest archived transaction" if to == NEWEST else f"just before {to}"
    return f"{point}, from backup {backup_id}"


def parse_target(text: str) -> Target:
    """Return what `--to` says: a time (UTC where it names no zone), a GTID, or `newest`.

    Logs have times in whole seconds, those at which a transaction's last statement began; so a part of one counts as
    all of it. Raises UsageError.
    """
    if text == NEWEST:
        return Newest()
    if _DATE.fullmatch(text):
        raise UsageError(
            f"{text} is a day, and reads like a GTID as well", hint=f"{text}T00:00:00Z     is a point in time"
        )
    try:
        return BeforeGtid(parse_gtid(text))
    except ValueError:
        pass
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        raise UsageError(
            f"{text!r} is no point in time",
            hint="a time like 2026-11-23T14:30:00Z, a GTID like 1-1-4711, or newest",
        ) from error
    utc = time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    # What was made within a second cannot be told apart, so a part of one cannot be left out either.
    return BeforeTime(utc.replace(microsecond=0) + timedelta(seconds=bool(utc.microsecond)))
