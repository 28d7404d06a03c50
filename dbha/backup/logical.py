"""The slow and safe way back: a private server on the prepared backup, dumped into the cluster.

Every statement is replicated, so it also works while a node is away: that node gets it when it returns. It is
used when tables cannot be imported on every node.
"""

import os
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from dbha.backup.aside import create_database, drop_tables_and_database
from dbha.backup.children import start
from dbha.backup.definitions import DatabaseDefinition
from dbha.backup.private_server import SOCKET, private_server
from dbha.cluster.handle import Cluster
from dbha.errors import DbhaError
from dbha.inventory import Node


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


def _load(cluster: Cluster, writer: Node, datadir: Path, database: str) -> None:
    """Pipe a dump of one database into the cluster; every exit status counts."""
    dump_argv = (
        "mariadb-dump", "--no-defaults", f"--socket={SOCKET}", "--single-transaction", "--skip-lock-tables",
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
        tls = ""
        if cluster.tls_ca_file is not None:
            tls = f"ssl-ca={cluster.tls_ca_file}\nssl-verify-server-cert\n"
        os.write(
            writing,
            f"[client]\nprotocol=tcp\nhost={node.address}\nport={node.port}\n"
            f'user={cluster.account.user}\npassword="{password}"\n{tls}'.encode(),
        )
        os.close(writing)
        yield f"--defaults-extra-file=/dev/fd/{reading}", reading
    finally:
        os.close(reading)
