"""Archiving and replaying the logs of real clusters: no transaction is lost, and none is there twice."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from dbha.backup.binlog.archive import Archive, History
from dbha.backup.binlog.gtid import Gtid, latest, parse_gtids
from dbha.backup.binlog.replay import ReplayFailedError, ReplayPlace, replay
from dbha.backup.binlog.replay_plan import plan_replay
from dbha.backup.binlog.target import BeforeGtid, BeforeTime, Newest
from dbha.backup.directory_store import DirectoryStore
from dbha.backup.manifest import Manifest
from dbha.backup.private_server import private_server
from dbha.backup.tool_files import layout_options
from dbha.backup.verify import verify
from dbha.cluster.handle import Cluster
from dbha.errors import FoundWrongError, UnsafeError
from dbha.inventory import Node
from dbha.sandbox import kill_node, start_node
from dbha.transport import LocalTransport
from tests.real.conftest import RunningSandbox, running_sandbox
from tests.real.restored import wait_for

pytestmark = pytest.mark.real

DBHA = Path(sys.executable).with_name("dbha")
PATIENCE_S = 60.0
LOCAL = {101, 102, 103}


class Archiving:
    """`dbha backup archive` in a process of its own."""

    def __init__(self, found: RunningSandbox) -> None:
        self.directory = found.configuration.state / "archive"
        self._configuration = found.sandbox.layout.configuration
        self._log = (found.directory / "archiver.log").open("ab")

    @contextmanager
    def running(self) -> Iterator["subprocess.Popen[bytes]"]:
        argv = (DBHA, "-c", self._configuration, "backup", "archive")
        with subprocess.Popen(argv, stdout=self._log, stderr=self._log) as process:
            try:
                yield process
            finally:
                process.kill()

    def run(self, *arguments: str) -> "subprocess.CompletedProcess[bytes]":
        argv = (str(DBHA), "-c", str(self._configuration), *arguments)
        return subprocess.run(argv, capture_output=True, check=False)

    def history(self) -> History:
        archive = Archive(self.directory)
        (timeline,) = archive.timelines()
        return archive.history(timeline)

    def end(self) -> int:
        if not Archive(self.directory).timelines():
            return 0
        windows = self.history().windows
        return windows[-1].end if windows else 0


@pytest.fixture(scope="module")
def found() -> Iterator[RunningSandbox]:
    """A cluster of this file alone: its nodes are killed, and its logs are purged."""
    with running_sandbox(nodes=3) as running:
        with running.cluster.session(running.cluster.nodes[0]) as session:
            session.execute("CREATE DATABASE IF NOT EXISTS pit")
            session.execute(
                "CREATE TABLE pit.rows (id INT PRIMARY KEY AUTO_INCREMENT, word VARCHAR(64)) ENGINE=InnoDB"
            )
        yield running


@pytest.fixture
def archiving(found: RunningSandbox) -> Archiving:
    return Archiving(found)


def position(cluster: Cluster, node: Node) -> Gtid:
    with cluster.session(node) as session:
        session.execute("SET SESSION wsrep_sync_wait = 1")
        session.value("SELECT COUNT(*) FROM pit.rows")
        gtid = latest(parse_gtids(str(session.value("SELECT @@GLOBAL.gtid_binlog_pos"))), LOCAL)
    assert gtid is not None
    return gtid


def write(cluster: Cluster, node: Node, *words: str) -> Gtid:
    """Insert each word in a transaction of its own and return the last one's GTID."""
    with cluster.session(node) as session:
        for word in words:
            session.execute("INSERT INTO pit.rows (word) VALUES (%s)", [word])
    return position(cluster, node)


def words_in(cluster: Cluster, node: Node) -> list[str]:
    with cluster.session(node) as session:
        session.execute("SET SESSION wsrep_sync_wait = 1")  # also what was written through another node
        found: list[str] = session.column("SELECT word FROM pit.rows ORDER BY id")
    return found


