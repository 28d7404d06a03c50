"""A store that is somewhere else, over nothing but objects: see remote_names for how a backup lies there.

The manifest is written last and deleted first, so that half a backup never looks like a whole one.
"""

import contextlib
import json
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from typing import BinaryIO

from dbha.backup.chains import judged
from dbha.backup.immutable import LOCK, new_lock, refuse_locked
from dbha.backup.keep import KeepMark
from dbha.backup.manifest import BACKUP_ID, Manifest, Verification, sealed
from dbha.backup.objects import Objects
from dbha.backup.records import FAILURE, LOG, MANIFEST, MARK, VERIFICATION, Records
from dbha.backup.remote_names import PART_BYTES, WRITER, by_backup, part_of, parts_of, problem_of
from dbha.backup.remote_stream import open_parts
from dbha.backup.store import Status, StoredBackup
from dbha.backup.writer import REFRESH_S, Writer, is_at_work, started_at, this_kernel, this_process
from dbha.errors import BusyError, DbhaError, FoundWrongError, UsageError

_LOOKS_SIDE_BY_SIDE = 8
_LET_GO: set[str] = (
    set()
)  # drafts of this living process that nobody writes any more, though their note may say so
_LISTING_LAGS_S = (0.5, 2.0, 8.0)  # a busy Swift may list an object a moment after it has it


