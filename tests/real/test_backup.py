"""Backups of a real server are whole: what they hold, what the manifest says, and where no password is."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from dbha.backup import take as taking
from dbha.backup.definitions import fingerprint, read_definitions
from dbha.backup.directory_store import DirectoryStore
from dbha.backup.estimate import data_size, local_room, room_at
from dbha.backup.pipeline import options_file
from dbha.backup.store import Status
from dbha.backup.stored_bytes import definitions_of
from dbha.backup.verify import verify
from dbha.cluster.handle import Cluster
from dbha.database import Account
from dbha.errors import BackupFailedError
from dbha.secrets import Secret
from tests.real.conftest import RunningSandbox
from tests.real.lone_server import (
    DATABASES,
    FILLING_MIB,
    PASSWORD,
    REPLICATED,
    SERVICES,
    Server,
    commands,
    fails,
    nothing,
    once,
    take,
    writing_to,
)

pytest_plugins = ("tests.real.lone_fixtures",)
pytestmark = pytest.mark.real


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
    known = definitions_of(store, store.manifest(manifest.id)).fingerprint_of(DATABASES)
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


def test_a_backup_over_ssh(remote: Server, tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "s")
    manifest = take(remote, store)
    assert verify(store, manifest.id, tmp_path / "staging", on_bytes=nothing, keep=False).outcome == "good"


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
        "view seen",
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
