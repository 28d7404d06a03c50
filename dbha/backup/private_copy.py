"""A private server on a backup, for looking around in it: unpacked and prepared in a directory of its own.

It listens on a socket in that directory and nowhere else, knows no cluster, and lives on when dbha ends. What is
where is written down before anything is made, so a copy whose maker was killed is listed and can be removed.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import select
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from dbha.backup.prepared import MARKER
from dbha.backup.private_server import PrivateServerError, donors_options, server_argv, wait_for
from dbha.cluster.saved_state import STATE_FILE
from dbha.errors import BusyError, DbhaError, UnsafeError, UsageError
from dbha.node_server import servers_on

MARK = "DBHA-PRIVATE-COPY.txt"
_POOL_BYTES = 64 << 20
_LOW_MEMORY = (
    "--performance-schema=OFF", "--key-buffer-size=1M", "--aria-pagecache-buffer-size=8M", "--max-connections=20",
    "--innodb-log-buffer-size=2M",
)  # fmt: skip
_STOP_DEADLINE_S, _KILL_DEADLINE_S = 60, 10
# Of no history, and not to begin one: a server of a cluster that is started on it refuses, or fetches all data anew.
_NO_STATE = "# GALERA saved state\nversion: 2.1\nuuid:    {uuid}\nseqno:   -1\nsafe_to_bootstrap: 0\n".format(
    uuid="00000000-0000-0000-0000-000000000000"
)
_WORDS = (
    "This is a private copy of a backup, made by `dbha restore {backup} --restore-to {directory}`.\n"
    "It is no part of any cluster and must not be started in one.\n"
    "dbha sql --restored {directory}           looks around in it\n"
    "dbha restore --forget-dir {directory}     stops its server and removes it\n"
)


@dataclass(frozen=True, slots=True)
class PrivateCopy:
    """What is known of one copy; `ready` once all of it was there. `pid` is that of its server, if one runs."""

    directory: Path
    backup_id: str
    created: datetime
    ready: bool

    @property
    def datadir(self) -> Path:
        """Where its tables are."""
        return self.directory / self.backup_id

    @property
    def pid(self) -> int | None:
        """The process id of its server; None while none runs."""
        return next(servers_on(str(self.datadir)), None)


def refuse_place(directory: Path, taken: Sequence[Path]) -> None:
    """Raise UnsafeError for a directory that is not empty, or that is inside of a data directory or a `taken` one."""
    place = directory.resolve()
    for other in taken:
        if place.is_relative_to(other.resolve()):
            raise UnsafeError(f"{directory} is inside of {other}, which is in use", hint=_ELSEWHERE)
    for parent in (place, *place.parents):
        if (parent / STATE_FILE).exists() or (parent / "ibdata1").exists():
            raise UnsafeError(
                f"{directory} is inside of {parent}, which is a data directory", hint=_ELSEWHERE
            )
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise UnsafeError(f"{directory} is not an empty directory", hint=_ELSEWHERE)


_ELSEWHERE = "name a directory that is empty, or not there yet"


class PrivateCopies:
    """The copies that a controller made; `register` is the directory where it writes them down."""

    def __init__(self, register: Path) -> None:
        self._register = register

    def list(self) -> tuple[PrivateCopy, ...]:
        """Return all copies, oldest first."""
        found = [_read(file) for file in self._register.glob("*.json")]
        return tuple(sorted((copy for copy in found if copy), key=lambda copy: copy.created))

    def find(self, name: str) -> PrivateCopy:
        """Return the copy in this directory, or the newest of this backup. Raises UsageError without one."""
        place = Path(name).absolute()
        for copy in reversed(self.list()):
            if copy.backup_id == name or copy.directory == place:
                return copy
        raise UsageError(
            f"there is no private copy {name}",
            hint="dbha restore --list-dirs\ndbha restore ID --restore-to DIR     makes one",
        )

    def make(
        self,
        directory: Path,
        backup_id: str,
        taken: Sequence[Path],
        prepare: Callable[[Path], Path],
    ) -> PrivateCopy:
        """Make a copy and start its server; `prepare` makes the tree of the backup below a directory.

        What an interrupted attempt left for the same backup is used, or made anew. Raises UnsafeError for a place
        that must not be used, BusyError while another process makes or removes a copy there.
        """
        directory = directory.absolute()
        with self._only_one(directory) as file:
            known = _read(file)
            if known is None:
                refuse_place(directory, taken)
            elif known.backup_id != backup_id or known.ready:
                raise UnsafeError(
                    f"{directory} has a private copy of backup {known.backup_id} already",
                    hint=f"dbha sql --restored {directory}\ndbha restore --forget-dir {directory}",
                )
            copy = PrivateCopy(directory, backup_id, datetime.now(UTC), ready=False)
            self._note(file, copy)
            try:
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                prepare(directory)
                _mark(copy)
                serve(copy)
            except BaseException:  # a signal, too, leaves nothing; only a kill does, and that is written down
                _remove(copy, file)
                raise
            ready = PrivateCopy(directory, backup_id, copy.created, ready=True)
            self._note(file, ready)
        return ready

    def forget(self, copy: PrivateCopy) -> bool:
        """Stop the copy's server and remove all of it; return whether the server ran.

        Only what was made there is removed. Can be repeated after it was cut off anywhere.
        """
        with self._only_one(copy.directory) as file:
            servers = tuple(servers_on(str(copy.datadir)))
            for pid in servers:
                end(pid)
            _remove(copy, file)
        return bool(servers)

    def _note(self, file: Path, copy: PrivateCopy) -> None:
        new = file.with_suffix(".new")
        with new.open("w") as written:
            json.dump(
                {
                    "schema": 1, "directory": str(copy.directory), "backup": copy.backup_id,
                    "created": copy.created.isoformat(), "ready": copy.ready,
                },
                written,
            )  # fmt: skip
            written.flush()
            os.fsync(written.fileno())
        new.replace(file)

    @contextmanager
    def _only_one(self, directory: Path) -> Iterator[Path]:
        """Yield the file of the register; nobody else makes or removes a copy in the directory meanwhile."""
        self._register.mkdir(mode=0o700, parents=True, exist_ok=True)
        name = hashlib.sha256(os.fsencode(directory)).hexdigest()[:16]
        with (self._register / f"{name}.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BusyError(f"another process makes or removes a private copy in {directory}") from None
            yield self._register / f"{name}.json"


def serve(copy: PrivateCopy) -> int:
    """Start the copy's server unless it runs, and return its process id. Raises UnsafeError when it does not."""
    if (running := copy.pid) is not None:
        return running
    (copy.datadir / MARKER).unlink(
        missing_ok=True
    )  # a server writes to it: nothing is to be imported from it
    argv = (
        *server_argv(copy.datadir, donors_options(copy.datadir), _POOL_BYTES, as_root=os.geteuid() == 0),
        *_LOW_MEMORY,
    )
    process = subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        cwd=copy.datadir, start_new_session=True,
    )  # fmt: skip
    try:
        wait_for(copy.datadir, process)
    except BaseException as error:
        process.kill()
        process.wait()
        if isinstance(error, PrivateServerError):
            raise UnsafeError(
                f"no server can run on {copy.datadir}: {error}",
                hint=f"dbha restore --forget-dir {copy.directory}",
            ) from error
        raise
    return process.pid


