"""A server on a prepared backup, outside any cluster: it listens on a socket in that directory and nowhere else."""

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dbha.backup.children import start
from dbha.backup.prepared import MARKER
from dbha.backup.tool_files import layout_options
from dbha.database import Account, Session, connect
from dbha.errors import DbhaError
from dbha.inventory import Node
from dbha.secrets import Secret

SOCKET, LOG = "dbha-private.sock", "dbha-private.log"

_START_DEADLINE_S = 120
_STOP_DEADLINE_S = 120
_ENDED_DEADLINE_S = 10
_SHOWN = 3  # of what it complained about: the first is the cause
_LEAST_POOL_BYTES = 128 << 20
_NOBODY = Account("root", Secret(""))  # grants are not read, and nothing but this socket leads here


class PrivateServerError(DbhaError):
    """The server did not start, or ended by itself; `log` is what it said last, `ended` how, if it did."""

    def __init__(self, message: str, *, log: str, ended: int | None) -> None:
        errors = [line.partition("[ERROR] ")[2] for line in log.splitlines() if "[ERROR] " in line]
        super().__init__(f"{message}: {'; '.join(errors[:_SHOWN]) or log[-400:] or 'it left no log'}")
        self.log = log
        self.ended = ended


class PrivateServer:
    """A running private server."""

    def __init__(self, datadir: Path, process: "subprocess.Popen[bytes]") -> None:
        self._datadir = datadir
        self._process = process

    @contextmanager
    def session(self) -> Iterator[Session]:
        """Yield a session, which waits for answers as long as they take."""
        # The path of a socket may have 107 bytes, and a data directory may well have more: so not by its name.
        directory = os.open(self._datadir, os.O_RDONLY | os.O_DIRECTORY)
        try:
            node = Node("the private server", "localhost", 0, str(self._datadir))
            with connect(node, _NOBODY, unix_socket=f"/proc/self/fd/{directory}/{SOCKET}") as session:
                yield session
        finally:
            os.close(directory)

    def kill(self) -> None:
        """End the server at once, with whatever it holds still; its engine recovers the next time."""
        self._process.kill()
        self._process.wait()

    def require_alive(self, doing: str) -> None:
        """Raise PrivateServerError if the server ended while it was doing that."""
        with contextlib.suppress(subprocess.TimeoutExpired):  # it closes connections before it is gone
            ended = self._process.wait(_ENDED_DEADLINE_S)
            raise PrivateServerError(
                f"the private server ended while {doing}", log=_log(self._datadir), ended=ended
            )


@contextmanager
def private_server(datadir: Path, *, pool_bytes: int = _LEAST_POOL_BYTES) -> Iterator[PrivateServer]:
    """Run a server on a prepared backup; it is ended whatever happens. Raises PrivateServerError.

    The server writes to it, so its tables can no longer be imported: it loses its mark of being whole.
    """
    (datadir / MARKER).unlink(missing_ok=True)
    argv = server_argv(datadir, donors_options(datadir), pool_bytes, as_root=os.geteuid() == 0)
    with start(argv, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_for(datadir, process)
            yield PrivateServer(datadir, process)
        finally:
            process.terminate()
            try:
                process.wait(_STOP_DEADLINE_S)
            except subprocess.TimeoutExpired:
                process.kill()


def server_argv(datadir: Path, donors_options: str, pool_bytes: int, *, as_root: bool) -> tuple[str, ...]:
    """Return the command of the server; `donors_options` is the `backup-my.cnf` of the backup.

    The socket's path has to be short: it is one from the data directory.
    """
    return (
        "mariadbd", "--no-defaults", f"--datadir={datadir}", f"--socket={SOCKET}", f"--log-error={datadir / LOG}",
        "--pid-file=dbha-private.pid", "--skip-networking", "--skip-grant-tables", "--wsrep-on=OFF",
        f"--tmpdir={datadir}", f"--innodb-buffer-pool-size={pool_bytes}", "--skip-log-bin", "--skip-slave-start",
        *layout_options(donors_options), *(("--user=root",) if as_root else ()),
    )  # fmt: skip


def end_outlived(staging: Path) -> None:
    """End private servers that outlived the process which started them, on trees below `staging`.

    To be called while nobody else can have one there. It is for systems where the kernel does not take them along.
    """
    datadirs = f"--datadir={staging}/".encode()
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it is gone already, or another user's
            handle = os.pidfd_open(int(place.name))  # first: its number may be another's the next moment
            try:
                words = (place / "cmdline").read_bytes().split(b"\0")
                if words[0] == b"mariadbd" and any(word.startswith(datadirs) for word in words):
                    _end(handle)
            finally:
                os.close(handle)


def _end(handle: int) -> None:
    signal.pidfd_send_signal(handle, signal.SIGKILL)
    select.select([handle], [], [], _ENDED_DEADLINE_S)  # readable once the process is gone


def donors_options(datadir: Path) -> str:
    file = datadir / "backup-my.cnf"
    return file.read_text() if file.is_file() else ""


def wait_for(datadir: Path, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + _START_DEADLINE_S
    ping = ("mariadb-admin", "--no-defaults", f"--socket={SOCKET}", "ping")
    while subprocess.run(ping, capture_output=True, check=False, cwd=datadir).returncode != 0:
        ended = process.poll()
        if ended is not None or time.monotonic() > deadline:
            raise PrivateServerError(
                "the private server on the backup does not start", log=_log(datadir), ended=ended
            )
        time.sleep(0.1)


def _log(datadir: Path) -> str:
    file = datadir / LOG
    return file.read_text(errors="replace").strip() if file.exists() else ""
