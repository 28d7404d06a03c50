"""The mark that keeps a backup: whoever set it, neither retention nor `backup delete` may remove the backup."""

from datetime import UTC, date, datetime
from typing import Literal

from pydantic import Field

from dbha import __version__
from dbha.backup.manifest import BackupId, Record
from dbha.errors import UnsafeError

UNREADABLE = "its mark cannot be read"


class KeepMark(Record):
    """Whether a backup is kept, until the end of which day (UTC; None is for ever), and why.

    A mark that was cleared stays, with `kept` false: that somebody decided so is worth knowing.
    """

    schema_version: Literal[1] = Field(default=1, alias="schema")
    backup: BackupId
    kept: bool
    until: date | None = None
    note: str = ""
    when: datetime
    dbha_version: str = __version__

    def holds(self, now: datetime) -> bool:
        """Whether it keeps its backup at this moment."""
        return self.kept and (self.until is None or now.astimezone(UTC).date() <= self.until)

    def __str__(self) -> str:
        until = f" until {self.until}" if self.until else ""
        return f"kept{until}{f': {self.note}' if self.note else ''}"


def unreadable_mark(backup_id: str, now: datetime) -> KeepMark:
    """Return what a damaged mark counts as: it keeps, since nobody can tell that it does not."""
    return KeepMark(backup=backup_id, kept=True, note=UNREADABLE, when=now)


def refuse_kept(backup_id: str, mark: KeepMark | None, now: datetime) -> None:
    """Raise UnsafeError for a backup that is kept now."""
    if mark is not None and mark.holds(now):
        raise UnsafeError(
            f"backup {backup_id} is {mark}", hint=f"dbha backup keep {backup_id} --clear     then delete it"
        )
