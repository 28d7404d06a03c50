"""Verification at every level, on real tools and servers: what each finds, what it cannot see, and what it leaves."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dbha.backup.accounts import stored_accounts
from dbha.backup.bad_backup import BadBackupError
from dbha.backup.boot import boot
from dbha.backup.definitions import Definitions
from dbha.backup.directory_store import DirectoryStore
from dbha.backup.levels import Level
from dbha.backup.manifest import sealed
from dbha.backup.pages import check_pages, tablespace_files
from dbha.backup.prepared import MARKER
from dbha.backup.private_server import private_server
from dbha.backup.store import Status, resolve
from dbha.backup.stored_bytes import definitions_of
from dbha.backup.verify import verify
from dbha.errors import FoundWrongError, UnreachableError, UnsafeError
from tests.real.lone_server import ID, SERVICES, nothing
from tests.real.spoiling import flip, place_of, small_file_system

pytest_plugins = ("tests.real.lone_fixtures",)
pytestmark = pytest.mark.real

PAGE_BYTES = 16384


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
    accounts = stored_accounts(store, manifest)
    return boot(tree, manifest, structure_in(store), accounts, nothing, side_by_side=2, pool_bytes=128 << 20)


def structure_in(store: DirectoryStore) -> Definitions:
    return definitions_of(store, store.manifest(ID))


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
        ("DELETE FROM mysql.global_priv WHERE User = 'root'", "account root@localhost is missing"),
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
