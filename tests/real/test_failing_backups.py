"""Backups of a real server that fail: the cause is named, nothing is left, older ones stay; see also tests/faults."""

import contextlib
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import astuple, replace
from pathlib import Path

import pytest

from dbha.backup import pipeline
from dbha.backup.directory_store import DirectoryStore
from dbha.backup.store import Status
from dbha.cluster.handle import Cluster
from dbha.database import Account
from dbha.inventory import SshSettings
from dbha.secrets import Secret
from tests.real.lone_server import PASSWORD, Server, commands, fails, no_processes, once, running_server, take
from tests.real.spoiling import small_file_system
from tests.real.sshd import running_sshd

pytest_plugins = ("tests.real.lone_fixtures",)
pytestmark = pytest.mark.real


def process_of(server: Server) -> "subprocess.Popen[bytes]":
    assert server.process is not None
    return server.process


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


def test_a_failure_over_ssh_leaves_no_process(remote: Server, store: DirectoryStore) -> None:
    def refuse() -> None:
        raise OSError(28, "No space left on device")

    assert "the store cannot take it: No space left" in fails(remote, store, once(refuse))


CONTROLLER = """
import json, sys, time
from pathlib import Path
from dbha.backup.directory_store import DirectoryStore
from dbha.cluster.handle import Cluster
from dbha.database import Account
from dbha.inventory import Node, SshSettings
from dbha.secrets import Secret
from tests.real.lone_server import Server, take
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
