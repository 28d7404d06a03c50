"""The lock of a backup that must not be deleted for some days, by whoever it may be."""

import contextlib
import fcntl
import os
import struct
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

from pydantic import Field

from dbha.backup.manifest import BackupId, Record
from dbha.errors import UnsafeError

LOCK = "lock.json"
_UNREADABLE_IS_LOCKED = datetime(9999, 1, 1, tzinfo=UTC)
# ioctl_iflags(2): the flags of an inode, and the one that `chattr +i` sets.
_GET_FLAGS, _SET_FLAGS, _IMMUTABLE = 0x80086601, 0x40086602, 0x10


class Lock(Record):
    """Until when a backup must not be deleted. It is written with the backup, and never changed."""

    schema_version: Literal[1] = Field(default=1, alias="schema")
    backup: BackupId
    until: datetime

    def holds(self, now: datetime) -> bool:
        """Whether the backup must not be deleted at this moment."""
        return now < self.until

    def __str__(self) -> str:
        if self.until == _UNREADABLE_IS_LOCKED:
            return "locked: its lock cannot be read"
        return f"locked until {self.until.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def new_lock(backup_id: str, days: int, now: datetime) -> Lock:
    """Return the lock of a backup that is being written now."""
    return Lock(backup=backup_id, until=now + timedelta(days=days))


def unreadable_lock(backup_id: str) -> Lock:
    """Return what a damaged lock counts as: it holds, since nobody can tell that it does not."""
    return Lock(backup=backup_id, until=_UNREADABLE_IS_LOCKED)


def refuse_locked(backup_id: str, lock: Lock | None, now: datetime) -> None:
    """Raise UnsafeError for a backup that is locked now. There is no option that lifts a lock."""
    if lock is not None and lock.holds(now):
        raise UnsafeError(
            f"backup {backup_id} is {lock}",
            hint="dbha backup prune     deletes it when its time has come",
        )


def freeze(files: Iterator[Path]) -> bool:
    """Set the immutable flag of files, as `chattr +i`; False where the file system or the account cannot."""
    were_set = [_set_immutable(file, wanted=True) for file in files]
    return all(were_set)


def thaw(files: Iterator[Path]) -> None:
    """Take the immutable flag off files, where it is set and may be."""
    for file in files:
        _set_immutable(file, wanted=False)


def can_freeze(directory: Path) -> bool:
    """Tell whether files in this directory can be made immutable here; it tries with one of its own."""
    if not directory.is_dir():
        return False
    probe = directory / f".dbha-probe-{os.getpid()}"
    try:
        probe.touch(mode=0o600)
        return freeze(iter([probe]))
    except OSError:
        return False
    finally:
        thaw(iter([probe]))
        with contextlib.suppress(OSError):
            probe.unlink()


def _set_immutable(file: Path, *, wanted: bool) -> bool:
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        (flags,) = struct.unpack("i", fcntl.ioctl(descriptor, _GET_FLAGS, struct.pack("i", 0)))
        new = flags | _IMMUTABLE if wanted else flags & ~_IMMUTABLE
        if new != flags:
            fcntl.ioctl(descriptor, _SET_FLAGS, struct.pack("i", new))
    except OSError:  # not root, or a file system without it
        return False
    finally:
        os.close(descriptor)
    return True
