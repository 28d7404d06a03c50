"""What changed since a backup: nothing is missing in it, it is applied once, and what is wrong with it is its own."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from dbha.backup.bad_backup import BadBackupError
from dbha.backup.base import why_not_upon
from dbha.backup.directory_store import DirectoryStore
from dbha.backup.encryption import NO_IDENTITIES, Identities
from dbha.backup.levels import Level
from dbha.backup.lineage import look_at_directory
from dbha.backup.manifest import Base, Manifest, new_backup_id, sealed
from dbha.backup.prepare import make_tree
from dbha.backup.private_server import private_server
from dbha.backup.store import Status
from dbha.backup.verify import verify
from dbha.config.model import Compression
from dbha.database import Session, identifier
from dbha.errors import BackupFailedError, FoundWrongError, KeyMissingError
from dbha.secrets import Secret
from tests.real.lone_server import POLICY, Server, nothing, once, running_server, take
from tests.real.spoiling import flip

pytestmark = pytest.mark.real

SYSTEM = ("information_schema", "performance_schema", "mysql", "sys", "dbha")
BEFORE = (
    "CREATE DATABASE leaving",
    "CREATE TABLE leaving.a (id INT PRIMARY KEY) ENGINE=InnoDB",
    "CREATE TABLE nova.dropped (id INT PRIMARY KEY) ENGINE=InnoDB",
    "CREATE TABLE nova.emptied (id INT PRIMARY KEY, v CHAR(100)) ENGINE=InnoDB",
    "INSERT INTO nova.emptied SELECT seq, 'x' FROM mysql.seq_1_to_5000",
    "CREATE TABLE nova.called (id INT PRIMARY KEY) ENGINE=InnoDB",
    "INSERT INTO nova.called VALUES (1), (2)",
    "CREATE TABLE nova.replaced (id INT PRIMARY KEY, v CHAR(100)) ENGINE=InnoDB",
    "INSERT INTO nova.replaced SELECT seq, 'old' FROM mysql.seq_1_to_1000",
    "CREATE TABLE nova.packed (id INT PRIMARY KEY, v CHAR(100)) ROW_FORMAT=COMPRESSED ENGINE=InnoDB",
)
FIRST = (
    "DROP DATABASE leaving",
    "CREATE DATABASE coming",
    "CREATE TABLE coming.a (id INT PRIMARY KEY, v CHAR(100)) ENGINE=InnoDB",
    "INSERT INTO coming.a SELECT seq, 'new' FROM mysql.seq_1_to_3000",
    "DROP TABLE nova.dropped",
    "TRUNCATE nova.emptied",
    "INSERT INTO nova.emptied VALUES (7, 'alone')",
    "RENAME TABLE nova.called TO nova.named, glance.images TO glance.pictures",
    "RENAME TABLE glance.pictures TO glance.images",
    "DROP TABLE nova.replaced",
    "CREATE TABLE nova.replaced (id INT PRIMARY KEY, other INT) ENGINE=InnoDB",
    "INSERT INTO nova.replaced SELECT seq, seq FROM mysql.seq_1_to_1000",
    "ALTER TABLE nova.wide ADD INDEX c (b, a)",
    "ALTER TABLE nova.wide ADD COLUMN quick INT DEFAULT 7",
    "ALTER TABLE nova.instances ADD COLUMN slow INT, FORCE",
    "UPDATE nova.wide SET b = 'changed' WHERE id % 7 = 0",
    "INSERT INTO nova.packed SELECT seq, 'new' FROM mysql.seq_1_to_3000",
    "INSERT INTO glance.images VALUES ('a', 'some words to be found')",
    "INSERT INTO glance.`of-parts` SELECT seq FROM mysql.seq_1_to_300",
    "INSERT INTO glance.old VALUES (5)",
    "CREATE USER late@localhost IDENTIFIED BY 'hidden'",
)
SECOND = (
    "DROP TABLE coming.a",
    "CREATE TABLE coming.b LIKE nova.wide",
    "INSERT INTO coming.b SELECT * FROM nova.wide LIMIT 1000",
    "DELETE FROM nova.wide WHERE id % 3 = 0",
    "RENAME TABLE nova.named TO coming.named",
    "ALTER TABLE nova.wide DROP INDEX a",
    "INSERT INTO nova.instances (host) VALUES ('second')",
    "DROP USER late@localhost",
)


def contents(session: Session) -> dict[str, int | None]:
    """Return the checksum of every table that is not the server's own."""
    rows = session.rows(
        "SELECT table_schema AS db, table_name AS name FROM information_schema.tables"
        " WHERE table_schema NOT IN %s AND table_type = 'BASE TABLE'",
        [SYSTEM],
    )
    names = [f"{identifier(row['db'])}.{identifier(row['name'])}" for row in rows]
    found = {row["Table"]: row["Checksum"] for row in session.rows(f"CHECKSUM TABLE {', '.join(names)}")}
    databases = session.column("SELECT schema_name FROM information_schema.schemata")
    return found | {name: 0 for name in databases if name not in SYSTEM}


