"""A Galera cluster of one node with a little data, so that a test may do to it what it likes; backups of it."""

import contextlib
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from dbha.backup.directory_store import DirectoryStore
from dbha.backup.manifest import Manifest, ServiceState, new_backup_id
from dbha.backup.store import Status, Store
from dbha.backup.take import take_backup
from dbha.cluster.handle import Cluster
from dbha.config.model import BackupPolicy
from dbha.config.model import DirectoryStore as DirectoryStorePolicy
from dbha.database import Account
from dbha.errors import BackupFailedError
from dbha.inventory import Node
from dbha.secrets import Secret

PASSWORD = 'hidden #"\\ pa55'
DATABASES = ("glance", "nova")
POLICY = BackupPolicy(stores={"local": DirectoryStorePolicy(directory=Path("/unused"))})
SERVICES = {
    "nova": ServiceState(release="2025.1", databases=("nova",), heads={"nova": ("abc",)}),
    "glance": ServiceState(release="2025.1", databases=("glance",), heads={"glance": ()}),
}
ID = "20200101T043000Z-3f2a"  # of the good backup that tests work on copies of
PATIENCE_S = 30.0
# Random bytes, so that the stream is larger than all the pipes on its way and can be stopped in the middle.
FILLING_MIB = 40
SCHEMA = """
CREATE DATABASE nova CHARACTER SET utf8mb3; CREATE DATABASE glance;
CREATE TABLE nova.instances (id INT PRIMARY KEY AUTO_INCREMENT, host VARCHAR(255), KEY host (host)) ENGINE=InnoDB;
CREATE TABLE nova.faults (id INT PRIMARY KEY, instance INT, CONSTRAINT fk FOREIGN KEY (instance)
    REFERENCES nova.instances (id)) ENGINE=InnoDB;
CREATE TABLE nova.extra (id INT PRIMARY KEY AUTO_INCREMENT, data LONGBLOB) ENGINE=InnoDB;
CREATE TABLE glance.`of-parts` (id INT PRIMARY KEY) ENGINE=InnoDB PARTITION BY HASH (id) PARTITIONS 2;
CREATE TABLE glance.images (id VARCHAR(36) PRIMARY KEY, name TEXT, FULLTEXT KEY words (name)) ENGINE=InnoDB;
CREATE SEQUENCE glance.numbers INCREMENT BY 0; CREATE TABLE glance.old (id INT PRIMARY KEY) ENGINE=Aria;
INSERT INTO nova.instances VALUES (1, 'a'), (2, 'b'), (3, 'c');
INSERT INTO nova.faults VALUES (1, 1), (2, 3);
CREATE TABLE nova.alembic_version (version_num VARCHAR(32) PRIMARY KEY) ENGINE=InnoDB;
INSERT INTO nova.alembic_version VALUES ('abc');
CREATE TABLE nova.wide (id INT PRIMARY KEY AUTO_INCREMENT, a INT, b CHAR(200), KEY a (a), KEY b (b)) ENGINE=InnoDB;
INSERT INTO nova.wide (a, b) SELECT seq % 100, REPEAT('x', 150) FROM mysql.seq_1_to_20000;
CREATE VIEW glance.seen AS SELECT id FROM glance.images
"""

REPLICATED = SCHEMA.replace("; CREATE TABLE glance.old (id INT PRIMARY KEY) ENGINE=Aria", "")


@dataclass(frozen=True)
class Server:
    """A running server, and the cluster of one that it is."""

    cluster: Cluster
    process: "subprocess.Popen[bytes] | None"

    @property
    def node(self) -> Node:
        return self.cluster.nodes[0]

    def execute(self, *statements: str) -> None:
        with self.cluster.session(self.node) as session:
            for statement in statements:
                session.execute(statement)


