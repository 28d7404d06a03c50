"""One mutating run at a time on this controller: a lock that the kernel frees when its process ends."""

import contextlib
import fcntl
import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from dbha.errors import BusyError, ConfigurationError
from dbha.journal import utc_now

_PATIENCE_S = 0.3  # longer than `is_free` holds the lock, and than a new holder needs to write its name
_PAUSE_S = 0.02


@dataclass(frozen=True, slots=True)
class LockHolder:
    """What the lock's holder wrote down of itself; `run_id` is empty until its run has an id."""

    workflow: str
    run_id: str
    pid: int
    started: str

    def __str__(self) -> str:
        run = f"run {self.run_id}" if self.run_id else "a run that just starts"
        return f"{run} ({self.workflow}), process {self.pid}, since {self.started}"


class ControllerLock:
    """The lock, held. Made by `acquire`; a context manager that releases it at the end.

    Child processes do not inherit it: Python opens files so that they close on exec. The file stays, as
    removing it would let a third process lock a new file while a second one holds the old.
    """

    def __init__(self, descriptor: int, holder: LockHolder) -> None:
        self._descriptor = descriptor
        self._holder = holder
        self._write()

    @classmethod
    def acquire(cls, path: Path, *, workflow: str, run_id: str = "") -> Self:
        """Take the lock. Raises BusyError that names the run which has it, ConfigurationError for a bad path."""
        descriptor = _open(path)
        deadline_s = time.monotonic() + _PATIENCE_S
        while not _try_lock(descriptor):
            if time.monotonic() > deadline_s:
                os.close(descriptor)
                raise _busy(_read(path))
            time.sleep(_PAUSE_S)
        return cls(descriptor, LockHolder(workflow, run_id, os.getpid(), utc_now()))

    def note_run(self, run_id: str) -> None:
        """Write down the id of the run that holds the lock."""
        self._holder = LockHolder(self._holder.workflow, run_id, self._holder.pid, self._holder.started)
        self._write()

    def release(self) -> None:
        """Give the lock back; does nothing the second time."""
        if self._descriptor >= 0:
            os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _write(self) -> None:
        content = json.dumps(asdict(self._holder)).encode() + b"\n"
        os.pwrite(self._descriptor, content, 0)
        os.ftruncate(self._descriptor, len(content))


def is_free(path: Path) -> bool:
    """Return whether no live process holds the lock; takes it for an instant to find out."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return True
    try:
        return _try_lock(descriptor)
    finally:
        os.close(descriptor)


def holder(path: Path) -> LockHolder | None:
    """Return who holds the lock, None where it is free or the holder has not yet written its name."""
    return None if is_free(path) else _read(path)


def _open(path: Path) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise ConfigurationError("the state directory", [f"{path}: {error.strerror}"]) from error


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read(path: Path) -> LockHolder | None:
    with contextlib.suppress(OSError, ValueError, TypeError):  # read while the holder writes
        return LockHolder(**json.loads(path.read_text(encoding="utf-8")))
    return None


def _busy(found: LockHolder | None) -> BusyError:
    who = found or "another process"
    hint = f"dbha runs show {found.run_id}     how far it is" if found and found.run_id else "dbha runs list"
    return BusyError(f"this controller is busy: {who} has not ended", hint=hint)
