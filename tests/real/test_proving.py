"""Verification at every level, on real tools and servers: what each finds, what it cannot see, and what it leaves."""

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dbha.backup.bad_backup import BadBackupError
from dbha.backup.boot import boot
from dbha.backup.definitions import Definitions
from dbha.backup.directory_store import DirectoryStore
from dbha.backup.levels import Level
from dbha.backup.manifest import Manifest, ServiceState, sealed
from dbha.backup.pages import check_pages, tablespace_files
from dbha.backup.prepared import MARKER
from dbha.backup.private_server import private_server
from dbha.backup.rows import counting_rows, open_snapshot, read_changes
from dbha.backup.store import Status, resolve
from dbha.backup.take import take_backup
from dbha.backup.verify import verify
from dbha.cluster.handle import Cluster
from dbha.database import Account, Session
from dbha.errors import FoundWrongError, UnreachableError, UnsafeError
from dbha.inventory import Node
from dbha.secrets import Secret
from tests.real.test_backup import (
    DATABASES,
    POLICY,
    Server,
    flip,
    free_ports,
    nothing,
    place_of,
    running_server,
    small_file_system,
    writing_to,
)

pytestmark = pytest.mark.real

PAGE_BYTES = 16384
SERVICES = {
    "nova": ServiceState(release="2025.1", databases=("nova",), heads={"nova": ("abc",)}),
    "glance": ServiceState(release="2025.1", databases=("glance",), heads={"glance": ()}),
}
MORE = (
    "CREATE TABLE nova.alembic_version (version_num VARCHAR(32) PRIMARY KEY) ENGINE=InnoDB",
    "INSERT INTO nova.alembic_version VALUES ('abc')",
    "CREATE TABLE nova.wide (id INT PRIMARY KEY AUTO_INCREMENT, a INT, b CHAR(200), KEY a (a), KEY b (b))"
    " ENGINE=InnoDB",
    "INSERT INTO nova.wide (a, b) SELECT seq % 100, REPEAT('x', 150) FROM mysql.seq_1_to_20000",
    "CREATE VIEW glance.seen AS SELECT id FROM glance.images",
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_server(tmp_path_factory.mktemp("server")) as server:
        server.execute(*MORE)
        yield server


def take(server: Server, store: DirectoryStore, *, backup_id: str) -> Manifest:
    return take_backup(
        server.cluster, store, server.node, backup_id=backup_id, services=SERVICES, label="", policy=POLICY,
        databases=DATABASES, on_bytes=nothing, on_line=nothing, timeout_s=60,
    )  # fmt: skip


ID = "20261123T043000Z-3f2a"


@pytest.fixture(scope="module")
def good(server: Server, tmp_path_factory: pytest.TempPathFactory) -> DirectoryStore:
    """A store with one good backup; tests work on copies of it."""
    store = DirectoryStore(tmp_path_factory.mktemp("good"))
    take(server, store, backup_id=ID)
    return store


@pytest.fixture
def store(good: DirectoryStore, tmp_path: Path) -> DirectoryStore:
    shutil.copytree(good.directory, tmp_path / "store")
    return DirectoryStore(tmp_path / "store")


@pytest.fixture(scope="module")
def prepared(good: DirectoryStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The prepared tree of the backup; tests work on copies of it."""
    staging = tmp_path_factory.mktemp("staging")
    copy = DirectoryStore(shutil.copytree(good.directory, staging / "store"))
    found = verify(copy, ID, staging, on_bytes=nothing, keep=True).prepared
    assert found is not None
    return found


@pytest.fixture
def tree(prepared: Path, tmp_path: Path) -> Path:
    return shutil.copytree(prepared, tmp_path / "tree")


def booted(tree: Path, store: DirectoryStore, **changes: object) -> str:
    manifest = store.manifest(ID).model_copy(update=changes)
    return boot(tree, manifest, definitions_of(store), nothing, side_by_side=2, pool_bytes=128 << 20)


def definitions_of(store: DirectoryStore) -> Definitions:
    return store.definitions(ID)


def wrong(act: Callable[[], object]) -> str:
    """Return what is found wrong."""
    with pytest.raises(BadBackupError) as raised:
        act()
    return str(raised.value)


def no_servers(below: Path) -> bool:
    """Tell whether no server runs on a tree below that directory, within a moment."""
    deadline = time.monotonic() + 10
    while servers(below) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not servers(below)


def servers(below: Path) -> list[int]:
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            words = (place / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if Path(os.fsdecode(words[0])).name == "mariadbd" and any(
            word.startswith(f"--datadir={below}/".encode()) for word in words
        ):
            found.append(int(place.name))
    return found


# --- each level on a good backup


@pytest.mark.parametrize("level", list(Level))
def test_a_good_backup_is_good_at_every_level(store: DirectoryStore, tmp_path: Path, level: Level) -> None:
    read, counted = list[tuple[int, int]](), list[tuple[str, int, int]]()
    staging = tmp_path / "staging"
    found = verify(
        store, ID, staging, on_bytes=lambda *both: read.append(both), keep=False, level=level,
        on_count=lambda *three: counted.append(three),
    )  # fmt: skip
    stored_bytes = store.manifest(ID).stream.stored_bytes
    assert (found.level, found.outcome, found.prepared) == (level, "good", None)
    assert read[-1] == (stored_bytes, stored_bytes)
    assert {what for what, _, _ in counted} == {
        what for what, of in (("files", Level.PAGES), ("tables", Level.BOOT)) if level.includes(of)
    }
    for what in {what for what, _, _ in counted}:
        steps = [(done, total) for name, done, total in counted if name == what]
        assert steps == [(number, len(steps)) for number in range(1, len(steps) + 1)]
    (backup,) = store.list()
    assert backup.verified
    assert backup.verification is not None
    assert backup.verification.level is level
    assert not staging.exists() or [path.name for path in staging.iterdir()] == [".lock"]
    if level is Level.BOOT:
        assert found.note.startswith("the rows of ")
        assert len({what for what, _, _ in counted}) == 2
    assert no_servers(tmp_path)


def test_hashing_needs_no_tools_and_no_room(
    store: DirectoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with small_file_system(tmp_path / "small", 1) as small, monkeypatch.context() as patch:
        patch.setenv("PATH", str(tmp_path))
        verify(store, ID, small / "staging", on_bytes=nothing, keep=False, level=Level.HASH)
        assert not list(small.glob("staging*"))
        with pytest.raises(UnreachableError, match="mariadb-backup"):
            verify(store, ID, small / "staging", on_bytes=nothing, keep=False)


def test_a_tree_that_a_server_wrote_to_is_never_kept(store: DirectoryStore, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be imported"):
        verify(store, ID, tmp_path / "staging", on_bytes=nothing, keep=True, level=Level.BOOT)
    kept = verify(store, ID, tmp_path / "staging", on_bytes=nothing, keep=True).prepared
    assert kept is not None
    before = {path: path.stat().st_mtime_ns for path in sorted(kept.rglob("*"))}
    verify(store, ID, tmp_path / "staging", on_bytes=nothing, keep=False, level=Level.BOOT)
    assert {path: path.stat().st_mtime_ns for path in sorted(kept.rglob("*"))} == before
    assert (kept / MARKER).is_file()


# --- what each level finds


@pytest.mark.parametrize("level", list(Level))
@pytest.mark.parametrize("file", ["stream.mbs.zst", "definitions.json"])
def test_a_flipped_bit_is_found_by_every_level(
    store: DirectoryStore, tmp_path: Path, file: str, level: Level
) -> None:
    flip(place_of(store) / file, 1000)
    with pytest.raises(FoundWrongError, match="is not good"):
        verify(store, ID, tmp_path / "staging", on_bytes=nothing, keep=False, level=level)
    (backup,) = store.list()
    assert (backup.status, backup.verified) == (Status.BAD, False)
    assert backup.verification is not None
    assert backup.verification.level is Level.HASH, "the level that noticed"
    assert backup.reason


def test_a_flipped_bit_in_the_manifest(store: DirectoryStore, tmp_path: Path) -> None:
    flip(place_of(store) / "manifest.json", 300)
    with pytest.raises(FoundWrongError, match="damaged"):
        verify(store, ID, tmp_path / "staging", on_bytes=nothing, keep=False, level=Level.HASH)
    assert store.list()[0].status is Status.DAMAGED


def test_every_tablespace_of_a_good_tree_is_good(tree: Path) -> None:
    names = {str(file.relative_to(tree)) for file in tablespace_files(tree)}
    assert {
        "ibdata1",
        "nova/wide.ibd",
        "glance/of@002dparts#P#p0.ibd",
        "mysql/innodb_table_stats.ibd",
    } <= names
    assert check_pages(tree, nothing, side_by_side=2) == len(names)


@pytest.mark.parametrize(
    ("file", "position"),
    [
        ("nova/wide.ibd", 100),  # in the first page, which says what the file is
        ("nova/wide.ibd", 3 * PAGE_BYTES + 5000),  # the root of the clustered index
        ("nova/wide.ibd", 10 * PAGE_BYTES + 9000),
        ("nova/extra.ibd", 500 * PAGE_BYTES + 1),
        ("nova/faults.ibd", 3 * PAGE_BYTES + 200),
        ("ibdata1", 7 * PAGE_BYTES + 200),  # the dictionary
    ],
)
def test_a_flipped_bit_in_a_prepared_tablespace(tree: Path, file: str, position: int) -> None:
    flip(tree / file, position)
    assert file in wrong(lambda: check_pages(tree, nothing, side_by_side=2))


@pytest.mark.parametrize("kept_bytes", [0, 100, PAGE_BYTES - 1])
def test_a_cut_tablespace(tree: Path, kept_bytes: int) -> None:
    os.truncate(tree / "nova/wide.ibd", kept_bytes)
    assert "nova/wide.ibd" in wrong(lambda: check_pages(tree, nothing, side_by_side=2))


def test_a_damaged_page_is_what_preparing_cannot_see(
    store: DirectoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The damage is done by the very tool that prepares: a disk that fails under it looks like this."""
    tools = tmp_path / "tools"
    tools.mkdir()
    real = shutil.which("mariadb-backup")
    (tools / "mariadb-backup").write_text(
        f'#!/bin/sh\n{real} "$@" || exit\ncase "$*" in *--prepare*) '
        f"printf Z | dd of=nova/wide.ibd bs=1 seek={10 * PAGE_BYTES + 9000} conv=notrunc 2>/dev/null;; esac\n"
    )
    (tools / "mariadb-backup").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    verify(store, ID, tmp_path / "staging", on_bytes=nothing, keep=False)
    with pytest.raises(FoundWrongError, match=r"1 damaged tablespace\(s\): nova/wide.ibd"):
        verify(store, ID, tmp_path / "staging", on_bytes=nothing, keep=False, level=Level.PAGES)
    assert store.list()[0].status is Status.BAD


def root_of(tree: Path, index: str) -> int:
    """Return the number of the root page of an index of nova.wide."""
    with private_server(tree) as server, server.session() as session:
        found = session.value(
            "SELECT i.page_no FROM information_schema.innodb_sys_indexes i"
            " JOIN information_schema.innodb_sys_tables t USING (table_id)"
            " WHERE t.name = 'nova/wide' AND i.name = %s",
            [index],
        )
    return int(found)


def test_a_corrupt_index_is_found_by_the_server(tree: Path, store: DirectoryStore) -> None:
    """An index that lacks entries has perfect pages; only comparing it with the table shows it."""
    root = root_of(tree, "a")
    file = tree / "nova/wide.ibd"
    lose_an_entry(file, root)
    assert check_pages(tree, nothing, side_by_side=2)
    assert "contains 19999 entries, should be 20000" in wrong(lambda: booted(tree, store))
    assert no_servers(tree.parent)


def lose_an_entry(file: Path, root: int) -> None:
    """Make a leaf of an index pass over its second entry, with a checksum that agrees."""
    with file.open("r+b") as data:
        content = data.read()
        index_and_level = content[root * PAGE_BYTES + 66 : root * PAGE_BYTES + 74], b"\0\0"
        leaf = next(
            start
            for start in range(0, len(content), PAGE_BYTES)
            if (content[start + 66 : start + 74], content[start + 64 : start + 66]) == index_and_level
        )
        page = bytearray(content[leaf : leaf + PAGE_BYTES])
        infimum = 99  # compact rows: each begins where the one before it points to, relative to itself
        first = infimum + int.from_bytes(page[infimum - 2 : infimum], "big", signed=True)
        second = first + int.from_bytes(page[first - 2 : first], "big", signed=True)
        third = second + int.from_bytes(page[second - 2 : second], "big", signed=True)
        page[first - 2 : first] = ((third - first) & 0xFFFF).to_bytes(2, "big")
        data.seek(leaf)
        data.write(page)
    subprocess.run(["innochecksum", "--no-check", "--write", str(file)], check=True, capture_output=True)


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("DROP TABLE nova.faults", "table nova.faults is missing"),
        ("CREATE TABLE nova.more (id INT PRIMARY KEY)", "table nova.more should not be there"),
        ("DROP VIEW glance.seen", "table glance.seen is missing"),
        ("DELETE FROM nova.wide WHERE id = 7", "nova.wide has 19999 rows instead of 20000"),
        ("INSERT INTO nova.faults VALUES (9, 1)", "nova.faults has 3 rows instead of 2"),
        (
            "UPDATE nova.alembic_version SET version_num = 'abd'",
            "nova has the schema heads abd instead of abc",
        ),
        ("DELETE FROM nova.alembic_version", "nova has the schema heads none instead of abc"),
    ],
)
def test_what_the_server_has_otherwise(tree: Path, store: DirectoryStore, statement: str, words: str) -> None:
    with private_server(tree) as server, server.session() as session:
        session.execute(statement)
    assert words in wrong(lambda: booted(tree, store))


