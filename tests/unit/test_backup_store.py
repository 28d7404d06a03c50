"""What a directory store shows at every moment of a backup's life, and after it was cut off there."""

import fcntl
import hashlib
import os
import shutil
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dbha.backup.definitions import DatabaseDefinition, Definitions
from dbha.backup.directory_store import DirectoryStore
from dbha.backup.manifest import (
    Base,
    DefinitionsFile,
    Manifest,
    Scope,
    ServiceState,
    StreamFile,
    Verification,
)
from dbha.backup.store import Status, Store, StoredBackup, resolve, stored_ratio
from dbha.backup.stored_bytes import definitions_of
from dbha.errors import BusyError, FoundWrongError, UsageError
from tests.unit.test_backup_manifest import MANIFEST

FIRST, SECOND = "20261123T043000Z-3f2a", "20261123T043001Z-0001"
DEFINITIONS = Definitions(
    databases={
        "nova": DatabaseDefinition(
            charset="utf8mb3", collation="utf8mb3_general_ci", tables={"a": "CREATE"}, tablespaces=("nova/a",)
        )
    }
)


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    return DirectoryStore(tmp_path / "store")


def manifest_of(backup_id: str, content: bytes) -> Manifest:
    return MANIFEST.model_copy(
        update={
            "id": backup_id,
            "stream": StreamFile(stored_bytes=6, raw_bytes=12, sha256=hashlib.sha256(b"stream").hexdigest()),
            "definitions": DefinitionsFile(sha256=hashlib.sha256(content).hexdigest()),
        }
    )


def complete(store: Store, backup_id: str, *, base: Manifest | None = None) -> Manifest:
    content = DEFINITIONS.model_dump_json(by_alias=True).encode()
    manifest = manifest_of(backup_id, content)
    if base is not None:
        upon = Base(id=base.id, sha256=base.stream.sha256)
        manifest = manifest.model_copy(update={"kind": "incremental", "base": upon, "depth": base.depth + 1})
    draft = store.begin(backup_id)
    draft.write(b"str")
    draft.write(b"eam")
    draft.publish({"definitions.json": content}, manifest)
    return manifest


def only(store: DirectoryStore) -> StoredBackup:
    (backup,) = store.list()
    return backup


def test_an_empty_store(store: DirectoryStore) -> None:
    assert store.list() == ()
    assert store.free_bytes() > 0
    with pytest.raises(FoundWrongError, match="no complete backup"):
        resolve(store.list(), "latest")


def test_a_complete_backup(store: DirectoryStore) -> None:
    manifest = complete(store, FIRST)
    backup = only(store)
    assert (backup.status, backup.manifest, backup.verified) == (Status.COMPLETE, manifest, False)
    assert backup.created == datetime(2026, 11, 23, 4, 30, tzinfo=UTC)
    assert definitions_of(store, store.manifest(FIRST)) == DEFINITIONS
    with store.open_stream(FIRST) as stream:
        assert stream.read() == b"stream"
    assert stored_ratio(store.list()) == 6 / MANIFEST.data_bytes


def test_only_the_owner_may_read(store: DirectoryStore) -> None:
    complete(store, FIRST)
    modes = [stat.S_IMODE(path.stat().st_mode) for path in store.directory.rglob("*")]
    assert all(mode & 0o077 == 0 for mode in modes)


def test_list_is_in_order_and_latest_is_the_newest_complete(store: DirectoryStore) -> None:
    complete(store, SECOND)
    complete(store, FIRST)
    store.begin("20261123T050000Z-ffff").abandon("why", b"log")
    assert [backup.id for backup in store.list()] == [FIRST, SECOND, "20261123T050000Z-ffff"]
    assert resolve(store.list(), "latest") == SECOND
    assert resolve(store.list(), FIRST) == FIRST


