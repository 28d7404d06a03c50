"""Rows are counted beside the copy, and how far clients can have moved them meanwhile; on a real server."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dbha.backup.directory_store import DirectoryStore
from dbha.backup.levels import Level
from dbha.backup.rows import counting_rows, open_snapshot, read_changes
from dbha.backup.verify import verify
from dbha.cluster.handle import Cluster
from dbha.database import Account, Session
from dbha.inventory import Node
from dbha.secrets import Secret
from tests.real.lone_server import (
    DATABASES,
    ID,
    POLICY,
    Server,
    free_ports,
    nothing,
    take,
    writing_to,
)

pytest_plugins = ("tests.real.lone_fixtures",)
pytestmark = pytest.mark.real


def test_rows_are_counted_exactly_when_nobody_adds_or_removes_any(
    server: Server, store: DirectoryStore
) -> None:
    rows = store.manifest(ID).rows
    assert rows is not None
    assert (rows.added, rows.removed, rows.why_not) == (0, 0, "")
    assert rows.tables["nova.wide"] == 20000
    assert rows.tables["nova.instances"] == 3
    assert "glance.old" not in rows.tables, "Aria has no snapshots"


def changes_of(server: Server, *statements: str) -> tuple[int, int]:
    """Return by how much the counters move when the statements run."""
    with server.cluster.session(server.node) as session:
        before = read_changes(session)
        for statement in statements:
            session.execute(statement)
        after = read_changes(session)
    return after.written - before.written, after.deleted - before.deleted


def test_which_statements_the_counters_see(server: Server) -> None:
    server.execute(
        "CREATE OR REPLACE DATABASE counted",
        "CREATE TABLE counted.t (id INT PRIMARY KEY AUTO_INCREMENT, a INT) ENGINE=InnoDB",
    )
    assert changes_of(server) == (0, 0), "looking does not count"
    assert changes_of(server, "SELECT * FROM information_schema.tables ORDER BY table_name, engine") == (0, 0)
    assert changes_of(server, "INSERT INTO counted.t (a) SELECT seq FROM mysql.seq_1_to_100") == (100, 0)
    assert changes_of(server, "UPDATE counted.t SET a = a + 1") == (0, 0)
    assert changes_of(server, "DELETE FROM counted.t WHERE id <= 10")[1] == 10
    written, _ = changes_of(server, "REPLACE INTO counted.t (id, a) SELECT id, 1 FROM counted.t LIMIT 5")
    assert written >= 5
    left = 90
    assert changes_of(server, "DELETE FROM counted.t")[1] == left, "also without a WHERE"
    assert changes_of(
        server, "SET SESSION unique_checks = 0, foreign_key_checks = 0",
        "INSERT INTO counted.t (a) SELECT seq FROM mysql.seq_1_to_1000",
    )[0] == 1000  # fmt: skip
    server.execute("DROP DATABASE counted")


def test_a_transaction_that_is_open_when_counting_begins_counts_as_pending(server: Server) -> None:
    with server.cluster.session(server.node) as writer, server.cluster.session(server.node) as reader:
        writer.execute("START TRANSACTION")
        writer.execute("INSERT INTO nova.instances (host) VALUES ('open'), ('open')")
        found, _ = open_snapshot(reader)
        writer.execute("ROLLBACK")
        reader.execute("ROLLBACK")
    assert found.pending >= 2


def test_counting_while_clients_come_and_go(server: Server, tmp_path: Path) -> None:
    """What comes and goes meanwhile is allowed for, and the backup still has to be within it."""
    store = DirectoryStore(tmp_path / "s")
    done = threading.Event()

    def come_and_go() -> None:
        with server.cluster.session(server.node) as session:
            while not done.is_set():
                session.execute("INSERT INTO nova.wide (a, b) VALUES (1, 'x'), (2, 'y')")
                session.execute("DELETE FROM nova.wide ORDER BY id DESC LIMIT 1")

    with ThreadPoolExecutor(1) as pool, writing_to(server.cluster, server.node):
        other = pool.submit(come_and_go)
        try:
            manifest = take(server, store, backup_id=ID)
        finally:
            done.set()
        other.result()
    assert manifest.rows is not None
    assert manifest.rows.added > manifest.rows.removed > 0
    found = verify(store, ID, tmp_path / "staging", on_bytes=nothing, keep=False, level=Level.BOOT)
    assert f"the {manifest.rows.added} that came and the {manifest.rows.removed} that went" in found.note


def test_rows_that_go_with_others_are_allowed_for(server: Server, tmp_path: Path) -> None:
    """The server does not count rows that go by ON DELETE CASCADE; whether it does is seen here, too."""
    server.execute(
        "CREATE OR REPLACE TABLE nova.parents (id INT PRIMARY KEY) ENGINE=InnoDB",
        "CREATE OR REPLACE TABLE nova.children (id INT PRIMARY KEY, parent INT, CONSTRAINT c FOREIGN KEY (parent)"
        " REFERENCES nova.parents (id) ON DELETE CASCADE) ENGINE=InnoDB",
        "INSERT INTO nova.parents VALUES (1), (2)",
        "INSERT INTO nova.children SELECT seq, 1 FROM mysql.seq_1_to_500",
    )
    store, acted = DirectoryStore(tmp_path / "s"), list[int]()

    def act(*_: int) -> None:
        if not acted:
            acted.append(1)
            server.execute("DELETE FROM nova.parents WHERE id = 1")

    try:
        manifest = take(server, store, backup_id=ID, on_bytes=act)
        assert manifest.rows is not None
        assert manifest.rows.tables["nova.children"] == 500
        assert 1 <= manifest.rows.removed < 500
        verify(store, ID, tmp_path / "staging", on_bytes=nothing, keep=False, level=Level.BOOT)
    finally:
        server.execute("DROP TABLE nova.children", "DROP TABLE nova.parents")


def test_structure_that_changes_meanwhile_makes_rows_incomparable(server: Server, tmp_path: Path) -> None:
    store, acted = DirectoryStore(tmp_path / "s"), list[int]()
    server.execute("CREATE OR REPLACE DATABASE elsewhere", "CREATE TABLE elsewhere.t (id INT PRIMARY KEY)")

    def act(*_: int) -> None:
        if not acted:
            acted.append(1)
            server.execute("TRUNCATE elsewhere.t")

    manifest = take(server, store, backup_id=ID, on_bytes=act)
    server.execute("DROP DATABASE elsewhere")
    assert manifest.rows is not None
    assert (manifest.rows.tables, manifest.rows.why_not) == (
        {},
        "statements that change structure ran meanwhile",
    )


def test_counting_can_be_switched_off(server: Server, tmp_path: Path) -> None:
    manifest = take(
        server, DirectoryStore(tmp_path / "s"), policy=POLICY.model_copy(update={"count_rows": False})
    )
    assert manifest.rows is not None
    assert (manifest.rows.tables, manifest.rows.why_not) == ({}, "`backup.count_rows` is off")


def test_a_count_that_takes_too_long_is_given_up(server: Server) -> None:
    """The largest table, which comes last, cannot be read for now: that must not hold up a backup."""
    with server.cluster.session(server.node) as session:
        session.execute("LOCK TABLES nova.extra WRITE")
        with counting_rows(server.cluster, server.node, DATABASES, wanted=True) as counting:
            counting.wait_for_snapshot()
            deadline = time.monotonic() + 10
            while not waits_for_a_lock(session):
                assert time.monotonic() < deadline, "the counting never came to the locked table"
                time.sleep(0.05)
            begun_s = time.monotonic()
            rows = counting.result()
            assert time.monotonic() - begun_s < 3
    assert rows.why_not == "the copy ended first"
    assert rows.tables["nova.wide"] >= 20000
    assert "nova.extra" not in rows.tables


def waits_for_a_lock(session: Session) -> bool:
    return bool(
        session.rows("SELECT 1 FROM information_schema.processlist WHERE state LIKE '%%metadata lock%%'")
    )


def test_a_donor_that_cannot_be_asked_is_no_reason_to_fail(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    node = Node("db1", "127.0.0.1", port, str(tmp_path))
    with counting_rows(
        Cluster("test", (node,), Account("dbha", Secret("x"))), node, DATABASES, wanted=True
    ) as counting:
        counting.wait_for_snapshot()
        rows = counting.result()
    assert rows.tables == {}
    assert "does not answer" in rows.why_not
