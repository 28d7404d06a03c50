"""What lies in a store of objects at every moment of a backup's life."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from dbha.backup.copy import copy_backup, needs_copy
from dbha.backup.directory_store import DirectoryStore
from dbha.backup.keep import UNREADABLE, KeepMark
from dbha.backup.levels import Level
from dbha.backup.manifest import Manifest, Verdict, Verification, sealed
from dbha.backup.remote_names import WRITER, by_backup, part_of, parts_of, problem_of
from dbha.backup.remote_store import RemoteStore
from dbha.backup.store import Status, StoredBackup
from dbha.backup.stored_bytes import definitions_of
from dbha.backup.verdicts import record_verdict
from dbha.errors import BackupFailedError, BusyError, FoundWrongError, UnsafeError, UsageError
from tests.unit import any_backup
from tests.unit.any_backup import CONTENT
from tests.unit.memory_objects import Memory
from tests.unit.mortal_places import NOT_RUNNING
from tests.unit.test_backup_store import DEFINITIONS, FIRST, SECOND

STREAM = b"the stream of a backup, in parts of ten bytes"
PART_BYTES = 10
KEPT = KeepMark(backup=FIRST, kept=True, note="before the move", when=datetime(2026, 11, 23, tzinfo=UTC))


@pytest.fixture
def store(memory: Memory) -> RemoteStore:
    return RemoteStore(memory, part_bytes=PART_BYTES)


def manifest_of(backup_id: str = FIRST, stream: bytes = STREAM) -> Manifest:
    return any_backup.manifest_of(backup_id, stream)


def complete(store: RemoteStore | DirectoryStore, backup_id: str = FIRST, stream: bytes = STREAM) -> Manifest:
    return any_backup.complete(store, backup_id, stream, block_bytes=7)


def found_good(manifest: Manifest) -> Verification:
    return Verification(
        backup=manifest.id, outcome="good", when=manifest.finished, stream_sha256=manifest.stream.sha256,
        tool_version="10.11", dbha_version="0",
    )  # fmt: skip


def only(store: RemoteStore | DirectoryStore) -> StoredBackup:
    (backup,) = store.list()
    return backup


def part(memory: Memory, number: int) -> str:
    (name,) = (name for name in memory.content if f"/part-{number:06d}-" in name)
    return name


def test_a_complete_backup(store: RemoteStore, memory: Memory) -> None:
    manifest = complete(store)
    backup = only(store)
    assert (backup.status, backup.manifest, backup.stored_bytes) == (Status.COMPLETE, manifest, len(STREAM))
    assert definitions_of(store, store.manifest(FIRST)) == DEFINITIONS
    with store.open_stream(FIRST) as stream:
        assert stream.read() == STREAM
        assert (stream.seek(23), stream.read(12)) == (23, STREAM[23:35])
    assert memory.puts[-1] == f"{FIRST}/manifest.json", "the manifest is written last"
    assert len(parts_of(by_backup(memory.list(""))[FIRST])) == 5
    assert f"{FIRST}/{WRITER}" not in memory.content


def test_an_empty_stream(store: RemoteStore) -> None:
    complete(store, stream=b"")
    with store.open_stream(FIRST) as stream:
        assert stream.read() == b""


def test_objects_of_others_are_no_backups(store: RemoteStore, memory: Memory) -> None:
    complete(store)
    for name in (
        "readme",
        "logs/part-000001",
        f"{FIRST}.old/manifest.json",
        f"{SECOND}",
        f"x/{SECOND}/manifest.json",
    ):
        memory.content[name] = b"foreign"
    assert only(store).id == FIRST
    memory.content[f"{FIRST}/notes.txt"] = b"foreign, and in the way of nothing"
    assert only(store).status is Status.COMPLETE


def test_a_draft_is_seen_as_what_it_is(store: RemoteStore, memory: Memory) -> None:
    draft = store.begin(FIRST)
    draft.write(STREAM)
    assert only(store).status is Status.WRITING
    for refused in (lambda: store.delete(FIRST), lambda: store.begin(FIRST, go_on=True)):
        with pytest.raises(BusyError, match="being written"):
            refused()
    memory.content[f"{FIRST}/{WRITER}"] = NOT_RUNNING.model_dump_json(by_alias=True).encode()
    assert only(store).status is Status.INTERRUPTED
    with pytest.raises(UsageError, match="already a backup"):
        store.begin(FIRST)
    store.delete(FIRST)
    assert memory.content == {}


def test_a_failed_draft_keeps_its_reason_and_log_only(store: RemoteStore, memory: Memory) -> None:
    draft = store.begin(FIRST)
    draft.write(STREAM)
    draft.abandon("the donor went away", b"log")
    assert (only(store).status, only(store).reason) == (Status.FAILED, "the donor went away")
    assert memory.content.keys() == {f"{FIRST}/failure.json", f"{FIRST}/backup.log"}


def test_a_store_that_is_gone_is_abandoned_without_a_further_error(
    store: RemoteStore, memory: Memory
) -> None:
    draft = store.begin(FIRST)
    draft.write(STREAM)
    memory.lost = 1 << 30
    draft.abandon("gone", b"")
    memory.lost = 0
    assert only(store).status is Status.INTERRUPTED, "this process lives, and writes it no more"


def test_a_draft_that_was_deleted_meanwhile_is_not_published(store: RemoteStore, memory: Memory) -> None:
    draft = store.begin(FIRST)
    draft.write(STREAM)
    del memory.content[part(memory, 2)]
    with pytest.raises(OSError, match="1 of 6 files are not there"):
        draft.publish({"definitions.json": CONTENT}, manifest_of())
    assert only(store).status is Status.WRITING


def test_deleting_takes_the_manifest_first(store: RemoteStore, memory: Memory) -> None:
    complete(store)
    seen: list[str] = []
    memory.delete = seen.append  # type: ignore[assignment, method-assign]
    store.delete(FIRST)
    assert seen[0] == f"{FIRST}/manifest.json" and len(seen) == len(memory.content)
    with pytest.raises(UsageError, match="no backup"):
        store.delete(SECOND)


def test_what_is_spoilt_is_found(store: RemoteStore, memory: Memory) -> None:
    complete(store)
    name = part(memory, 3)
    whole = memory.content[name]
    memory.content[name] = b"X" + whole[1:]
    with store.open_stream(FIRST) as stream, pytest.raises(FoundWrongError, match=r"part 3 .* was changed"):
        stream.read()
    memory.content[name] = whole[:-1]
    assert (only(store).status, only(store).reason) == (
        Status.BAD, "its 5 part(s) have 44 bytes instead of 45",
    )  # fmt: skip
    del memory.content[name]
    assert only(store).reason == "part 3 is missing"
    with pytest.raises(FoundWrongError, match="part 3 is missing"):
        store.open_stream(FIRST)
    memory.content[name] = whole
    del memory.content[f"{FIRST}/definitions.json"]
    assert (only(store).status, only(store).reason) == (Status.BAD, "definitions.json is missing")
    memory.content[f"{FIRST}/manifest.json"] += b" "
    assert only(store).status is Status.DAMAGED


def test_a_verification_is_kept_and_decides(store: RemoteStore) -> None:
    manifest = complete(store)
    found = found_good(manifest)
    store.record_verification(found)
    assert only(store).verified
    store.record_verification(found.model_copy(update={"outcome": "bad", "problem": "cut"}))
    assert (only(store).status, only(store).reason) == (Status.BAD, "cut")


@pytest.mark.parametrize("manifest", [b"", b" "], ids=["complete", "damaged"])
def test_a_mark_is_kept_and_leaves_with_its_backup(
    store: RemoteStore, memory: Memory, manifest: bytes
) -> None:
    complete(store)
    memory.content[f"{FIRST}/manifest.json"] += manifest
    store.record_mark(KEPT)
    assert only(store).mark == KEPT
    store.record_mark(KEPT.model_copy(update={"kept": False}))
    assert only(store).mark == KEPT.model_copy(update={"kept": False})
    store.delete(FIRST)
    assert memory.content == {}


@pytest.mark.parametrize(
    "lies_there",
    [
        pytest.param(b"", id="empty"),
        pytest.param(sealed(KEPT)[:-9], id="cut"),
        pytest.param(sealed(KEPT.model_copy(update={"backup": SECOND, "kept": False})), id="of another"),
    ],
)
def test_a_mark_that_cannot_be_read_keeps(store: RemoteStore, memory: Memory, lies_there: bytes) -> None:
    complete(store)
    memory.content[f"{FIRST}/keep.json"] = lies_there
    mark = only(store).mark
    assert mark is not None
    assert (mark.kept, mark.until, mark.note) == (True, None, UNREADABLE)


def test_nothing_is_recorded_of_what_is_not_whole(store: RemoteStore, memory: Memory) -> None:
    good = manifest_of()
    found = found_good(good)
    for begin in (lambda: None, lambda: store.begin(FIRST)):
        begin()
        with pytest.raises(UsageError, match="no whole backup"):
            store.record_mark(KEPT)
        with pytest.raises(UsageError, match="no whole backup"):
            store.record_verification(found)
    assert list(memory.content) == [f"{FIRST}/{WRITER}"]


def test_a_good_verdict_does_not_hide_a_bad_one_of_a_higher_level(store: RemoteStore) -> None:
    manifest = complete(store)
    for level, problem in ((Level.PREPARE, "cut"), (Level.HASH, "")):
        verdict = Verdict(
            level=level, outcome="bad" if problem else "good", problem=problem, when=manifest.finished,
            stream_sha256=manifest.stream.sha256, tool_version="10.11", dbha_version="0",
        )  # fmt: skip
        record_verdict(store, FIRST, verdict)
    assert (only(store).status, only(store).reason) == (Status.BAD, "cut")


def test_neither_mark_nor_verdict_travels_with_a_copy(store: RemoteStore, tmp_path: Path) -> None:
    source = DirectoryStore(tmp_path)
    manifest = complete(source)
    source.record_mark(KEPT)
    source.record_verification(found_good(manifest))
    copy_backup(source, store, manifest, lambda done: None)
    assert (only(store).status, only(store).mark, only(store).verification) == (Status.COMPLETE, None, None)
    assert only(source).mark == KEPT


PARTS = [part_of(number, content) for number, content in enumerate([b"aa", b"bb", b"c"], 1)]


@pytest.mark.parametrize(
    ("parts", "stored_bytes", "problem"),
    [
        pytest.param(PARTS, 5, "", id="whole"),
        pytest.param([], 0, "", id="none of nothing"),
        pytest.param(PARTS[:2], 5, "its 2 part(s) have 4 bytes instead of 5", id="the last is missing"),
        pytest.param(PARTS[1:], 5, "part 1 is missing", id="the first is missing"),
        pytest.param([PARTS[0], PARTS[2]], 5, "part 2 is missing", id="one between"),
        pytest.param([PARTS[0], part_of(1, b"x"), *PARTS[1:]], 5, "part 1 is there twice", id="twice"),
    ],
)
def test_parts_are_judged_from_a_listing(parts: list[object], stored_bytes: int, problem: str) -> None:
    assert problem_of(parts, stored_bytes) == problem  # type: ignore[arg-type]


@pytest.fixture(params=["directory", "memory"])
def source(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> RemoteStore | DirectoryStore:
    if request.param == "directory":
        return DirectoryStore(tmp_path_factory.mktemp("source"))
    return RemoteStore(Memory(), part_bytes=4)


def nothing(_: int) -> None:
    pass


def test_a_copy_goes_on_where_it_was(
    source: RemoteStore | DirectoryStore, store: RemoteStore, memory: Memory
) -> None:
    manifest = complete(source)
    memory.puts_left = 3  # the note, and two parts
    with pytest.raises(BackupFailedError, match="no room"):
        copy_backup(source, store, manifest, nothing)
    assert only(store).status is Status.INTERRUPTED
    memory.puts_left, sent = 1 << 30, set(memory.content)
    memory.puts.clear()
    copy_backup(source, store, manifest, nothing)
    assert not sent & set(memory.puts), "no part was sent twice"
    assert (only(store).status, only(store).manifest) == (Status.COMPLETE, manifest)
    with store.open_stream(FIRST) as stream:
        assert stream.read() == STREAM


def test_a_copy_into_a_directory_goes_on_where_it_was(
    source: RemoteStore | DirectoryStore, tmp_path: Path
) -> None:
    manifest = complete(source)
    target = DirectoryStore(tmp_path / "target")
    draft = target.begin(FIRST)
    draft.write(STREAM[:13])
    draft.leave()
    assert only(target).status is Status.INTERRUPTED
    told: list[int] = []
    copy_backup(source, target, manifest, told.append)
    assert told[0] == 13 and told[-1] == len(STREAM)
    assert (only(target).status, only(target).manifest) == (Status.COMPLETE, manifest)


def test_a_spoilt_source_is_not_published(store: RemoteStore, memory: Memory, tmp_path: Path) -> None:
    source = DirectoryStore(tmp_path)
    manifest = complete(source)
    file = source.directory / FIRST / manifest.stream.file
    file.write_bytes(b"X" + STREAM[1:])
    with pytest.raises(FoundWrongError, match="its sha256 is another"):
        copy_backup(source, store, manifest, nothing)
    assert only(store).status is Status.FAILED
    file.write_bytes(STREAM)
    copy_backup(source, store, manifest, nothing)
    assert only(store).status is Status.COMPLETE


def found(status: Status, manifest: Manifest | None) -> StoredBackup:
    return StoredBackup(FIRST, status, "why", 1, manifest)


@pytest.mark.parametrize(
    ("there", "needed"),
    [
        pytest.param(None, True, id="not there"),
        pytest.param(found(Status.COMPLETE, manifest_of()), False, id="there"),
        pytest.param(found(Status.INTERRUPTED, None), True, id="cut off"),
        pytest.param(found(Status.FAILED, None), True, id="failed"),
        pytest.param(found(Status.BAD, manifest_of()), UnsafeError, id="there, but bad"),
        pytest.param(found(Status.DAMAGED, None), UnsafeError, id="damaged"),
        pytest.param(found(Status.COMPLETE, manifest_of(stream=b"y")), UnsafeError, id="another one"),
    ],
)
def test_what_is_copied(there: StoredBackup | None, needed: bool | type[UnsafeError]) -> None:
    if isinstance(needed, bool):
        assert needs_copy(manifest_of(), there, "x") is needed
        return
    with pytest.raises(needed):
        needs_copy(manifest_of(), there, "x")