def test_latest_is_of_the_whole_cluster_unless_services_are_asked_for(store: DirectoryStore) -> None:
    complete(store, FIRST)
    content = DEFINITIONS.model_dump_json(by_alias=True).encode()
    draft = store.begin(SECOND)
    draft.write(b"stream")
    nova = ServiceState(release="2025.1", databases=("nova",), heads={})
    draft.publish(
        {"definitions.json": content},
        manifest_of(SECOND, content).model_copy(
            update={"scope": Scope.SERVICES, "services": {"nova": nova}, "data_bytes": 1}
        ),
    )
    assert resolve(store.list(), "latest") == FIRST
    assert resolve(store.list(), "latest", services=["nova"]) == SECOND
    with pytest.raises(FoundWrongError, match="no complete backup that has nova, heat"):
        resolve(store.list(), "latest", services=["nova", "heat"])
    assert stored_ratio(store.list()) == stored_ratio(store.list()[:1])
    store.delete(FIRST)
    with pytest.raises(FoundWrongError, match="no complete backup of the whole cluster"):
        resolve(store.list(), "latest")


@pytest.mark.parametrize("name", ["20261123T050000Z-ffff", "newest", ""])
def test_an_unknown_name_is_a_mistake_of_the_caller(store: DirectoryStore, name: str) -> None:
    with pytest.raises(UsageError):
        resolve(store.list(), name)
    with pytest.raises(UsageError):
        store.delete(name or "x")


def test_a_failed_backup_keeps_its_reason_and_log_and_no_data(store: DirectoryStore) -> None:
    draft = store.begin(FIRST)
    draft.write(b"secret rows")
    draft.abandon("the disk is full", b"its log")
    backup = only(store)
    assert (backup.status, backup.reason) == (Status.FAILED, "the disk is full")
    assert (store.directory / f"{FIRST}.failed/backup.log").read_bytes() == b"its log"
    assert not any(
        b"secret rows" in path.read_bytes() for path in store.directory.rglob("*") if path.is_file()
    )


def test_who_writes_is_seen_and_protected(store: DirectoryStore) -> None:
    draft = store.begin(FIRST)
    assert only(store).status is Status.WRITING
    with pytest.raises(BusyError):
        store.delete(FIRST)
    with pytest.raises(UsageError, match="already"):
        store.begin(FIRST)
    os.close(draft._lock)  # as when its process is gone
    assert only(store).status is Status.INTERRUPTED
    store.delete(FIRST)
    assert store.list() == ()


def test_who_looks_at_a_draft_keeps_nobody_from_writing_it(store: DirectoryStore) -> None:
    store.begin(FIRST).leave()
    looking = os.open(store.directory / f"{FIRST}.partial", os.O_RDONLY)
    fcntl.flock(looking, fcntl.LOCK_SH)
    assert only(store).status is Status.INTERRUPTED  # nor does it look like a writer to others
    with ThreadPoolExecutor(1) as pool:
        beginning = pool.submit(store.begin, FIRST, go_on=True)
        time.sleep(0.05)
        os.close(looking)
        beginning.result().leave()


def test_a_cut_off_deletion_is_finished_by_the_next(store: DirectoryStore) -> None:
    complete(store, FIRST)
    (store.directory / FIRST).rename(store.directory / f"{FIRST}.deleting")
    assert (only(store).status, only(store).reason) == (Status.INTERRUPTED, "its deletion was cut off")
    store.delete(FIRST)
    assert store.list() == ()


@pytest.mark.parametrize(
    ("file", "damage", "expected"),
    [
        ("manifest.json", b"{}", Status.DAMAGED),
        ("manifest.json", None, Status.DAMAGED),
        ("definitions.json", b"{}", Status.COMPLETE),  # only who reads it can tell
        ("definitions.json", None, Status.BAD),
    ],
)
def test_damage_is_found(store: DirectoryStore, file: str, damage: bytes | None, expected: Status) -> None:
    complete(store, FIRST)
    path = store.directory / FIRST / file
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage)
    with pytest.raises(FoundWrongError):
        definitions_of(store, store.manifest(FIRST))
    assert only(store).status is expected


def test_a_bad_backup_is_told_from_one_that_was_never_verified(store: DirectoryStore) -> None:
    complete(store, FIRST)
    manifest = complete(store, SECOND)
    found = Verification(
        backup=SECOND, outcome="bad", problem="its tail is missing", when=datetime.now(UTC),
        stream_sha256=manifest.stream.sha256, tool_version="10.11.6", dbha_version="0.1.0",
    )  # fmt: skip
    store.record_verification(found)
    assert [(each.status, each.reason) for each in store.list()] == [
        (Status.COMPLETE, ""), (Status.BAD, "its tail is missing"),
    ]  # fmt: skip
    assert resolve(store.list(), "latest") == FIRST
    store.record_verification(found.model_copy(update={"outcome": "good", "problem": ""}))
    assert resolve(store.list(), "latest") == SECOND


