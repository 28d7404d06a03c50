"""The slow and safe way back: a private server on the prepared backup, dumped into the cluster.

Every statement is replicated, so it also works while a node is away: that node gets it when it returns. It is
used when tables cannot be imported on every node.
"""

import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from dbha.backup.aside import create_database, drop_tables_and_database
from dbha.backup.children import start
from dbha.backup.definitions import DatabaseDefinition
from dbha.backup.prepared import MARKER
from dbha.cluster.handle import Cluster
from dbha.errors import DbhaError
from dbha.inventory import Node

_START_DEADLINE_S = 120
_STOP_DEADLINE_S = 120
_SOCKET, _LOG = "dbha-private.sock", "dbha-private.log"


class LogicalRestoreError(DbhaError):
    """The prepared backup could not be served or loaded."""


def restore_logically(
    cluster: Cluster,
    writer: Node,
    definitions: Mapping[str, DatabaseDefinition],
    prepared: Path,
    *,
    guard: Callable[[], None],
) -> None:
    """Make the databases in the cluster what they are in the prepared backup, through `writer`.

    The databases are emptied first, on every node alike, whatever an earlier attempt left in them.
    """
    with private_server(prepared):
        for database, definition in definitions.items():
            with cluster.session(writer) as session:
                drop_tables_and_database(session, database, guard=guard)
                create_database(session, database, definition.charset, definition.collation)
            guard()
            _load(cluster, writer, prepared, database)


@contextmanager
def private_server(datadir: Path) -> Iterator[None]:
    """Run a server on a prepared backup, outside any cluster, reachable only by a socket in that directory.

    The server writes to it, so its tables can no longer be imported: it loses its mark of being whole.
    """
    (datadir / MARKER).unlink(missing_ok=True)
    with start(_server_argv(datadir), stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            _wait_for(datadir, server)
            yield
        finally:
            server.terminate()
            try:
                server.wait(_STOP_DEADLINE_S)
            except subprocess.TimeoutExpired:
                server.kill()


def _server_argv(datadir: Path) -> tuple[str, ...]:
    """Return the command of the server. The socket's path has to be short: it is one from the data directory."""
    user = ("--user=root",) if os.geteuid() == 0 else ()
    return (
        "mariadbd", "--no-defaults", f"--datadir={datadir}", f"--socket={_SOCKET}", f"--log-error={datadir / _LOG}",
        "--pid-file=dbha-private.pid", "--skip-networking", "--skip-grant-tables", "--wsrep-on=OFF",
        f"--tmpdir={datadir}", "--innodb-buffer-pool-size=128M", "--skip-log-bin", *user,
    )  # fmt: skip


def _wait_for(datadir: Path, server: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + _START_DEADLINE_S
    ping = ("mariadb-admin", "--no-defaults", f"--socket={_SOCKET}", "ping")
    while subprocess.run(ping, capture_output=True, check=False, cwd=datadir).returncode != 0:
        if server.poll() is not None or time.monotonic() > deadline:
            log = datadir / _LOG
            words = log.read_text(errors="replace")[-400:] if log.exists() else "no log"
            raise LogicalRestoreError(f"the private server on the backup does not start: {words}")
        time.sleep(0.1)


def _load(cluster: Cluster, writer: Node, datadir: Path, database: str) -> None:
    """Pipe a dump of one database into the cluster; every exit status counts."""
    dump_argv = (
        "mariadb-dump", "--no-defaults", f"--socket={_SOCKET}", "--single-transaction", "--skip-lock-tables",
        "--skip-add-locks", "--routines", "--events", "--triggers", "--hex-blob", database,
    )  # fmt: skip
    with client_options(cluster, writer) as (option, descriptor):
        load_argv = ("mariadb", option, database)
        with (
            start(dump_argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=datadir) as dump,
            start(load_argv, stdin=dump.stdout, stderr=subprocess.PIPE, pass_fds=(descriptor,)) as load,
        ):
            assert dump.stdout is not None
            dump.stdout.close()  # so that the dump notices when the client ends early
            failures = _failures((("mariadb-dump", dump), ("mariadb", load)))
    if failures:
        raise LogicalRestoreError(f"loading {database} into {writer} failed: {'; '.join(failures)}")


def _failures(processes: Sequence[tuple[str, "subprocess.Popen[bytes]"]]) -> list[str]:
    found = []
    for name, process in reversed(processes):
        words = process.stderr.read() if process.stderr else b""
        if process.wait() != 0:
            found.append(
                f"{name} exited {process.returncode}: {words.decode(errors='replace').strip()[-200:]}"
            )
    return found


@contextmanager
def client_options(cluster: Cluster, node: Node) -> Iterator[tuple[str, int]]:
    """Yield the option with which a client reads address and password from a pipe, and the pipe's descriptor."""
    reading, writing = os.pipe()
    try:
        password = cluster.account.password.reveal().replace("\\", "\\\\").replace('"', '\\"')
        os.write(
            writing,
            f"[client]\nprotocol=tcp\nhost={node.address}\nport={node.port}\n"
            f'user={cluster.account.user}\npassword="{password}"\n'.encode(),
        )
        os.close(writing)
        yield f"--defaults-extra-file=/dev/fd/{reading}", reading
    finally:
        os.close(reading)
