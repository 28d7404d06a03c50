"""Backups of a real server: good ones are proven good, and every way to spoil one is noticed and named.

Most tests have a Galera cluster of one node that this file starts, so that a test may also kill it.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import astuple, dataclass, replace
from pathlib import Path

import pytest

from dbha.backup import pipeline
from dbha.backup import take as taking
from dbha.backup.definitions import fingerprint, read_definitions
from dbha.backup.directory_store import DirectoryStore
from dbha.backup.estimate import data_size, local_room, room_at
from dbha.backup.manifest import Manifest, ServiceState, new_backup_id, sealed
from dbha.backup.pipeline import options_file
from dbha.backup.store import Status
from dbha.backup.take import take_backup
from dbha.backup.verify import verify
from dbha.cluster.handle import Cluster
from dbha.config.model import BackupPolicy
from dbha.config.model import DirectoryStore as DirectoryStorePolicy
from dbha.database import Account
from dbha.errors import BackupFailedError, BusyError, DbhaError, FoundWrongError, UnsafeError
from dbha.inventory import Node, SshSettings
from dbha.secrets import Secret
from tests.real.conftest import RunningSandbox
from tests.real.sshd import running_sshd

pytestmark = pytest.mark.real

PASSWORD = 'hidden #"\\ pa55'
DATABASES = ("glance", "nova")
POLICY = BackupPolicy(stores={"local": DirectoryStorePolicy(directory=Path("/unused"))})
SERVICES = {"nova": ServiceState(release="2025.1", databases=("nova",), heads={"nova": ("abc",)})}
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
INSERT INTO nova.faults VALUES (1, 1), (2, 3)
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


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_server(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture(scope="module")
def good(server: Server, tmp_path_factory: pytest.TempPathFactory) -> DirectoryStore:
    """A store with one good backup; tests work on copies of it."""
    store = DirectoryStore(tmp_path_factory.mktemp("good"))
    take(server, store)
    return store


@pytest.fixture
def store(good: DirectoryStore, tmp_path: Path) -> DirectoryStore:
    shutil.copytree(good.directory, tmp_path / "store")
    return DirectoryStore(tmp_path / "store")


def process_of(server: Server) -> "subprocess.Popen[bytes]":
    assert server.process is not None
    return server.process


def nothing(*_: object) -> None:
    pass


def take(
    server: Server,
    store: DirectoryStore,
    *,
    on_bytes: Callable[[int, int], None] = nothing,
    backup_id: str = "",
) -> Manifest:
    return take_backup(
        server.cluster, store, server.node, backup_id=backup_id or new_backup_id(), services=SERVICES,
        label="a test", policy=POLICY, databases=DATABASES, on_bytes=on_bytes, on_line=nothing, timeout_s=60,
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


# --- good backups


def test_a_good_backup_is_proven_good(server: Server, tmp_path: Path) -> None:
    store, seen, read = DirectoryStore(tmp_path / "s"), list[tuple[int, int]](), list[tuple[int, int]]()
    manifest = take(server, store, on_bytes=lambda done, total: seen.append((done, total)))
    (backup,) = store.list()
    assert (backup.status, backup.verified) == (Status.COMPLETE, False)
    assert manifest.stream.raw_bytes > manifest.stream.stored_bytes > FILLING_MIB << 20
    assert seen == sorted(seen)
    assert seen[-1][0] == manifest.stream.stored_bytes
    assert (manifest.label, manifest.donor, manifest.services) == ("a test", "db1", SERVICES)
    assert manifest.gtid
    found = verify(
        store, manifest.id, tmp_path / "staging", on_bytes=lambda *both: read.append(both), keep=False
    )
    assert (found.outcome, found.prepared) == ("good", None)
    assert read[-1] == (manifest.stream.stored_bytes, manifest.stream.stored_bytes)
    assert store.list()[0].verified
    assert [path.name for path in (tmp_path / "staging").iterdir()] == [".lock"]


def test_a_kept_tree_is_used_again_only_when_it_is_whole(store: DirectoryStore, tmp_path: Path) -> None:
    backup_id, staging = store.list()[0].id, tmp_path / "staging"
    calls: list[object] = []

    def kept() -> Path:
        calls.clear()
        found = verify(store, backup_id, staging, on_bytes=lambda *both: calls.append(both), keep=True)
        assert found.prepared == staging / backup_id
        return found.prepared

    tree = kept()
    assert calls
    assert (tree / "nova/instances.ibd").is_file()
    assert (tree / "nova/instances.cfg").is_file()
    kept()
    assert not calls, "a whole tree is used again"
    (tree / "nova/instances.cfg").unlink()
    kept()
    assert calls, "a tree that lost a file is made anew"
    (tree / "dbha-prepared.json").unlink()
    (staging / f"{backup_id}.old.partial").mkdir()
    kept()
    assert calls, "a tree without its mark is made anew"
    assert not list(staging.glob("*.partial"))


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


def test_backups_while_clients_write(server: Server, tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "s")
    with writing_to(server.cluster, server.node):
        manifest = take(server, store)
    assert verify(store, manifest.id, tmp_path / "staging", on_bytes=nothing, keep=False).outcome == "good"


def test_two_backups_are_listed_in_order(server: Server, store: DirectoryStore) -> None:
    first = store.list()[0].manifest
    server.execute("INSERT INTO nova.instances (host) VALUES ('later')")
    second = take(server, store)
    assert first is not None
    assert [backup.id for backup in store.list()] == [first.id, second.id]
    assert second.seqno > first.seqno
    with pytest.raises(BackupFailedError, match="already"):
        take(server, store, backup_id=second.id)
    assert store.list()[1].status is Status.COMPLETE


def test_a_table_that_was_just_imported_is_in_the_backup(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a checkpoint first, mariadb-backup takes the DISCARD in the log for a DROP and leaves it out."""
    datadir = Path(server.node.datadir, "nova")
    with server.cluster.session(server.node) as session:
        session.execute("FLUSH TABLES nova.faults FOR EXPORT")
        for suffix in (".ibd", ".cfg"):
            shutil.copy(datadir / f"faults{suffix}", tmp_path)
        session.execute("UNLOCK TABLES")
        session.execute("ALTER TABLE nova.faults DISCARD TABLESPACE")
        for suffix in (".ibd", ".cfg"):
            shutil.copy(tmp_path / f"faults{suffix}", datadir)
        session.execute("ALTER TABLE nova.faults IMPORT TABLESPACE")
    store = DirectoryStore(tmp_path / "s")
    with monkeypatch.context() as patch:
        patch.setattr(taking, "checkpoint", nothing)
        assert "nova/faults.ibd" in fails(server, store)
    manifest = take(server, store)
    assert verify(store, manifest.id, tmp_path / "staging", on_bytes=nothing, keep=False).outcome == "good"


