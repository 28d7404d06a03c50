"""A store that is a directory. A backup is `<id>`, or `<id>.partial`, `<id>.failed` or `<id>.deleting`."""

import contextlib
import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import BinaryIO

from dbha.backup.chains import judged
from dbha.backup.immutable import LOCK, can_freeze, freeze, new_lock, refuse_locked, thaw
from dbha.backup.keep import KeepMark
from dbha.backup.manifest import BACKUP_ID, Manifest, Verification, sealed
from dbha.backup.records import FAILURE, LOG, MANIFEST, MARK, VERIFICATION, Records
from dbha.backup.store import Status, StoredBackup
from dbha.errors import BusyError, FoundWrongError, UsageError

PARTIAL, FAILED, DELETING = ".partial", ".failed", ".deleting"
_FORMS = ("", PARTIAL, FAILED, DELETING)  # of a name; the first that is there is the one that counts
_PATIENCE_S, _PAUSE_S = 3.0, 0.01  # longer than those who only look hold the lock of a draft
_LOOKS = 20  # while others publish and delete; nobody does so that often
STREAM = "stream.mbs.zst"  # while it is written; then it is called what the manifest says
_BLOCK_BYTES = 1 << 20


class DirectoryStore:
    """See Store. Directories and files are for their owner only: they hold every row of every service."""

    def __init__(self, directory: Path, *, immutable_days: int = 0) -> None:
        self.directory = directory
        self._immutable_days = immutable_days

    @property
    def where(self) -> str:
        """See Store."""
        return str(self.directory)

    def begin(self, backup_id: str, *, go_on: bool = False) -> "DirectoryDraft":
        """See Store."""
        if not BACKUP_ID.fullmatch(backup_id):
            raise UsageError(f"this is not the id of a backup: {backup_id}")
        place = self._place(backup_id)
        if place is not None and (not go_on or place.name == backup_id):
            raise UsageError(f"there is already a backup {backup_id}")
        if place is not None and place.name != f"{backup_id}{PARTIAL}":  # failed, or half deleted
            self.delete(backup_id)
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        return DirectoryDraft(self.directory, backup_id, self._immutable_days)

    def list(self) -> tuple[StoredBackup, ...]:
        """See Store."""
        for _ in range(_LOOKS):
            with contextlib.suppress(FileNotFoundError):  # published or deleted just now
                return self._look_once()
        return self._look_once()

    def manifest(self, backup_id: str) -> Manifest:
        """See Store."""
        return _records(self.directory / backup_id).manifest()

    def definitions_file(self, backup_id: str) -> bytes:
        """See Store."""
        return _records(self.directory / backup_id).definitions_file()

    def accounts_file(self, backup_id: str) -> bytes | None:
        """See Store."""
        return _records(self.directory / backup_id).accounts_file()

    def open_stream(self, backup_id: str) -> BinaryIO:
        """See Store."""
        try:
            return (self.directory / backup_id / self.manifest(backup_id).stream.file).open("rb")
        except OSError as error:
            raise FoundWrongError(
                f"backup {backup_id} has no stream: {error.strerror}", hint="dbha backup list"
            ) from error

    def record_verification(self, verification: Verification) -> None:
        """See Store."""
        _replace_durably(self._whole(verification.backup) / VERIFICATION, sealed(verification))

    def record_mark(self, mark: KeepMark) -> None:
        """See Store."""
        _replace_durably(self._whole(mark.backup) / MARK, sealed(mark))

    def delete(self, backup_id: str) -> None:
        """See Store."""
        place = self._place(backup_id)
        if place is None:
            raise UsageError(f"there is no backup {backup_id}", hint="dbha backup list")
        if _is_locked(place):
            raise BusyError(f"backup {backup_id} is being written")
        refuse_locked(backup_id, _records(place).lock(), datetime.now(UTC))
        leaving = self.directory / f"{backup_id}{DELETING}"
        if place != leaving:  # renamed first: half a backup must never look like a whole one
            place.rename(leaving)
            _sync_directory(self.directory)
        thaw(leaving.iterdir())
        shutil.rmtree(leaving)
        _sync_directory(self.directory)

    def locks(self) -> str:
        """See Store."""
        if not self._immutable_days:
            return ""
        also = (
            "files cannot be changed by root either (chattr +i)"
            if can_freeze(self.directory)
            else "by dbha alone: chattr +i needs root and a file system that has it"
        )
        return f"{self._immutable_days} days, {also}"

    def free_bytes(self) -> int:
        """See Store."""
        existing = next(path for path in (self.directory, *self.directory.parents) if path.exists())
        return shutil.disk_usage(existing).free

    def close(self) -> None:
        """See Store."""

    def _look_once(self) -> tuple[StoredBackup, ...]:
        if not self.directory.is_dir():
            return ()
        names = {place.name for place in self.directory.iterdir() if place.is_dir()}
        ids = sorted({name[:21] for name in names if BACKUP_ID.fullmatch(name[:21])})
        forms = [[each for each in _FORMS if f"{backup_id}{each}" in names] for backup_id in ids]
        # What else lies there, say a copy made by hand, is nobody's: nothing must be done to an id because of it.
        found = [f"{backup_id}{each[0]}" for backup_id, each in zip(ids, forms, strict=True) if each]
        return judged([_look(self.directory / name) for name in found])

    def _whole(self, backup_id: str) -> Path:
        """Return where a backup is that was complete once. Raises UsageError when there is none, or none any more."""
        place = self.directory / backup_id
        if not place.is_dir():
            raise UsageError(f"there is no whole backup {backup_id}", hint="dbha backup list")
        return place

    def _place(self, backup_id: str) -> Path | None:
        names = [f"{backup_id}{form}" for form in _FORMS]
        return next((self.directory / name for name in names if (self.directory / name).is_dir()), None)