def contents_of(server: Server) -> dict[str, int | None]:
    with server.cluster.session(server.node) as session:
        return contents(session)


@contextmanager
def served(
    store: DirectoryStore, backup_id: str, directory: Path, identities: Identities = NO_IDENTITIES
) -> Iterator[Session]:
    """Yield a session on what a restore would have."""
    kept = verify(
        store, backup_id, directory / "staging", on_bytes=nothing, keep=True, identities=identities
    ).prepared
    assert kept is not None
    with private_server(kept) as private, private.session() as session:
        yield session
    shutil.rmtree(kept)


@pytest.fixture(scope="module")
def world(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Server, DirectoryStore, list[Manifest]]]:
    """A server, and in a store a full backup of it and two differential ones, with changes of all kinds between."""
    with running_server(tmp_path_factory.mktemp("server")) as server:
        store, taken = DirectoryStore(tmp_path_factory.mktemp("store")), list[Manifest]()
        for statements in (BEFORE, FIRST, SECOND):
            server.execute(*statements)
            backup_id = f"20200101T00000{len(taken)}Z-0000"
            taken.append(take(server, store, backup_id=backup_id, base=taken[0] if taken else None))
            CONTENTS[backup_id] = contents_of(server)
        yield server, store, taken


CONTENTS: dict[str, dict[str, int | None]] = {}
World = tuple[Server, DirectoryStore, list[Manifest]]


def copied(world: World, directory: Path) -> DirectoryStore:
    return DirectoryStore(shutil.copytree(world[1].directory, directory / "store"))


def new_identity() -> Identities:
    return Identities(
        Secret(subprocess.run(["age-keygen"], capture_output=True, text=True, check=True).stdout)
    )


def looked_at(server: Server, base: Manifest) -> str:
    """Return why there is no increment upon the base now."""
    assert base.origin is not None
    directory = look_at_directory(server.cluster, server.node, base.id, base.origin)
    return why_not_upon(base, directory)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_each_holds_what_the_server_held_then(world: World, tmp_path: Path, number: int) -> None:
    _, store, taken = world
    manifest = taken[number]
    assert (manifest.kind, manifest.depth) == (("incremental", 1) if number else ("full", 0))
    assert number == 0 or manifest.stream.raw_bytes < taken[0].stream.raw_bytes
    with served(store, manifest.id, tmp_path) as session:
        assert contents(session) == CONTENTS[manifest.id]
        late = session.value("SELECT COUNT(*) FROM mysql.global_priv WHERE user = 'late'")
        assert late == (1 if number == 1 else 0)
    for level in (Level.HASH, Level.BOOT):
        assert verify(
            store, manifest.id, tmp_path / "staging", on_bytes=nothing, keep=False, level=level
        ).good
    assert [path.name for path in (tmp_path / "staging").iterdir()] == [".lock"]