@pytest.fixture(scope="module")
def three(sandbox: RunningSandbox) -> Iterator[Server]:
    """A cluster of three nodes with the same databases; `node` is its first, and the donor is its last."""
    first, *_, last = sandbox.cluster.nodes
    cluster = Cluster("test", (last, first), sandbox.cluster.account)
    writing = Server(Cluster("test", (first,), sandbox.cluster.account), None)
    writing.execute(*(f"DROP DATABASE IF EXISTS {name}" for name in DATABASES), *REPLICATED.split(";"))
    yield Server(cluster, None)
    writing.execute(*(f"DROP DATABASE IF EXISTS {name}" for name in DATABASES))


def test_a_backup_of_another_node_than_the_writer(three: Server, tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "s")
    _, writer = three.cluster.nodes
    with writing_to(three.cluster, writer):
        manifest = take(three, store)
    assert verify(store, manifest.id, tmp_path / "staging", on_bytes=nothing, keep=False).outcome == "good"
    known = store.definitions(manifest.id).fingerprint_of(DATABASES)
    for node in three.cluster.nodes:
        with three.cluster.session(node) as session:
            assert fingerprint(session, DATABASES) == known


def test_structure_changed_through_another_node(three: Server, tmp_path: Path) -> None:
    _, writer = three.cluster.nodes

    def change() -> None:
        with three.cluster.session(writer) as session:
            session.execute("ALTER TABLE nova.instances ADD COLUMN zone INT")

    words = fails(three, DirectoryStore(tmp_path / "s"), once(change))
    assert "the structure of nova was changed during the backup" in words