class RemoteStore:
    """See Store."""

    directory = None

    def __init__(self, objects: Objects, *, part_bytes: int = PART_BYTES, locked_days: int = 0) -> None:
        self._objects, self._part_bytes, self._locked_days = objects, part_bytes, locked_days

    @property
    def where(self) -> str:
        """See Store."""
        return self._objects.where

    def begin(self, backup_id: str, *, go_on: bool = False) -> "RemoteDraft":
        """See Store."""
        if not BACKUP_ID.fullmatch(backup_id):
            raise UsageError(f"this is not the id of a backup: {backup_id}")
        sizes = self._sizes(backup_id)
        if MANIFEST in sizes or (sizes and not go_on):
            raise UsageError(f"there is already a backup {backup_id} in {self.where}")
        self._refuse_while_written(backup_id, sizes)
        return RemoteDraft(self._objects, backup_id, sizes, self._part_bytes, self._locked_days)

    def list(self) -> tuple[StoredBackup, ...]:
        """See Store."""
        found = by_backup(self._objects.list(""))
        with ThreadPoolExecutor(_LOOKS_SIDE_BY_SIDE) as pool:
            return judged(list(pool.map(lambda each: self._look(*each), found.items())))

    def manifest(self, backup_id: str) -> Manifest:
        """See Store."""
        return self._records(backup_id).manifest()

    def definitions_file(self, backup_id: str) -> bytes:
        """See Store."""
        return self._records(backup_id).definitions_file()

    def accounts_file(self, backup_id: str) -> bytes | None:
        """See Store."""
        return self._records(backup_id).accounts_file()

    def open_stream(self, backup_id: str) -> BinaryIO:
        """See Store. Each part is proven before a byte of it is handed on."""
        manifest, sizes = self.manifest(backup_id), self._sizes(backup_id)
        parts = parts_of(sizes)
        if problem := problem_of(parts, manifest.stream.stored_bytes):
            raise FoundWrongError(f"the stream of backup {backup_id}: {problem}", hint="dbha backup list")
        return open_parts(parts, lambda part: self._objects.get(f"{backup_id}/{part.file}"), backup_id)

    def record_verification(self, verification: Verification) -> None:
        """See Store."""
        self._require_whole(verification.backup)
        self._objects.put(f"{verification.backup}/{VERIFICATION}", sealed(verification))

    def record_mark(self, mark: KeepMark) -> None:
        """See Store."""
        self._require_whole(mark.backup)
        self._objects.put(f"{mark.backup}/{MARK}", sealed(mark))

    def delete(self, backup_id: str) -> None:
        """See Store."""
        sizes = self._sizes(backup_id)
        if not sizes:
            raise UsageError(f"there is no backup {backup_id} in {self.where}", hint="dbha backup list")
        if MANIFEST not in sizes:
            self._refuse_while_written(backup_id, sizes)
        refuse_locked(backup_id, self._records(backup_id, sizes).lock(), datetime.now(UTC))
        for file in sorted(sizes, key=lambda file: (file != MANIFEST, file == LOCK, file)):
            self._objects.delete(f"{backup_id}/{file}")

    def locks(self) -> str:
        """See Store."""
        return self._objects.locks()

    def free_bytes(self) -> int | None:
        """See Store."""
        return self._objects.free_bytes()

    def close(self) -> None:
        """See Store."""
        self._objects.close()

    def _sizes(self, backup_id: str) -> dict[str, int]:
        return by_backup(self._objects.list(f"{backup_id}/")).get(backup_id, {})

    def _look(self, backup_id: str, sizes: Mapping[str, int]) -> StoredBackup:
        records = self._records(backup_id, sizes)
        if MANIFEST in sizes:
            return records.look(sum(sizes.values()), partial(_problem, sizes))
        status, reason = self._why_not_complete(records, sizes)
        return StoredBackup(backup_id, status, reason, sum(sizes.values()))

    def _records(self, backup_id: str, sizes: Mapping[str, int] | None = None) -> Records:
        """Return the records of a backup; what a listing, `sizes`, does not have is not asked for."""

        def read(file: str) -> bytes:
            if sizes is not None and file not in sizes:
                raise FileNotFoundError(file)
            return self._objects.get(f"{backup_id}/{file}")

        return Records(backup_id, read)

    def _require_whole(self, backup_id: str) -> None:
        """Raise UsageError for a backup that was never complete, or is not there any more."""
        try:
            self._objects.get(f"{backup_id}/{MANIFEST}")
        except FileNotFoundError as error:
            raise UsageError(
                f"there is no whole backup {backup_id} in {self.where}", hint="dbha backup list"
            ) from error

    def _why_not_complete(self, records: Records, sizes: Mapping[str, int]) -> tuple[Status, str]:
        if FAILURE in sizes:
            return Status.FAILED, records.reason()
        if self._is_written(records.backup_id, sizes):
            return Status.WRITING, "it is being written"
        return Status.INTERRUPTED, "its writing or its deletion was cut off"

    def _refuse_while_written(self, backup_id: str, sizes: Mapping[str, int]) -> None:
        if self._is_written(backup_id, sizes):
            raise BusyError(
                f"backup {backup_id} in {self.where} is being written",
                hint="if the controller that wrote it is gone, try again in 10 minutes",
            )

    def _is_written(self, backup_id: str, sizes: Mapping[str, int]) -> bool:
        if WRITER not in sizes or FAILURE in sizes:
            return False
        name, writer = f"{backup_id}/{WRITER}", None
        try:
            age_s = self._objects.age_s(name)
            with contextlib.suppress(ValueError):  # cut short or foreign: its age alone counts
                writer = Writer.model_validate_json(self._objects.get(name))
        except FileNotFoundError:  # it was published or deleted just now
            return False
        if writer == this_process() and _key(self._objects, backup_id) in _LET_GO:
            return False
        started = started_at(writer.process) if writer else None
        return is_at_work(writer, kernel=this_kernel(), started=started, age_s=age_s)