def test_progress_is_told_of_the_whole_chain(world: World, tmp_path: Path) -> None:
    _, store, taken = world
    told = list[tuple[int, int]]()
    verify(
        store,
        taken[1].id,
        tmp_path,
        on_bytes=lambda *both: told.append(both),
        keep=False,
        level=Level.PREPARE,
    )
    total = taken[0].stream.stored_bytes + taken[1].stream.stored_bytes
    assert told[-1] == (total, total)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_a_longer_chain_of_backups_that_are_stored_otherwise(world: World, tmp_path: Path) -> None:
    server, store, taken, ours = world[0], copied(world, tmp_path), world[2], new_identity()
    server.execute("INSERT INTO nova.instances (host) VALUES ('third')")
    quicker = POLICY.model_copy(update={"compression": Compression.LZ4})
    third = take(server, store, base=taken[2], policy=quicker, recipients=ours.recipients)
    expected = contents_of(server)
    assert (third.depth, third.lsn and third.lsn.from_lsn) == (2, taken[2].lsn and taken[2].lsn.to_lsn)
    with served(store, third.id, tmp_path, ours) as session:
        assert contents(session) == expected
    with pytest.raises(KeyMissingError):
        verify(store, third.id, tmp_path / "staging", on_bytes=nothing, keep=False)
    assert [each.status for each in store.list()] == [Status.COMPLETE] * 4


def test_an_increment_is_not_applied_twice(world: World, tmp_path: Path) -> None:
    _, store, (full, first, _) = world
    (tmp_path / "tree").mkdir()
    (tmp_path / "apart").mkdir()
    with pytest.raises(BadBackupError, match="does not go on at LSN") as twice:
        make_tree(store, (full, first, first), NO_IDENTITIES, tmp_path / "tree", tmp_path / "apart", nothing)
    assert twice.value.manifest == first


def test_an_increment_is_not_applied_to_another_base(world: World, tmp_path: Path) -> None:
    server, store, (full, first, _) = world[0], copied(world, tmp_path), world[2]
    other = take(server, store)
    told = first.model_copy(update={"base": Base(id=other.id, sha256=other.stream.sha256)})
    (store.directory / first.id / "manifest.json").write_bytes(sealed(told))
    with pytest.raises(FoundWrongError, match="does not go on at LSN"):
        verify(store, first.id, tmp_path / "staging", on_bytes=nothing, keep=False)
    assert [each.status for each in store.list()] == [
        Status.COMPLETE, Status.BAD, Status.COMPLETE, Status.COMPLETE,
    ]  # fmt: skip
    told = first.model_copy(update={"base": Base(id=other.id, sha256=full.stream.sha256)})
    (store.directory / first.id / "manifest.json").write_bytes(sealed(told))
    with pytest.raises(FoundWrongError, match="is another backup than the one it was taken upon"):
        verify(store, first.id, tmp_path / "staging", on_bytes=nothing, keep=False)


@pytest.mark.parametrize("level", [Level.HASH, Level.PREPARE])
def test_a_byte_of_the_base(world: World, tmp_path: Path, level: Level) -> None:
    store, (full, first, second) = copied(world, tmp_path), world[2]
    path = store.directory / full.id / full.stream.file
    flip(path, 1 << 20)
    with pytest.raises(FoundWrongError, match=f"{first.id} is not good: its base {full.id}: .*sha256"):
        verify(store, first.id, tmp_path / "staging", on_bytes=nothing, keep=False, level=level)
    assert [each.status for each in store.list()] == [Status.BAD, Status.ORPHANED, Status.ORPHANED]
    assert not any(each.verification and not each.verification.good for each in store.list()[1:])
    with pytest.raises(FoundWrongError, match=f"its base {full.id} is bad"):
        verify(store, second.id, tmp_path / "staging", on_bytes=nothing, keep=False, level=level)
    flip(path, 1 << 20)
    verify(store, full.id, tmp_path / "staging", on_bytes=nothing, keep=False, level=Level.HASH)
    assert [each.status for each in store.list()] == [Status.COMPLETE] * 3