@contextmanager
def running_server(directory: Path) -> Iterator[Server]:
    ports = free_ports(4)
    data, temporary = directory / "data", directory / "tmp"
    temporary.mkdir()
    options = [
        "--no-defaults", f"--datadir={data}", f"--tmpdir={temporary}", f"--socket={directory}/s",
        f"--port={ports[0]}", "--bind-address=127.0.0.1", f"--log-error={directory}/error.log",
        f"--pid-file={directory}/pid",
        "--wsrep-on=ON", "--wsrep-provider=/usr/lib/galera/libgalera_smm.so", "--binlog-format=ROW",
        "--wsrep-cluster-address=gcomm://", "--wsrep-node-address=127.0.0.1", "--innodb-autoinc-lock-mode=2",
        "--innodb-buffer-pool-size=128M", "--innodb-log-file-size=128M", "--log-bin=bin", "--log-slave-updates",
        f"--wsrep-provider-options=base_port={ports[1]};gmcast.listen_addr=tcp://127.0.0.1:{ports[2]};"
        f"ist.recv_addr=127.0.0.1:{ports[3]};gcache.size=16M",
    ]  # fmt: skip
    user = ["--user=root"] if os.geteuid() == 0 else []
    subprocess.run(
        ["mariadb-install-db", "--no-defaults", f"--datadir={data}", "--skip-test-db", *user,
         "--auth-root-authentication-method=normal"], check=True, capture_output=True,
    )  # fmt: skip
    with subprocess.Popen(["mariadbd", *options, *user], stderr=subprocess.DEVNULL) as process:
        try:
            grant(directory / "s")
            node = Node("db1", "127.0.0.1", ports[0], str(data))
            cluster = Cluster("test", (node,), Account("dbha", Secret(PASSWORD)))
            server = Server(cluster, process)
            server.execute(*SCHEMA.split(";"))
            server.execute(
                f"INSERT INTO nova.extra (data) SELECT RANDOM_BYTES(1024) FROM mysql.seq_1_to_{FILLING_MIB << 10}"
            )
            yield server
        finally:
            process.kill()


def grant(server_socket: Path) -> None:
    password = PASSWORD.replace("\\", "\\\\")
    accounts = ("dbha@'%'", "dbha@localhost")
    sql = "".join(f"GRANT ALL ON *.* TO {account} IDENTIFIED BY '{password}';" for account in accounts)
    deadline = time.monotonic() + PATIENCE_S
    argv = ["mariadb", "--no-defaults", "--user=root", f"--socket={server_socket}"]
    while subprocess.run(argv, input=sql.encode(), capture_output=True, check=False).returncode != 0:
        assert time.monotonic() < deadline, "the server did not start"
        time.sleep(0.1)


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def nothing(*_: object) -> None:
    pass


def take(
    server: Server,
    store: Store,
    *,
    on_bytes: Callable[[int, int], None] = nothing,
    backup_id: str = "",
    policy: BackupPolicy = POLICY,
    recipients: Sequence[str] = (),
    base: Manifest | None = None,
) -> Manifest:
    return take_backup(
        server.cluster, store, server.node, backup_id=backup_id or new_backup_id(), services=SERVICES,
        label="a test", policy=policy, databases=DATABASES, on_bytes=on_bytes, on_line=nothing,
        recipients=recipients, base=base, timeout_s=60,
    )  # fmt: skip


def once(action: Callable[[], None]) -> Callable[[int, int], None]:
    """Return a callback that acts on the first bytes: the reader waits meanwhile, so the copy is in its middle."""
    done: list[int] = []

    def on_bytes(stored_bytes: int, _: int) -> None:
        if not done:
            done.append(stored_bytes)
            action()

    return on_bytes


def fails(server: Server, store: DirectoryStore, on_bytes: Callable[[int, int], None] = nothing) -> str:
    """Take a backup that must fail, and must leave the older ones alone. Return why it failed."""
    before = {backup.id: backup for backup in store.list()}
    with pytest.raises(BackupFailedError) as failed:
        take(server, store, on_bytes=on_bytes)
    after = {backup.id: backup for backup in store.list()}
    new = {backup_id: backup for backup_id, backup in after.items() if backup_id not in before}
    assert {backup_id: after[backup_id] for backup_id in before} == before
    assert [backup.status for backup in new.values()] == [Status.FAILED]
    assert all(backup.stored_bytes < 1 << 20 for backup in new.values())
    assert no_processes(server)
    return str(failed.value)


def commands(server: Server) -> dict[int, str]:
    """Return the command lines of all processes that copy this server, by process id."""
    found = {}
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            line = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
            if line.startswith("mariadb-backup ") and f"--port={server.node.port} " in line:
                found[int(place.name)] = line
    return found


def no_processes(server: Server) -> bool:
    deadline = time.monotonic() + 5
    while commands(server) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not commands(server)


@contextmanager
def writing_to(cluster: Cluster, node: Node) -> Iterator[None]:
    """Have a client write on the node while the block runs."""
    done = threading.Event()

    def write() -> None:
        with cluster.session(node) as session:
            while not done.is_set():
                session.execute("INSERT INTO nova.instances (host) VALUES ('new')")

    with ThreadPoolExecutor(1) as pool:
        writer = pool.submit(write)
        try:
            yield
        finally:
            done.set()
        writer.result()
