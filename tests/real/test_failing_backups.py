"""Backups of a real server that fail: the cause is named, nothing is left, older ones stay; see also tests/faults."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import astuple
from pathlib import Path

import pytest

from dbha.backup import pipeline
from dbha.backup.directory_store import DirectoryStore
from dbha.backup.store import Status
from tests.real.lone_server import PASSWORD, Server, commands, fails, no_processes, once, take

pytest_plugins = ("tests.real.lone_fixtures",)
pytestmark = pytest.mark.real


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


@pytest.mark.parametrize(
    "statement",
    [
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
name, address, port, datadir, ssh, _ = json.loads(sys.argv[1])
node = Node(name, address, port, datadir, SshSettings(*ssh[:3], *map(Path, ssh[3:])) if ssh else None)
server = Server(Cluster("test", (node,), Account("dbha", Secret(sys.stdin.readline()[:-1]))), None)
def wait(*_):
    print("in the middle", flush=True)
    time.sleep(60)
take(server, DirectoryStore(Path(sys.argv[2])), on_bytes=wait)
"""


def test_the_controller_of_a_donor_elsewhere_is_killed(remote: Server, store: DirectoryStore) -> None:
    server = remote
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