def test_a_byte_of_the_increment(world: World, tmp_path: Path) -> None:
    store, (_, first, _) = copied(world, tmp_path), world[2]
    flip(store.directory / first.id / first.stream.file, 5000)
    with pytest.raises(FoundWrongError, match=f"{first.id} is not good: the stream was changed"):
        verify(store, first.id, tmp_path / "staging", on_bytes=nothing, keep=False)
    assert [each.status for each in store.list()] == [Status.COMPLETE, Status.BAD, Status.COMPLETE]
    assert [path.name for path in (tmp_path / "staging").iterdir()] == [".lock"]


def test_a_base_that_is_gone(world: World, tmp_path: Path) -> None:
    store, (full, first, _) = copied(world, tmp_path), world[2]
    store.delete(full.id)
    with pytest.raises(FoundWrongError, match=f"its base {full.id} is not there"):
        verify(store, first.id, tmp_path / "staging", on_bytes=nothing, keep=False)
    assert [each.status for each in store.list()] == [Status.ORPHANED] * 2
    assert not any(each.verification and not each.verification.good for each in store.list())


def test_what_was_imported_is_noticed(world: World, tmp_path: Path) -> None:
    """mariadb-backup leaves imported pages out, and says that all is well."""
    server, store, (full, _, _) = world[0], copied(world, tmp_path), world[2]
    assert looked_at(server, full) == ""  # after every other kind of change
    tree = verify(store, full.id, tmp_path / "staging", on_bytes=nothing, keep=True).prepared
    assert tree is not None
    server.execute(
        "CREATE TABLE nova.imported LIKE nova.packed", "ALTER TABLE nova.imported DISCARD TABLESPACE"
    )
    data = Path(server.node.datadir) / "nova"
    for suffix in ("ibd", "cfg"):
        shutil.copy(tree / "nova" / f"packed.{suffix}", data / f"imported.{suffix}")
        shutil.chown(data / f"imported.{suffix}", data.owner(), data.group())
    server.execute("ALTER TABLE nova.imported IMPORT TABLESPACE")
    try:
        assert looked_at(server, full).startswith("nova/imported was imported since then")
        with pytest.raises(BackupFailedError, match="nova/imported was imported since then"):
            take(server, store, base=full)
        server.execute("INSERT INTO nova.imported VALUES (100000, 'x')")
        assert "nova/imported was imported" in looked_at(server, full)
        newer = take(server, store)
        assert looked_at(server, newer) == ""
        server.execute("TRUNCATE nova.imported")
        assert looked_at(server, full) == ""
    finally:
        server.execute("DROP TABLE nova.imported")


def test_other_data_is_noticed(world: World) -> None:
    server, _, (full, first, _) = world
    assert full.origin is not None and first.origin is not None and full.lsn is not None
    directory = look_at_directory(server.cluster, server.node, full.id, full.origin)
    for changed, why in (
        (replace(directory, state_uuid="other"), "began a new history"),
        (replace(directory, mark=""), "has the data of another node"),
        (replace(directory, mark=first.origin.mark), "has the data of another node"),
        (replace(directory, mark_table=1), "has the data of another node"),
        (replace(directory, lsn=full.lsn.to_lsn - 1), "is older than the backup"),
        (replace(directory, server_series="11.8"), "runs MariaDB 11.8"),
    ):
        assert why in why_not_upon(full, changed)


def test_a_donor_that_gets_other_data_meanwhile(world: World, tmp_path: Path) -> None:
    server, store = world[0], copied(world, tmp_path)
    backup_id = new_backup_id()

    def forget() -> None:
        server.execute(f"DELETE FROM dbha.data_directory_mark WHERE backup = '{backup_id}'")

    with pytest.raises(BackupFailedError, match="got other data during the backup"):
        take(server, store, backup_id=backup_id, on_bytes=once(forget))