def test_a_manifest_of_another_backup_is_refused(store: DirectoryStore) -> None:
    complete(store, FIRST)
    (store.directory / FIRST).rename(store.directory / SECOND)
    assert only(store).status is Status.DAMAGED
    assert f"belongs to {FIRST}" in only(store).reason


def test_a_verification_holds_for_the_stream_it_saw(store: DirectoryStore) -> None:
    manifest = complete(store, FIRST)
    found = Verification(
        backup=FIRST, outcome="good", when=MANIFEST.created, stream_sha256=manifest.stream.sha256,
        tool_version="10.11.19-MariaDB", dbha_version="0.1.0",
    )  # fmt: skip
    store.record_verification(found.model_copy(update={"outcome": "bad", "problem": "p"}))
    assert not only(store).verified
    store.record_verification(found)
    assert only(store).verification == found
    assert only(store).verified
    store.record_verification(found.model_copy(update={"stream_sha256": "f" * 64}))
    assert not only(store).verified
    (store.directory / FIRST / "verification.json").write_bytes(b"{")
    assert only(store).verification is None
    assert only(store).status is Status.BAD, "it may have said so"


@pytest.mark.parametrize("name", ["notes", f"{FIRST}.bak", f"{FIRST}.old", f"{FIRST}x", SECOND])
@pytest.mark.parametrize("kind", ["directory", "file"])
def test_what_is_no_backup_is_left_alone(store: DirectoryStore, name: str, kind: str) -> None:
    """A copy made by hand would look like an interrupted backup of the same id, and the whole one would be pruned."""
    complete(store, FIRST)
    stray = store.directory / name
    shutil.copytree(store.directory / FIRST, stray) if kind == "directory" else stray.write_bytes(b"")
    shown = {each.id: each.status for each in store.list()}
    assert shown == {FIRST: Status.COMPLETE} | (
        {SECOND: Status.DAMAGED} if (name, kind) == (SECOND, "directory") else {}
    )


def test_a_whole_backup_counts_more_than_a_draft_of_its_id(store: DirectoryStore) -> None:
    complete(store, FIRST)
    (store.directory / f"{FIRST}.partial").mkdir()
    assert only(store).status is Status.COMPLETE


@pytest.mark.parametrize("kept_bytes", [0, 5, None])
def test_a_stream_that_is_cut_or_gone_is_seen_without_reading_it(
    store: DirectoryStore, kept_bytes: int | None
) -> None:
    manifest = complete(store, FIRST)
    stream = store.directory / FIRST / manifest.stream.file
    stream.unlink() if kept_bytes is None else os.truncate(stream, kept_bytes)
    assert (only(store).status, "stream" in only(store).reason) == (Status.BAD, True)
    with pytest.raises(FoundWrongError, match="no complete backup"):
        resolve(store.list(), "latest")


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"5", b"{}", b"\xff", b'{"reason'])
def test_a_reason_that_cannot_be_read_hides_nothing(store: DirectoryStore, content: bytes) -> None:
    store.begin(FIRST).abandon("why", b"")
    (store.directory / f"{FIRST}.failed/failure.json").write_bytes(content)
    assert (only(store).status, only(store).reason) == (Status.FAILED, "its reason cannot be read")


def test_who_lists_while_others_publish_and_delete_sees_all_that_stays(store: DirectoryStore) -> None:
    complete(store, FIRST)
    seen: list[tuple[StoredBackup, ...]] = []

    def come_and_go() -> None:
        for _ in range(100):
            complete(store, SECOND)
            store.delete(SECOND)

    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(come_and_go)
        while not other.done():
            seen.append(store.list())
        other.result()
    assert len(seen) > 10
    assert {backups[0].id for backups in seen} == {FIRST}
    assert not any(each.status in (Status.DAMAGED, Status.BAD) for backups in seen for each in backups)