class DirectoryDraft:
    """See Draft. Holds a lock on its directory, so that everybody sees whether somebody is still at it."""

    def __init__(self, directory: Path, backup_id: str, immutable_days: int) -> None:
        self._directory, self._id, self._immutable_days = directory, backup_id, immutable_days
        self._partial = directory / f"{backup_id}{PARTIAL}"
        self._partial.mkdir(mode=0o700, exist_ok=True)
        self._lock = os.open(self._partial, os.O_RDONLY | os.O_DIRECTORY)
        deadline_s = time.monotonic() + _PATIENCE_S
        while not _try_lock(self._lock, fcntl.LOCK_EX):
            if time.monotonic() > deadline_s:
                os.close(self._lock)
                raise BusyError(f"backup {backup_id} is being written")
            time.sleep(_PAUSE_S)
        self._stream = open(self._partial / STREAM, "ab", buffering=0, opener=_private)  # noqa: SIM115

    def kept(self) -> Iterator[bytes]:
        """See Draft."""
        with (self._partial / STREAM).open("rb") as stream:
            while block := stream.read(_BLOCK_BYTES):
                yield block

    def write(self, block: bytes) -> None:
        """See Draft."""
        rest = memoryview(block)
        while rest:
            rest = rest[self._stream.write(rest) :]

    def publish(self, beside: Mapping[str, bytes], manifest: Manifest) -> None:
        """See Draft."""
        os.fsync(self._stream.fileno())
        self._stream.close()
        (self._partial / STREAM).replace(self._partial / manifest.stream.file)
        for name, content in beside.items():
            _write_durably(self._partial / name, content)
        if self._immutable_days:
            lock = new_lock(self._id, self._immutable_days, datetime.now(UTC))
            _write_durably(self._partial / LOCK, sealed(lock))
        _write_durably(self._partial / MANIFEST, sealed(manifest))
        _sync_directory(self._partial)
        self._partial.rename(self._directory / self._id)
        _sync_directory(self._directory)
        if self._immutable_days:  # what is written beside it later, a verdict or a mark, is not among them
            freeze((self._directory / self._id).iterdir())
        os.close(self._lock)

    def abandon(self, reason: str, log: bytes) -> None:
        """See Draft."""
        self._stream.close()
        with contextlib.suppress(OSError):  # what cannot be said stays visible as an interrupted backup
            for path in self._partial.iterdir():
                path.unlink()
            _write_durably(self._partial / LOG, log)
            _write_durably(self._partial / FAILURE, json.dumps({"schema": 1, "reason": reason}).encode())
            self._partial.rename(self._directory / f"{self._id}{FAILED}")
            _sync_directory(self._directory)
        os.close(self._lock)

    def leave(self) -> None:
        """See Draft."""
        self._stream.close()
        os.close(self._lock)


def _look(place: Path) -> StoredBackup:
    backup_id, suffix = place.name[:21], place.name[21:]
    if suffix:
        status, reason = _why_not_complete(place, suffix)
        return StoredBackup(backup_id, status, reason, _size(place))
    opened = _identity(place)
    found = _records(place).look(_size(place), partial(_problem, place))
    if found.status is Status.DAMAGED and _identity(place) != opened:
        raise FileNotFoundError(place)  # another took its place meanwhile: nothing is known of either
    return found


def _records(place: Path) -> Records:
    return Records(place.name[:21], lambda file: (place / file).read_bytes())


def _identity(place: Path) -> tuple[int, int]:
    found = place.stat()
    return found.st_ino, found.st_ctime_ns


def _problem(place: Path, manifest: Manifest) -> str:
    """Return what anybody can see to be wrong with a backup, in words; empty when nothing is."""
    try:
        size_bytes = (place / manifest.stream.file).stat().st_size
        (place / manifest.definitions.file).stat()
    except OSError as error:
        if not place.is_dir():  # it was deleted just now
            raise
        return f"{Path(error.filename).name} cannot be read: {error.strerror}"
    if size_bytes != manifest.stream.stored_bytes:
        return f"its stream has {size_bytes} bytes instead of {manifest.stream.stored_bytes}"
    return ""


def _why_not_complete(place: Path, suffix: str) -> tuple[Status, str]:
    if suffix == FAILED:
        return Status.FAILED, _records(place).reason()
    if _is_locked(place):
        return Status.WRITING, "it is being written"
    return Status.INTERRUPTED, "its deletion was cut off" if suffix == DELETING else "its writing was cut off"


def _size(place: Path) -> int:
    total_bytes = 0
    for path in place.iterdir():
        with contextlib.suppress(OSError):  # deleted or renamed just now
            total_bytes += path.stat().st_size
    return total_bytes


def _is_locked(place: Path) -> bool:
    """Tell whether somebody writes there. To find out it takes the lock for an instant, shared with all who look."""
    with _opened(place) as directory:
        return not _try_lock(directory, fcntl.LOCK_SH)


def _try_lock(directory: int, kind: int) -> bool:
    try:
        fcntl.flock(directory, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _write_durably(path: Path, content: bytes) -> None:
    with open(path, "wb", opener=_private) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _replace_durably(path: Path, content: bytes) -> None:
    """Put a file in the place of another; who reads meanwhile, or after a power cut, sees one of the two whole."""
    new = path.with_name(f"{path.name}.new")
    _write_durably(new, content)
    new.replace(path)
    _sync_directory(path.parent)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _sync_directory(path: Path) -> None:
    with _opened(path) as directory:
        os.fsync(directory)


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield directory
    finally:
        os.close(directory)
