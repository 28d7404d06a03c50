"""Backups that are compressed in other ways, encrypted, slow or partial: taken, proven, spoilt and restored."""

import hashlib
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dbha.backup.directory_store import DirectoryStore
from dbha.backup.encryption import NO_IDENTITIES, Identities
from dbha.backup.levels import Level
from dbha.backup.manifest import Encryption, Scope, new_backup_id, sealed
from dbha.backup.store import Status
from dbha.backup.stored_bytes import definitions_of
from dbha.backup.take import take_backup
from dbha.backup.verify import verify
from dbha.config.model import BackupPolicy, Compression
from dbha.errors import BackupFailedError, FoundWrongError, KeyMissingError, UnsafeError
from dbha.secrets import Secret
from tests.real.cloud import NEW, Cloud
from tests.real.lone_server import DATABASES, FILLING_MIB, POLICY, SERVICES, Server, nothing, once, take
from tests.real.processes import command_line, descendants, eventually
from tests.real.sealing import configured, identity_text, new_identity, require_nowhere
from tests.real.spoiling import flip, place_of

pytest_plugins = ("tests.real.lone_fixtures", "tests.real.cloud_fixtures")
pytestmark = pytest.mark.real

OnBytes = Callable[[int, int], None]


OURS, SAFE, FOREIGN = new_identity(), new_identity(), new_identity()
RECIPIENTS = (*OURS.recipients, *SAFE.recipients)


def compressed_by(compression: Compression = Compression.LZ4) -> BackupPolicy:
    return POLICY.model_copy(update={"compression": compression})


@pytest.fixture(scope="module")
def encrypted(server: Server, tmp_path_factory: pytest.TempPathFactory) -> DirectoryStore:
    """A store with one encrypted backup; tests work on copies of it."""
    store = DirectoryStore(tmp_path_factory.mktemp("encrypted"))
    take(server, store, policy=compressed_by(), recipients=RECIPIENTS)
    return store


@pytest.fixture
def store(encrypted: DirectoryStore, tmp_path: Path) -> DirectoryStore:
    shutil.copytree(encrypted.directory, tmp_path / "store")
    return DirectoryStore(tmp_path / "store")


def prove(
    store: DirectoryStore, staging: Path, identities: Identities, *, level: Level = Level.PREPARE,
    on_bytes: OnBytes = nothing,
) -> str:  # fmt: skip
    backup_id = store.list()[0].id
    return verify(
        store, backup_id, staging, on_bytes=on_bytes, keep=False, level=level, identities=identities
    ).outcome


def tools_at_work() -> list[str]:
    """Return the command lines of everything that this process started."""
    return [command_line(pid) for pid in descendants(os.getpid())]


def kill_tool(name: str) -> None:
    """End the one tool of this name that this process started, or is just about to have started."""

    def find() -> int | None:
        found = [pid for pid in descendants(os.getpid()) if command_line(pid).split(" ")[0] == name]
        return found[0] if len(found) == 1 else None

    os.kill(eventually(find, f"there is no {name}"), signal.SIGKILL)


# --- how it is stored


@pytest.mark.parametrize("compression", [Compression.LZ4, Compression.NONE])
@pytest.mark.parametrize("recipients", [(), RECIPIENTS[:1]])
def test_every_way_of_storing_can_be_unpacked(
    server: Server, tmp_path: Path, compression: Compression, recipients: tuple[str, ...]
) -> None:
    store = DirectoryStore(tmp_path / "s")
    manifest = take(server, store, policy=compressed_by(compression), recipients=recipients)
    assert manifest.stream.compression is compression
    assert manifest.recipients == recipients
    files = {path.name: path.read_bytes() for path in place_of(store).iterdir()}
    assert manifest.accounts is not None
    sealed_files = {manifest.stream.file, manifest.definitions.file, manifest.accounts.file}
    assert set(files) == {*sealed_files, "manifest.json"}
    is_sealed = [content.startswith(b"age-encryption.org/v1\n") for content in files.values()]
    assert sum(is_sealed) == (3 if recipients else 0)
    assert prove(store, tmp_path / "staging", OURS) == "good"


# --- who can open it


def test_each_identity_alone_opens_it_and_hashing_needs_none(store: DirectoryStore, tmp_path: Path) -> None:
    seen: list[str] = []

    def look(*_: int) -> None:
        seen.extend(tools_at_work())

    assert prove(store, tmp_path / "staging", NO_IDENTITIES, level=Level.HASH) == "good"
    assert prove(store, tmp_path / "staging", SAFE, on_bytes=look) == "good"
    assert prove(store, tmp_path / "staging", OURS, level=Level.BOOT, on_bytes=look) == "good"
    assert any("age --decrypt --identity=/dev/fd/" in line for line in seen)
    assert not [line for line in seen if "SECRET" in line]
    manifest = store.manifest(store.list()[0].id)
    assert set(definitions_of(store, manifest, SAFE).databases) == set(DATABASES)