# --- backups that fail


def test_a_wrong_password(server: Server, store: DirectoryStore) -> None:
    wrong = Cluster("test", server.cluster.nodes, Account("dbha", Secret("wrong")))
    assert "refused the account" in fails(Server(wrong, server.process), store)


def test_a_password_that_is_changed_before_the_copy(server: Server, store: DirectoryStore) -> None:
    """The first session is let in, and mariadb-backup is not."""

    class Changing(Cluster):
        @property
        def account(self) -> Account:
            return Account("dbha", Secret("wrong"))

        @account.setter
        def account(self, _: Account) -> None: ...

        def session(self, *arguments: object, **options: object) -> object:  # type: ignore[override]
            return server.cluster.session(*arguments, **options)  # type: ignore[arg-type]

    changing = Changing("test", server.cluster.nodes, server.cluster.account)
    words = fails(Server(changing, server.process), store)
    assert "the server refused the account or its password" in words


def test_mariadb_backup_is_killed(server: Server, store: DirectoryStore) -> None:
    def kill() -> None:
        (process_id,) = commands(server)
        os.kill(process_id, signal.SIGKILL)

    assert "mariadb-backup was ended by signal 9" in fails(server, store, once(kill))


def test_the_program_on_the_node_is_killed(server: Server, store: DirectoryStore) -> None:
    def kill() -> None:
        (process_id,) = commands(server)
        status = Path(f"/proc/{process_id}/status").read_text()
        parent = re.search(r"PPid:\s+(\d+)", status)
        assert parent is not None
        os.kill(int(parent[1]), signal.SIGKILL)

    assert "the stream was cut off (exit status 137)" in fails(server, store, once(kill))


def test_its_connection_is_killed(server: Server, store: DirectoryStore) -> None:
    def kill() -> None:
        with server.cluster.session(server.node) as session:
            for each in session.column(
                "SELECT id FROM information_schema.processlist WHERE user = 'dbha' AND id <> CONNECTION_ID()"
            ):
                session.execute("KILL %s", [each])

    assert "the server went away during the backup" in fails(server, store, once(kill))


def test_the_server_is_killed(store: DirectoryStore) -> None:
    with tempfile.TemporaryDirectory() as directory, running_server(Path(directory)) as server:
        words = fails(server, store, once(process_of(server).kill))
    assert "went away" in words or "does not answer" in words


def test_the_store_is_full(server: Server, store: DirectoryStore) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4 << 20, hard))
    try:
        words = fails(server, store)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "the store cannot take it: File too large" in words


@contextmanager
def small_file_system(directory: Path, size_mib: int) -> Iterator[Path]:
    directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size_mib}m", "tmpfs", str(directory)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("only root can mount a small file system")
    try:
        yield directory
    finally:
        subprocess.run(["umount", str(directory)], check=True)


def test_the_file_system_of_the_store_is_full(server: Server, tmp_path: Path) -> None:
    with small_file_system(tmp_path / "small", 8) as directory:
        words = fails(server, DirectoryStore(directory / "store"))
        assert "the store cannot take it: No space left on device" in words


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE nova.instances ADD COLUMN zone_{n} INT",
        "CREATE TABLE nova.new_{n} (id INT PRIMARY KEY)",
        "CREATE TRIGGER nova.t_{n} BEFORE INSERT ON nova.instances FOR EACH ROW SET NEW.host = 'x'",
    ],
)
def test_structure_changes_during_the_backup(server: Server, store: DirectoryStore, statement: str) -> None:
    sql = statement.format(n=time.monotonic_ns())
    words = fails(server, store, once(lambda: server.execute(sql)))
    server.execute("DROP TRIGGER IF EXISTS " + sql.split()[2]) if "TRIGGER" in sql else None
    assert "the structure of nova was changed during the backup" in words