def test_a_backup_without_row_counts_is_booted_all_the_same(tree: Path, store: DirectoryStore) -> None:
    assert booted(tree, store, rows=None) == "rows were not compared: they were not counted when it was taken"


# --- what only keeps it from being verified here


def test_a_missing_system_tablespace_is_the_backups_fault(tree: Path, store: DirectoryStore) -> None:
    (tree / "ibdata1").write_bytes(b"\0" * (12 << 20))
    assert "does not start" in wrong(lambda: booted(tree, store))
    assert no_servers(tree.parent)


def test_a_server_that_cannot_write_is_not_held_against_the_backup(
    prepared: Path, store: DirectoryStore, tmp_path: Path
) -> None:
    with small_file_system(tmp_path / "small", 400) as small:
        shutil.copytree(prepared, small / "tree", copy_function=shutil.copyfile)
        fill(small / "filling")
        with pytest.raises(UnsafeError, match="no server can run on the backup here"):
            booted(small / "tree", store)


def fill(file: Path) -> None:
    with file.open("wb", buffering=0) as out:
        try:
            while out.write(b"\0" * 65536):
                pass
        except OSError:
            pass


def test_a_server_of_another_series(store: DirectoryStore, tmp_path: Path) -> None:
    place = place_of(store)
    manifest = store.manifest(ID).model_copy(update={"server_version": "11.8.6-MariaDB"})
    (place / "manifest.json").write_bytes(sealed(manifest))
    with pytest.raises(UnsafeError, match=r"the server here is of 10\.11"):
        verify(store, ID, tmp_path / "staging", on_bytes=nothing, keep=False, level=Level.BOOT)
    assert store.list()[0].verification is None