@pytest.mark.parametrize("identities", [NO_IDENTITIES, FOREIGN])
def test_without_a_key_there_is_no_verdict(
    store: DirectoryStore, tmp_path: Path, identities: Identities
) -> None:
    for level in (Level.PREPARE, Level.PAGES, Level.BOOT):
        with pytest.raises(KeyMissingError) as missing:
            prove(store, tmp_path / "staging", identities, level=level)
        assert all(recipient in str(missing.value) for recipient in RECIPIENTS)
        assert missing.value.exit_code == 5
    (backup,) = store.list()
    assert (backup.status, backup.verification) == (Status.COMPLETE, None)
    with pytest.raises(KeyMissingError):
        definitions_of(store, store.manifest(backup.id), identities)


def test_what_those_it_names_cannot_open_is_a_bad_backup_until_somebody_opens_it(
    store: DirectoryStore, tmp_path: Path
) -> None:
    recipients = (*FOREIGN.recipients, *SAFE.recipients)
    change_manifest(store, encryption=Encryption(recipients=recipients))
    with pytest.raises(FoundWrongError, match="no identity matched"):
        prove(store, tmp_path / "staging", FOREIGN)
    assert store.list()[0].status is Status.BAD
    assert prove(store, tmp_path / "staging", SAFE) == "good"
    assert store.list()[0].status is Status.COMPLETE


def change_manifest(store: DirectoryStore, **changes: object) -> None:
    path = place_of(store) / "manifest.json"
    manifest = store.manifest(store.list()[0].id)
    path.write_bytes(sealed(manifest.model_copy(update=changes)))


# --- spoilt


def test_a_flipped_byte_needs_no_key_to_be_found(store: DirectoryStore, tmp_path: Path) -> None:
    flip(place_of(store) / "stream.mbs.lz4.age", 10_000_000)
    for identities, level in ((OURS, Level.PREPARE), (NO_IDENTITIES, Level.HASH)):
        with pytest.raises(FoundWrongError, match="its sha256 is another"):
            prove(store, tmp_path / "staging", identities, level=level)
        assert store.list()[0].status is Status.BAD


@pytest.mark.parametrize("position", [30, 10_000_000, -1])
def test_what_was_changed_before_it_was_hashed_is_found_by_age(
    store: DirectoryStore, tmp_path: Path, position: int
) -> None:
    path = place_of(store) / "stream.mbs.lz4.age"
    flip(path, position % path.stat().st_size)
    manifest = store.manifest(store.list()[0].id)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    change_manifest(store, stream=manifest.stream.model_copy(update={"sha256": digest}))
    with pytest.raises(FoundWrongError, match="it cannot be decrypted"):
        prove(store, tmp_path / "staging", OURS)
    (backup,) = store.list()
    assert backup.status is Status.BAD
    assert backup.verification is not None
    assert backup.verification.level is Level.PREPARE


@pytest.mark.parametrize("tool", ["age", "lz4", "mbstream"])
def test_a_tool_that_is_killed_here_is_no_fault_of_the_backup(
    store: DirectoryStore, tmp_path: Path, tool: str
) -> None:
    with pytest.raises(UnsafeError, match=f"{tool} was ended by signal 9"):
        prove(store, tmp_path / "staging", OURS, on_bytes=once(lambda: kill_tool(tool)))
    assert store.list()[0].verification is None
    assert not [line for line in tools_at_work() if line.split(" ")[0] in ("age", "lz4", "mbstream")]


@pytest.mark.parametrize("tool", ["age", "lz4"])
def test_a_tool_that_is_killed_on_the_donor(server: Server, store: DirectoryStore, tool: str) -> None:
    with pytest.raises(BackupFailedError, match=f"{tool} was ended by signal 9") as failed:
        take(
            server,
            store,
            policy=compressed_by(),
            recipients=RECIPIENTS,
            on_bytes=once(lambda: kill_tool(tool)),
        )
    assert failed.value.exit_code == 6
    assert [backup.status for backup in store.list()] == [Status.COMPLETE, Status.FAILED]