def end(pid: int) -> None:
    """Stop a server, by force when it does not end in time. Raises DbhaError when it lives on."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        for number, deadline_s in ((signal.SIGTERM, _STOP_DEADLINE_S), (signal.SIGKILL, _KILL_DEADLINE_S)):
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(handle, number)
            if select.select([handle], [], [], deadline_s)[0]:
                return
    finally:
        os.close(handle)
    raise DbhaError(f"process {pid} does not end", unchanged="the copy is still there")


def _remove(copy: PrivateCopy, file: Path) -> None:
    for place in (copy.datadir, *copy.directory.glob(f"{copy.backup_id}.*.partial")):
        shutil.rmtree(place, ignore_errors=True)
    for left in (copy.directory / MARK, copy.directory / ".lock"):
        left.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # something of somebody else's is in it: that stays
        copy.directory.rmdir()
    file.unlink(missing_ok=True)


def _mark(copy: PrivateCopy) -> None:
    (copy.datadir / STATE_FILE).write_text(_NO_STATE)
    words = _WORDS.format(backup=copy.backup_id, directory=copy.directory)
    for place in (copy.directory, copy.datadir):
        (place / MARK).write_text(words)


def _read(file: Path) -> PrivateCopy | None:
    try:
        found = json.loads(file.read_bytes())
        return PrivateCopy(
            Path(found["directory"]),
            found["backup"],
            datetime.fromisoformat(found["created"]),
            ready=bool(found["ready"]),
        )
    except (OSError, ValueError, KeyError):
        return None