@contextmanager
def writer(cluster: Cluster, node: Node) -> Iterator[None]:
    """Insert, update and delete rows through a node all the time, sometimes in conflict with another client."""
    ended = threading.Event()

    def work() -> None:
        number = 0
        with cluster.session(node) as session:
            while not ended.is_set():
                number += 1
                session.execute("INSERT INTO pit.rows (word) VALUES (%s)", [f"busy {number}"])
                session.execute(
                    "UPDATE pit.rows SET word = CONCAT(word, '.') WHERE word = %s", [f"busy {number}"]
                )
                time.sleep(0.005)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def test_all_nodes_log_the_same_gtids_and_skip_none(found: RunningSandbox) -> None:
    """What the whole archive rests on, also when transactions of two nodes are in conflict."""
    cluster = found.cluster
    with cluster.session(cluster.nodes[0]) as session:
        session.execute("CREATE TABLE IF NOT EXISTS pit.one (id INT PRIMARY KEY, n INT) ENGINE=InnoDB")
        session.execute("REPLACE INTO pit.one VALUES (1, 0)")
    failed = [0, 0]

    def fight(number: int) -> None:
        with cluster.session(cluster.nodes[number]) as session:
            for _ in range(150):
                try:
                    session.execute("UPDATE pit.one SET n = n + 1 WHERE id = 1")
                except Exception:  # noqa: BLE001 - a deadlock: Galera let the other one win
                    failed[number] += 1

    threads = [threading.Thread(target=fight, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(failed) > 0, "there was no conflict, so nothing was tested"
    assert len({position(cluster, node) for node in cluster.nodes}) == 1


def test_take_over_without_a_gap(found: RunningSandbox, archiving: Archiving) -> None:
    cluster = found.cluster
    with writer(cluster, cluster.nodes[0]), archiving.running() as process:
        wait_for("the first archived log", lambda: archiving.end() > 0)
        (source,) = {part.record.node for part in archiving.history().parts}
        assert source != cluster.nodes[0].name, "the writer is spared"
        before = archiving.end()
        kill_node(found.directory, source)
        wait_for("the second node", lambda: archiving.end() > before + 200)
        assert {part.record.node for part in archiving.history().parts} > {source}
        start_node(found.directory, source, environment=os.environ, on_line=lambda line: None)
        before = archiving.end()
        wait_for("more logs", lambda: archiving.end() > before + 200)
    last = write(cluster, cluster.nodes[0], "while nobody archives")
    assert process.returncode == -signal.SIGKILL
    with archiving.running() as process:
        wait_for("what was written meanwhile", lambda: archiving.end() >= last.sequence)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 143
    history = archiving.history()
    assert len(history.windows) == 1
    assert history.windows[0].end == last.sequence
    assert all(part.sealed for part in history.parts)


def test_only_one_archives(found: RunningSandbox, archiving: Archiving) -> None:
    with archiving.running():
        wait_for("the archiver", lambda: Archive(archiving.directory).is_busy())
        assert archiving.run("backup", "archive", "--once").returncode == 9
    assert archiving.run("backup", "archive", "--once").returncode == 0


def test_no_password_is_on_a_command_line(found: RunningSandbox, archiving: Archiving) -> None:
    password = found.cluster.account.password.reveal().encode()
    with archiving.running() as process:
        wait_for("the tool", lambda: b"mariadb-binlog" in command_lines(process.pid))
        assert password not in command_lines(process.pid)


def command_lines(parent: int) -> bytes:
    """Return the command lines of a process and its children."""
    pids = [str(parent), *Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]
    return b"\n".join(Path(f"/proc/{pid}/cmdline").read_bytes() for pid in pids)


def take_backup(found: RunningSandbox, archiving: Archiving) -> Manifest:
    done = archiving.run("backup", "create", "--json")
    assert done.returncode == 0, done.stderr.decode()
    backup_id = json.loads(done.stdout)["backup"]["id"]
    return store(found).manifest(backup_id)


def store(found: RunningSandbox) -> DirectoryStore:
    return DirectoryStore(found.directory / "backups")


def unpacked(found: RunningSandbox, manifest: Manifest, directory: Path) -> Path:
    """Return the prepared tree of a backup, which a replay may write to."""
    done = verify(store(found), manifest.id, directory, on_bytes=lambda done, total: None, keep=True)
    assert done.prepared is not None
    return done.prepared


def place_of(tree: Path) -> ReplayPlace:
    layout = layout_options((tree / "backup-my.cnf").read_text())
    return ReplayPlace(LocalTransport(), str(tree), str(tree.with_name("mark")), 128 << 20, layout)


def words_of(tree: Path) -> list[str]:
    """Return the words that a server finds in a tree."""
    with private_server(tree) as server, server.session() as session:
        found: list[str] = session.column("SELECT word FROM pit.rows ORDER BY id")
    return found


def test_replay_to_an_exact_gtid_and_to_a_time(
    found: RunningSandbox, archiving: Archiving, tmp_path: Path
) -> None:
    cluster = found.cluster
    first, second, _ = cluster.nodes
    write(cluster, first, "before the backup")
    manifest = take_backup(found, archiving)
    write(cluster, first, "one", "two")
    with cluster.session(second) as session:
        session.execute("CREATE TABLE pit.later (id INT PRIMARY KEY, data LONGBLOB) ENGINE=InnoDB")
        session.execute("INSERT INTO pit.later VALUES (1, REPEAT('x', 3000000))")
        session.execute("CREATE USER 'later'@'%%' IDENTIFIED BY 'a password'")
        session.execute("CREATE DATABASE gone")
        session.execute("CREATE TABLE gone.t (id INT PRIMARY KEY) ENGINE=InnoDB")
        session.execute("DROP DATABASE gone")
        session.execute("DELETE FROM pit.rows WHERE word LIKE 'busy%%'")
    write(cluster, second, "tab\tand\r\nbreak", "SET @@session.server_id=1;", "/*!*/;", "three")
    expected = words_in(cluster, first)
    time.sleep(2.1)
    moment = datetime.now(UTC)
    time.sleep(2.1)
    wrong = write(cluster, first, "the mistake")
    with cluster.session(first) as session:
        session.execute("DELETE FROM pit.rows")
    assert archiving.run("backup", "archive", "--once").returncode == 0
    archive = Archive(archiving.directory)
    plan = plan_replay(archive, manifest, BeforeGtid(wrong))
    assert plan.until.sequence == wrong.sequence - 1
    assert plan_replay(archive, manifest, BeforeTime(moment)) == plan
    tree = unpacked(found, manifest, tmp_path)
    told: list[tuple[int, int]] = []
    assert replay(place_of(tree), plan, on_bytes=lambda done, total: told.append((done, total))) == plan.until
    assert told[-1] == (plan.size_bytes, plan.size_bytes)
    assert replay(place_of(tree), plan, on_bytes=lambda done, total: None) == plan.until  # nothing twice
    assert not list(tree.glob("dbha-replay*"))
    with private_server(tree) as server, server.session() as session:
        assert session.column("SELECT word FROM pit.rows ORDER BY id") == expected
        assert session.value("SELECT LENGTH(data) FROM pit.later") == 3_000_000
        assert session.value("SELECT COUNT(*) FROM mysql.global_priv WHERE user = 'later'") == 1
    with cluster.session(first) as session:
        session.execute("DROP TABLE pit.later")


class CutError(Exception):
    """What a test ends a replay with."""


def test_a_replay_that_breaks_off_goes_on_where_it_was(
    found: RunningSandbox, archiving: Archiving, tmp_path: Path
) -> None:
    cluster = found.cluster
    manifest = take_backup(found, archiving)
    write(cluster, cluster.nodes[0], *(f"row {number}" for number in range(3000)))
    expected = words_in(cluster, cluster.nodes[0])
    with cluster.session(cluster.nodes[0]) as session:
        middle = session.value("SELECT id FROM pit.rows WHERE word = 'row 2000'")
    assert archiving.run("backup", "archive", "--once").returncode == 0
    plan = plan_replay(Archive(archiving.directory), manifest, Newest())
    tree = unpacked(found, manifest, tmp_path)
    backed_up = len(words_of(tree))
    statement(tree, f"INSERT INTO pit.rows VALUES ({middle}, 'in the way')")
    asked = [0]

    def cut() -> None:
        asked[0] += 1
        if asked[0] > 5:
            raise CutError

    with pytest.raises(CutError):
        replay(place_of(tree), plan, on_bytes=lambda done, total: None, guard=cut)
    with pytest.raises(ReplayFailedError, match="mariadb ended with 1: ERROR 1062") as refused:
        replay(place_of(tree), plan, on_bytes=lambda done, total: None)
    assert "BINLOG" not in str(refused.value), "rows are in the message"
    statement(tree, f"DELETE FROM pit.rows WHERE id = {middle}")
    assert backed_up < len(words_of(tree)) < len(expected)
    assert replay(place_of(tree), plan, on_bytes=lambda done, total: None) == plan.until
    assert words_of(tree) == expected
    tree.with_name("mark").write_text('{"boot_id": "of another life"}')
    with pytest.raises(ReplayFailedError, match="the host was restarted during the replay"):
        replay(place_of(tree), plan, on_bytes=lambda done, total: None)


def statement(tree: Path, sql: str) -> None:
    """Change what is in a tree, behind the back of its log."""
    with private_server(tree) as server, server.session() as session:
        session.execute(sql)


def test_a_flipped_byte_in_the_archive_is_refused(
    found: RunningSandbox, archiving: Archiving, tmp_path: Path
) -> None:
    manifest = take_backup(found, archiving)
    write(found.cluster, found.cluster.nodes[0], "a", "b")
    assert archiving.run("backup", "archive", "--once").returncode == 0
    copy = tmp_path / "archive"
    shutil.copytree(archiving.directory, copy)
    plan = plan_replay(Archive(copy), manifest, Newest())
    path = plan.segments[-1].part.path
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)
    with pytest.raises(FoundWrongError, match="was changed since it was archived"):
        plan_replay(Archive(copy), manifest, Newest())


def test_logs_purged_before_they_were_fetched_are_a_gap_that_is_shown(
    found: RunningSandbox, archiving: Archiving
) -> None:
    """The last test of this file: what it does cannot be undone."""
    cluster = found.cluster
    manifest = take_backup(found, archiving)
    assert archiving.run("backup", "archive", "--once").returncode == 0
    before = json.loads(archiving.run("backup", "archive", "--status", "--json").stdout)
    last = position(cluster, cluster.nodes[0])
    assert before["reaches_until"]["gtid"] == str(last)
    assert archiving.run("backup", "archive", "--status").returncode == 0
    write(cluster, cluster.nodes[0], "lost 1", "lost 2")
    for node in cluster.nodes:
        with cluster.session(node) as session:
            session.execute("FLUSH BINARY LOGS")
            newest = session.rows("SHOW BINARY LOGS")[-1]["Log_name"]
            session.execute(f"PURGE BINARY LOGS TO '{newest}'")
    write(cluster, cluster.nodes[0], "kept")
    assert archiving.run("backup", "archive", "--once").returncode == 0
    done = archiving.run("backup", "archive", "--status", "--json")
    assert done.returncode == 1
    status: dict[str, Any] = json.loads(done.stdout)
    (gap,) = status["timelines"][0]["gaps"]
    assert gap["missing"] == 2
    assert gap["first"] == str(replace(last, sequence=last.sequence + 1))
    assert status["reaches_until"]["gtid"] == str(last)
    with pytest.raises(UnsafeError, match=r"2 transaction\(s\) are missing"):
        plan_replay(Archive(archiving.directory), manifest, BeforeTime(datetime.now(UTC)))
    text = archiving.run("backup", "archive", "--status").stdout.decode()
    assert "GAP: 2 transaction(s) are missing" in text