def test_a_tool_that_is_missing_on_the_donor(
    server: Server, store: DirectoryStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for tool in ("sh", "mariadb-backup", "lz4"):
        (tmp_path / tool).symlink_to(shutil.which(tool) or "")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BackupFailedError, match="cannot start age: No such file or directory"):
        take(server, store, policy=compressed_by(), recipients=RECIPIENTS)


# --- slow, and partial


def test_a_throttled_backup_is_no_quicker_than_it_may_be(server: Server, tmp_path: Path) -> None:
    store, began_s = DirectoryStore(tmp_path / "s"), time.monotonic()
    manifest = take(server, store, policy=POLICY.model_copy(update={"throttle_mib_s": 12.0}))
    assert time.monotonic() - began_s > (FILLING_MIB * 1.4 - 1) / 12, "rows take more room than their bytes"
    assert manifest.stream.raw_bytes > (FILLING_MIB << 20) * 1.4


def test_a_backup_of_one_service_is_proven_like_any_other(server: Server, tmp_path: Path) -> None:
    store, staging = DirectoryStore(tmp_path / "s"), tmp_path / "staging"
    server.execute("INSERT INTO glance.images (id) VALUES (UUID())")  # in the redo log, and not in the backup
    manifest = take_backup(
        server.cluster, store, server.node, backup_id=new_backup_id(), services={"nova": SERVICES["nova"]}, label="",
        policy=POLICY, databases=("nova",), on_bytes=nothing, on_line=nothing, scope=Scope.SERVICES, timeout_s=60,
    )  # fmt: skip
    assert manifest.part == "nova"
    assert set(definitions_of(store, manifest).databases) == {"nova"}
    assert prove(store, staging, NO_IDENTITIES, level=Level.BOOT) == "good"
    tree = verify(store, manifest.id, staging, on_bytes=nothing, keep=True).prepared
    assert tree is not None
    assert {path.name for path in tree.iterdir() if path.is_dir()} == {"nova", "mysql"}


def placement_rows(cloud: Cloud) -> int:
    with cloud.session() as session:
        return int(session.value("SELECT COUNT(*) FROM placement.resource_classes"))


def test_a_partial_encrypted_backup_restores_its_service_and_nothing_else(cloud: Cloud) -> None:
    """Through the command line: for two recipients, opened by each of them, and by a controller without a key."""
    ours, theirs = identity_text(), identity_text()
    recipients = [Identities(Secret(text)).recipients[0] for text in (ours, theirs)]
    both: dict[str, Any] = {"recipients": recipients, "compression": "lz4", "throttle_mib_s": 200}
    sealed = configured(cloud, "ours", identity=ours, **both)
    made = cloud.run(
        "backup", "create", "--service", "placement", "--verify", "boot", "--json", configuration=sealed
    ).json["backup"]
    assert (made["scope"], made["services"], made["recipients"]) == ("services", ["placement"], recipients)
    assert made["verified_level"] == "boot"
    rows = placement_rows(cloud)
    cloud.execute("INSERT INTO placement.resource_classes (name) VALUES ('CUSTOM_LATER')")

    blind = configured(cloud, "blind", **both)
    said = cloud.run("restore", made["id"], "--service", "placement", "--yes", configuration=blind, expect=5)
    assert all(recipient in said.stderr for recipient in recipients)
    said = cloud.run("backup", "verify", made["id"], configuration=blind, expect=5)
    cloud.run("backup", "verify", made["id"], "--level", "hash", configuration=blind)
    said = cloud.run("upgrade", "run", "--to", NEW, "--yes", configuration=blind, expect=4)
    assert "no identity here opens that" in said.stderr
    said = cloud.run("backup", "create", "--verify", configuration=blind, expect=5)
    said = cloud.run("restore", made["id"], "--yes", configuration=sealed, expect=4)
    assert f"dbha restore {made['id']} --service placement" in said.stderr
    said = cloud.run("restore", made["id"], "--service", "nova", "--yes", configuration=sealed, expect=2)
    assert cloud.json("backup", "show")["scope"] == "cluster", "`latest` is the last one of the whole cluster"
    assert placement_rows(cloud) == rows + 1

    other = configured(cloud, "theirs", identity=identity_text() + theirs, **both)
    cloud.run("restore", "latest", "--service", "placement", "--yes", configuration=other)
    assert placement_rows(cloud) == rows
    cloud.assert_as_before()
    for text in (ours, theirs):
        secret = next(line for line in text.splitlines() if line.startswith("AGE-SECRET-KEY"))
        require_nowhere(secret, cloud.state, cloud.backups)
    cloud.run("backup", "delete", made["id"], "--yes")