def test_structure_changes_elsewhere_do_no_harm(server: Server, store: DirectoryStore) -> None:
    take(server, store, on_bytes=once(lambda: server.execute("CREATE OR REPLACE TABLE mysql.aside (id INT)")))


def test_a_controller_that_hangs(
    server: Server, store: DirectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "STALL_LIMIT_S", 1)
    assert "the stream was cut off" in fails(server, store, once(lambda: time.sleep(3)))


def test_a_missing_tool(
    server: Server, store: DirectoryStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for tool in ("sh", "mariadb-backup"):
        (tmp_path / tool).symlink_to(shutil.which(tool) or "")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "cannot start zstd: No such file or directory" in fails(server, store)


@pytest.fixture(scope="module")
def remote(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The same server, reached as a host of its own over SSH."""
    with running_sshd(tmp_path_factory.mktemp("sshd")) as sshd:
        end = sshd.endpoint
        ssh = SshSettings(end.host, end.port, end.user, end.private_key_file, end.known_hosts_file)
        node = replace(server.node, ssh=ssh)
        cluster = Cluster("test", (node,), server.cluster.account)
        with contextlib.closing(cluster):
            yield Server(cluster, server.process)


def test_a_backup_over_ssh(remote: Server, tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "s")
    manifest = take(remote, store)
    assert verify(store, manifest.id, tmp_path / "staging", on_bytes=nothing, keep=False).outcome == "good"


def test_a_failure_over_ssh_leaves_no_process(remote: Server, store: DirectoryStore) -> None:
    def refuse() -> None:
        raise OSError(28, "No space left on device")

    assert "the store cannot take it: No space left" in fails(remote, store, once(refuse))


CONTROLLER = """
import json, sys, time
from pathlib import Path
from tests.real.test_backup import *
name, address, port, datadir, ssh = json.loads(sys.argv[1])
node = Node(name, address, port, datadir, SshSettings(*ssh[:3], *map(Path, ssh[3:])) if ssh else None)
server = Server(Cluster("test", (node,), Account("dbha", Secret(sys.stdin.readline()[:-1]))), None)
def wait(*_):
    print("in the middle", flush=True)
    time.sleep(60)
take(server, DirectoryStore(Path(sys.argv[2])), on_bytes=wait)
"""


@pytest.mark.parametrize("way", ["server", "remote"])
def test_the_controller_is_killed(request: pytest.FixtureRequest, store: DirectoryStore, way: str) -> None:
    server: Server = request.getfixturevalue(way)
    before = store.list()
    argv = [
        sys.executable,
        "-c",
        CONTROLLER,
        json.dumps(astuple(server.node), default=str),
        str(store.directory),
    ]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as controller:
        assert controller.stdin is not None
        assert controller.stdout is not None
        controller.stdin.write(f"{PASSWORD}\n")
        controller.stdin.flush()
        assert controller.stdout.readline() == "in the middle\n"
        assert [backup.status for backup in store.list()] == [Status.COMPLETE, Status.WRITING]
        assert commands(server)
        controller.kill()
    assert no_processes(server)
    *older, interrupted = store.list()
    assert tuple(older) == before
    assert interrupted.status is Status.INTERRUPTED
    assert {path.name[21:] for path in store.directory.iterdir()} == {"", ".partial"}


def test_the_password_is_nowhere(server: Server, tmp_path: Path) -> None:
    seen: list[str] = []

    def look() -> None:
        (process_id,) = commands(server)
        for place in (Path(f"/proc/{process_id}"), Path(f"/proc/{os.getpid()}/task/{os.getpid()}")):
            seen.extend(
                (place / name).read_bytes().decode("utf-8", "replace") for name in ("cmdline", "environ")
            )
        seen.extend(
            path.read_bytes().decode("utf-8", "replace")
            for path in list(Path("/proc").glob("[0-9]*/cmdline"))
            if path.exists()
        )

    store = DirectoryStore(tmp_path / "s")
    manifest = take(server, store, on_bytes=once(look))
    fails(server, store, once(lambda: os.kill(next(iter(commands(server))), signal.SIGKILL)))
    verify(store, manifest.id, tmp_path / "staging", on_bytes=nothing, keep=True)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    spellings = [PASSWORD.encode(), PASSWORD.replace("\\", "\\\\").replace('"', '\\"').encode()]
    assert seen
    assert not any(spelling.decode() in text for spelling in spellings for text in seen)
    assert not [path for path in files if any(spelling in path.read_bytes() for spelling in spellings)]


def test_the_tools_read_the_password_as_it_is(tmp_path: Path) -> None:
    for password in (PASSWORD, "plain", "'quoted'", '"double"', "trailing ", "#", "a\\nb", "é€"):
        file = tmp_path / "options"
        file.touch(0o600)
        file.write_text(options_file(Account("dbha", Secret(password))))
        read = subprocess.run(
            ["my_print_defaults", f"--defaults-file={file}", "client"],
            capture_output=True,
            check=True,
        )
        assert read.stdout.decode() == f"--password={password}\n"


# --- backups that were spoiled


def refused(store: DirectoryStore, staging: Path) -> str:
    """Verify the only backup, which must be refused, and nothing may be left of it. Return why."""
    backup = store.list()[0]
    with pytest.raises(FoundWrongError) as wrong:
        verify(store, backup.id, staging, on_bytes=nothing, keep=True)
    assert not staging.exists() or {path.name for path in staging.iterdir()} <= {".lock"}
    assert not store.list()[0].verified
    assert wrong.value.hint
    return str(wrong.value)


def flip(path: Path, position: int) -> None:
    with path.open("r+b") as file:
        file.seek(position if position >= 0 else path.stat().st_size + position)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))


def place_of(store: DirectoryStore) -> Path:
    return store.directory / store.list()[0].id


@pytest.mark.parametrize("position", [0, 5, 1 << 20, 20 << 20, -1])
def test_a_flipped_byte_in_the_stream(store: DirectoryStore, tmp_path: Path, position: int) -> None:
    flip(place_of(store) / "stream.mbs.zst", position)
    assert "its sha256 is another" in refused(store, tmp_path / "staging")
    verification = store.list()[0].verification
    assert verification is not None
    assert verification.outcome == "bad"


@pytest.mark.parametrize("file", ["definitions.json", "manifest.json"])
def test_a_flipped_byte_beside_the_stream(store: DirectoryStore, tmp_path: Path, file: str) -> None:
    flip(place_of(store) / file, 300)
    assert "damaged" in refused(store, tmp_path / "staging")


@pytest.mark.parametrize("file", ["stream.mbs.zst", "definitions.json", "manifest.json"])
def test_a_missing_file(store: DirectoryStore, tmp_path: Path, file: str) -> None:
    (place_of(store) / file).unlink()
    refused(store, tmp_path / "staging")


@pytest.mark.parametrize("kept_bytes", [0, 1, 13, 1 << 20, 20 << 20, -4, -1])
def test_a_cut_tail(store: DirectoryStore, tmp_path: Path, kept_bytes: int) -> None:
    stream = place_of(store) / "stream.mbs.zst"
    size_bytes = stream.stat().st_size
    os.truncate(stream, kept_bytes if kept_bytes >= 0 else size_bytes + kept_bytes)
    assert f"bytes instead of {size_bytes}" in refused(store, tmp_path / "staging")


def test_a_longer_stream(store: DirectoryStore, tmp_path: Path) -> None:
    with (place_of(store) / "stream.mbs.zst").open("ab") as stream:
        stream.write(b"\0")
    assert "bytes instead of" in refused(store, tmp_path / "staging")


@dataclass(frozen=True)
class Chunk:
    """A chunk of an unpacked stream, and where it ends."""

    path: str
    begin: int
    end: int


def chunks(raw: bytes) -> list[Chunk]:
    found, position = [], 0
    while position < len(raw):
        _, kind, length = struct.unpack_from("<BcI", raw, position + 8)
        after = position + 14 + length
        path = raw[position + 14 : after].decode()
        if kind == b"P":
            after += 20 + struct.unpack_from("<Q", raw, after)[0]
        found.append(Chunk(path.removeprefix("./"), position, after))
        position = after
    return found


def zstd(data: bytes, *options: str) -> bytes:
    return subprocess.run(["zstd", "-q", "-c", *options], input=data, capture_output=True, check=True).stdout


def replace_stream(store: DirectoryStore, stored: bytes, **changes: object) -> None:
    """Put another stream in, and a manifest that agrees with it: as if it had been taken like this."""
    place = place_of(store)
    manifest = store.manifest(place.name)
    sha256 = hashlib.sha256(stored).hexdigest()
    stream = manifest.stream.model_copy(update={"stored_bytes": len(stored), "sha256": sha256})
    (place / "stream.mbs.zst").write_bytes(stored)
    (place / "manifest.json").write_bytes(sealed(manifest.model_copy(update={"stream": stream, **changes})))


def raw_stream(store: DirectoryStore) -> bytes:
    return zstd((place_of(store) / "stream.mbs.zst").read_bytes(), "-d")


def test_an_honest_stream_put_in_again_is_good(store: DirectoryStore, tmp_path: Path) -> None:
    """The tests below prove something only because this one passes."""
    raw = raw_stream(store)
    middle = chunks(raw)[20].end
    replace_stream(store, zstd(raw[:middle]) + zstd(raw[middle:]))
    verify(store, store.list()[0].id, tmp_path / "staging", on_bytes=nothing, keep=False)


def test_a_stream_cut_at_the_end_of_a_frame(store: DirectoryStore, tmp_path: Path) -> None:
    raw = raw_stream(store)
    last = next(chunk for chunk in chunks(raw) if chunk.path == "xtrabackup_info")
    replace_stream(store, zstd(raw[: last.begin]))
    assert "xtrabackup_info, its last member, is missing" in refused(store, tmp_path / "staging")


def test_a_stream_cut_inside_of_a_frame(store: DirectoryStore, tmp_path: Path) -> None:
    stored = zstd(raw_stream(store))
    replace_stream(store, stored[:-100])
    assert "zstd ended with exit status 1" in refused(store, tmp_path / "staging")


def test_a_stream_cut_inside_of_a_chunk(store: DirectoryStore, tmp_path: Path) -> None:
    raw = raw_stream(store)
    replace_stream(store, zstd(raw[: chunks(raw)[-2].end - 5]))
    assert "mbstream ended with exit status 1" in refused(store, tmp_path / "staging")


def test_an_empty_stream(store: DirectoryStore, tmp_path: Path) -> None:
    replace_stream(store, zstd(b""))
    assert "xtrabackup_info, its last member, is missing" in refused(store, tmp_path / "staging")


@pytest.mark.parametrize(
    "member", ["nova/extra.ibd", "ib_logfile0", "backup-my.cnf", "xtrabackup_checkpoints"]
)
def test_a_stream_without_a_member(store: DirectoryStore, tmp_path: Path, member: str) -> None:
    raw = raw_stream(store)
    assert any(chunk.path == member for chunk in chunks(raw))
    kept = b"".join(raw[chunk.begin : chunk.end] for chunk in chunks(raw) if chunk.path != member)
    replace_stream(store, zstd(kept))
    refused(store, tmp_path / "staging")


def test_a_stream_of_another_position(store: DirectoryStore, tmp_path: Path) -> None:
    manifest = store.manifest(store.list()[0].id)
    replace_stream(store, zstd(raw_stream(store)), seqno=manifest.seqno + 1)
    assert f"it holds {manifest.cluster_state_uuid}:{manifest.seqno} instead of" in refused(
        store, tmp_path / "staging"
    )


def test_what_only_keeps_it_from_being_verified_here_is_not_held_against_it(
    store: DirectoryStore, tmp_path: Path
) -> None:
    backup_id = store.list()[0].id
    with small_file_system(tmp_path / "small", 16) as staging:
        expect(UnsafeError, "no room left", store, staging)
    (tmp_path / "staging").mkdir()
    with (tmp_path / "staging" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        expect(BusyError, "another process is verifying", store, tmp_path / "staging")
    replace_stream(store, (place_of(store) / "stream.mbs.zst").read_bytes(), tool_version="11.8.6-MariaDB")
    expect(UnsafeError, "install mariadb-backup 11.8", store, tmp_path / "staging")
    assert store.list()[0].verification is None
    assert backup_id == store.list()[0].id


def expect(kind: type[DbhaError], words: str, store: DirectoryStore, staging: Path) -> None:
    with pytest.raises(kind) as refused:
        verify(store, store.list()[0].id, staging, on_bytes=nothing, keep=True)
    assert words in f"{refused.value} {refused.value.hint}"


# --- structure


def test_definitions_name_what_importing_would_lose(server: Server) -> None:
    with server.cluster.session(server.node) as session:
        session.execute("CREATE OR REPLACE VIEW glance.v AS SELECT id FROM glance.images")
        session.execute("CREATE OR REPLACE PROCEDURE glance.p() SELECT 1")
        found = read_definitions(session, DATABASES)
        session.execute("DROP VIEW glance.v")
        session.execute("DROP PROCEDURE glance.p")
    glance, nova = found.databases["glance"], found.databases["nova"]
    assert nova.charset == "utf8mb3"
    assert set(nova.tables) >= {"instances", "faults", "extra"}
    assert "nova/faults" in nova.tablespaces
    assert set(glance.tablespaces) == {
        "glance/images", "glance/numbers", "glance/of@002dparts#P#p0", "glance/of@002dparts#P#p1"
    }  # fmt: skip
    assert glance.beyond_tables == (
        "table images (index for full text)",
        "table numbers (sequence, InnoDB)",
        "table of-parts (partitioned)",
        "table old (base table, Aria)",
        "view v",
        "routine procedure p",
    )
    assert nova.beyond_tables == ()


def test_the_fingerprint_changes_with_structure_only(server: Server) -> None:
    with server.cluster.session(server.node) as session:
        session.execute("CREATE OR REPLACE DATABASE marked")
        session.execute("CREATE TABLE marked.t (id INT PRIMARY KEY AUTO_INCREMENT, a INT) ENGINE=InnoDB")
        before = fingerprint(session, ["marked"])
        session.execute("INSERT INTO marked.t (a) VALUES (1), (2)")
        session.execute("SET SESSION sql_mode = 'ANSI_QUOTES'")
        assert fingerprint(session, ["marked"]) == before
        assert session.value("SELECT @@sql_mode") == "ANSI_QUOTES"
        session.execute("SET SESSION sql_mode = DEFAULT")
        prints = {before}
        for statement in (
            "ALTER TABLE marked.t ADD COLUMN b INT",
            "CREATE INDEX i ON marked.t (b)",
            "ALTER TABLE marked.t ADD CONSTRAINT f FOREIGN KEY (b) REFERENCES marked.t (id)",
            "ALTER TABLE marked.t COMMENT = 'x'",
            "CREATE TRIGGER marked.r BEFORE INSERT ON marked.t FOR EACH ROW SET NEW.a = 1",
            "CREATE TABLE marked.u (id INT)",
            "ALTER DATABASE marked CHARACTER SET utf16",
        ):
            session.execute(statement)
            prints.add(fingerprint(session, ["marked"]))
        session.execute("DROP DATABASE marked")
    assert len(prints) == 8


def test_sizes_and_rooms(server: Server, tmp_path: Path) -> None:
    with server.cluster.session(server.node) as session:
        size = data_size(session, DATABASES)
    assert size.all_bytes > size.database_bytes > FILLING_MIB << 20
    here = local_room("the store", tmp_path / "not/yet", 1)
    there = room_at("db1", server.cluster.transport(server.node), server.node.datadir, 1)
    assert here.free_bytes > 0
    assert here.filesystem == there.filesystem