def test_a_path_longer_than_that_of_any_socket(prepared: Path, store: DirectoryStore, tmp_path: Path) -> None:
    long = shutil.copytree(prepared, tmp_path / ("x" * 120) / "tree")
    assert booted(long, store)


CONTROLLER = """
import json, sys
from pathlib import Path
from dbha.backup.directory_store import DirectoryStore
from dbha.backup.levels import Level
from dbha.backup.verify import verify

verify(DirectoryStore(Path(sys.argv[1])), sys.argv[2], Path(sys.argv[3]), on_bytes=lambda *_: None, keep=False,
       level=Level.BOOT)
"""


@pytest.mark.parametrize("outlives", [False, True], ids=["the kernel ends it", "it outlives"])
def test_killed_while_a_private_server_runs(
    store: DirectoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outlives: bool
) -> None:
    staging = tmp_path / "staging"
    if outlives:  # a machine without setpriv
        tools = tmp_path / "tools"
        tools.mkdir()
        for tool in ("mariadb-backup", "mbstream", "zstd", "mariadbd", "mariadb-admin", "innochecksum"):
            (tools / tool).symlink_to(str(shutil.which(tool)))
        monkeypatch.setenv("PATH", str(tools))
    argv = [sys.executable, "-c", CONTROLLER, str(store.directory), ID, str(staging)]
    with subprocess.Popen(argv) as controller:
        deadline = time.monotonic() + 60
        while not servers(staging):
            assert time.monotonic() < deadline, "no private server was seen"
            time.sleep(0.01)
        controller.kill()
    if outlives:
        assert servers(staging)
        monkeypatch.undo()
    else:
        assert no_servers(staging)
    assert list(staging.glob("*.partial"))
    verify(store, ID, staging, on_bytes=nothing, keep=False)
    assert not servers(staging)
    assert [path.name for path in staging.iterdir()] == [".lock"]