class RemoteDraft:
    """See Draft. What an interrupted attempt left is there in `sizes`; its parts are not sent again."""

    def __init__(
        self,
        objects: Objects,
        backup_id: str,
        sizes: Mapping[str, int],
        part_bytes: int,
        locked_days: int,
    ) -> None:
        self._objects, self._id, self._part_bytes = objects, backup_id, part_bytes
        # What the server locked for an earlier attempt is locked too briefly for this one: it is sent again.
        self._there = {} if locked_days else dict(sizes)
        self._lock = new_lock(backup_id, locked_days, datetime.now(UTC)) if locked_days else None
        self._written: dict[str, int] = {}
        self._buffer = bytearray()
        self._told_s = 0.0
        for file in (FAILURE, LOG):  # of an attempt before
            if file in sizes:
                self._objects.delete(self._name(file))
        _LET_GO.discard(_key(objects, backup_id))
        self._tell()

    def kept(self) -> Iterator[bytes]:
        """See Draft. Nothing needs to be read back: a part that is there already is recognized by its name."""
        return iter(())

    def write(self, block: bytes) -> None:
        """See Draft."""
        self._buffer += block
        while len(self._buffer) >= self._part_bytes:
            self._store_part(self._part_bytes)
        self._tell()

    def publish(self, beside: Mapping[str, bytes], manifest: Manifest) -> None:
        """See Draft."""
        if self._buffer:
            self._store_part(len(self._buffer))
        for file, content in beside.items():
            self._objects.put(self._name(file), content)
            self._written[file] = len(content)
        if self._lock:
            self._objects.put(self._name(LOCK), sealed(self._lock))
            self._written[LOCK] = len(sealed(self._lock))
        self._require_all_and_nothing_else()
        self._objects.put(self._name(MANIFEST), sealed(manifest))
        self._objects.delete(self._name(WRITER))

    def abandon(self, reason: str, log: bytes) -> None:
        """See Draft."""
        self._buffer.clear()
        _LET_GO.add(_key(self._objects, self._id))
        with contextlib.suppress(OSError, DbhaError):  # what cannot be said stays visible as interrupted
            self._objects.put(self._name(LOG), log)
            content = json.dumps({"schema": 1, "reason": reason}).encode()
            self._objects.put(self._name(FAILURE), content)
            for file in self._files_now():
                if file not in (LOG, FAILURE):
                    self._objects.delete(self._name(file))

    def leave(self) -> None:
        """See Draft."""
        self._buffer.clear()
        _LET_GO.add(_key(self._objects, self._id))
        with contextlib.suppress(OSError, DbhaError):
            self._objects.delete(self._name(WRITER))

    def _store_part(self, size_bytes: int) -> None:
        content = bytes(memoryview(self._buffer)[:size_bytes])
        del self._buffer[:size_bytes]
        part = part_of(len(self._written) + 1, content)
        if self._there.get(part.file) != size_bytes:
            self._objects.put(self._name(part.file), content)
        self._written[part.file] = size_bytes

    def _require_all_and_nothing_else(self) -> None:
        """Compare the store with what was written: another process may have taken this draft for a dead one's."""
        for pause_s in (*_LISTING_LAGS_S, None):
            now = self._files_now()
            lost = [file for file, size in self._written.items() if now.get(file) != size]
            if not lost or pause_s is None or not all(self._is_there(file) for file in lost):
                break
            time.sleep(pause_s)
        if MANIFEST in now:
            raise UsageError(f"another process has published backup {self._id} meanwhile")
        if lost:
            raise OSError(f"{len(lost)} of {len(self._written)} files are not there any more")
        for file in now.keys() - self._written.keys() - {WRITER}:
            self._objects.delete(self._name(file))

    def _is_there(self, file: str) -> bool:
        try:
            self._objects.age_s(self._name(file))
        except FileNotFoundError:
            return False
        return True

    def _files_now(self) -> dict[str, int]:
        return by_backup(self._objects.list(f"{self._id}/")).get(self._id, {})

    def _tell(self) -> None:
        """Say, now and then, that somebody is at it."""
        now_s = time.monotonic()
        if not self._told_s or now_s - self._told_s > REFRESH_S:
            self._objects.put(self._name(WRITER), this_process().model_dump_json(by_alias=True).encode())
            self._told_s = now_s

    def _name(self, file: str) -> str:
        return f"{self._id}/{file}"


def _problem(sizes: Mapping[str, int], manifest: Manifest) -> str:
    """Return what a listing shows to be wrong with a backup, in words; empty when nothing is."""
    if manifest.definitions.file not in sizes:
        return f"{manifest.definitions.file} is missing"
    return problem_of(parts_of(sizes), manifest.stream.stored_bytes)


def _key(objects: Objects, backup_id: str) -> str:
    return f"{objects.where} {backup_id}"