# --- quarantine


def test_in_and_out_of_quarantine(store: DirectoryStore, tmp_path: Path) -> None:
    """A disk that lost a bit, and gives it back once its cable was changed."""

    def look(level: Level) -> None:
        verify(store, ID, tmp_path / "staging", on_bytes=nothing, keep=False, level=level)

    stream = place_of(store) / "stream.mbs.zst"
    look(Level.PAGES)
    flip(stream, 5000)
    with pytest.raises(FoundWrongError, match="its sha256 is another"):
        look(Level.HASH)
    (bad,) = store.list()
    assert (bad.status, bad.verified, "sha256" in bad.reason) == (Status.BAD, False, True)
    with pytest.raises(FoundWrongError):
        resolve(store.list(), "latest")
    flip(stream, 5000)
    look(Level.HASH)
    (good,) = store.list()
    assert (good.status, good.verified, resolve(store.list(), "latest")) == (Status.COMPLETE, True, ID)
    assert good.verification is not None
    assert good.verification.level is Level.HASH, "who was ever found bad begins anew"
    assert [(each.level.value, each.outcome) for each in good.verification.verdicts] == [
        ("pages", "good"), ("hash", "bad"), ("hash", "good"),
    ]  # fmt: skip


def test_a_lower_level_does_not_lift_a_quarantine(store: DirectoryStore, tmp_path: Path) -> None:
    place, honest = place_of(store), store.manifest(ID)
    lying = {"nova": SERVICES["nova"].model_copy(update={"heads": {"nova": ("other",)}})}
    (place / "manifest.json").write_bytes(sealed(honest.model_copy(update={"services": lying})))
    staging = tmp_path / "staging"
    with pytest.raises(FoundWrongError, match="schema heads abc instead of other"):
        verify(store, ID, staging, on_bytes=nothing, keep=False, level=Level.BOOT)
    for level in (Level.HASH, Level.PREPARE):
        with pytest.raises(FoundWrongError, match="stays in quarantine") as stays:
            verify(store, ID, staging, on_bytes=nothing, keep=False, level=level)
        assert stays.value.hint == f"dbha backup verify {ID} --level boot"
    read: list[object] = []
    with pytest.raises(FoundWrongError, match="stays in quarantine"):  # a restore does not even begin
        verify(store, ID, staging, on_bytes=lambda *both: read.append(both), keep=True)
    assert not read
    assert store.list()[0].status is Status.BAD
    (place / "manifest.json").write_bytes(sealed(honest))
    verify(store, ID, staging, on_bytes=nothing, keep=False, level=Level.BOOT)
    assert store.list()[0].status is Status.COMPLETE


# --- rows


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
        manifest = take_backup(
            server.cluster, store, server.node, backup_id=ID, services=SERVICES, label="", policy=POLICY,
            databases=DATABASES, on_bytes=act, on_line=nothing, timeout_s=60,
        )  # fmt: skip
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

    manifest = take_backup(
        server.cluster, store, server.node, backup_id=ID, services=SERVICES, label="", policy=POLICY,
        databases=DATABASES, on_bytes=act, on_line=nothing, timeout_s=60,
    )  # fmt: skip
    server.execute("DROP DATABASE elsewhere")
    assert manifest.rows is not None
    assert (manifest.rows.tables, manifest.rows.why_not) == (
        {},
        "statements that change structure ran meanwhile",
    )


def test_counting_can_be_switched_off(server: Server, tmp_path: Path) -> None:
    manifest = take_backup(
        server.cluster, DirectoryStore(tmp_path / "s"), server.node, backup_id=ID, services=SERVICES, label="",
        policy=POLICY.model_copy(update={"count_rows": False}), databases=DATABASES, on_bytes=nothing,
        on_line=nothing, timeout_s=60,
    )  # fmt: skip
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
