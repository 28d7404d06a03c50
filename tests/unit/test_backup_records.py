"""What the small files of a backup make of it, whichever store they are in, and whatever became of them."""

from datetime import UTC, datetime

import pytest

from dbha.backup.immutable import LOCK, new_lock
from dbha.backup.keep import KeepMark
from dbha.backup.manifest import Verification, sealed
from dbha.backup.records import FAILURE, MANIFEST, MARK, VERIFICATION, Records
from dbha.backup.store import Status, StoredBackup
from dbha.errors import FoundWrongError
from tests.unit.test_backup_manifest import MANIFEST as RECORD

NOW = datetime.now(UTC)
OTHER = "20261123T043001Z-0001"
VERDICT = Verification(
    backup=RECORD.id, outcome="good", when=NOW, stream_sha256=RECORD.stream.sha256, tool_version="10.11.6",
    dbha_version="0.1.0",
)  # fmt: skip


def records(**files: bytes) -> Records:
    named = {name.replace("_", "."): content for name, content in files.items()}

    def read(file: str) -> bytes:
        if file not in named:
            raise FileNotFoundError(2, "No such file", file)
        return named[file]

    return Records(RECORD.id, read)


def look(problem: str = "", **files: bytes) -> StoredBackup:
    return records(**{"manifest_json": sealed(RECORD), **files}).look(7, lambda manifest: problem)


def test_the_names_that_these_tests_use() -> None:
    assert [f"{name}.json" for name in ("manifest", "verification", "keep", "lock", "failure")] == [
        MANIFEST,
        VERIFICATION,
        MARK,
        LOCK,
        FAILURE,
    ]


@pytest.mark.parametrize(
    ("problem", "files", "status", "reason"),
    [
        pytest.param("", {}, Status.COMPLETE, "", id="never verified"),
        pytest.param("", {"verification_json": sealed(VERDICT)}, Status.COMPLETE, "", id="good"),
        pytest.param("its stream is gone", {}, Status.BAD, "its stream is gone", id="anybody sees it"),
        pytest.param(
            "its stream is gone", {"verification_json": sealed(VERDICT)}, Status.BAD, "its stream is gone",
            id="what anybody sees counts although it was good once",
        ),
        pytest.param(
            "", {"verification_json": sealed(VERDICT.model_copy(update={"outcome": "bad", "problem": "p"}))},
            Status.BAD, "p", id="found bad",
        ),
        pytest.param(
            "", {"verification_json": sealed(VERDICT)[:-9]}, Status.BAD,
            "its verdict cannot be read: verify it again", id="it may have been found bad",
        ),
        pytest.param(
            "", {"manifest_json": sealed(RECORD)[:-9]}, Status.DAMAGED, "the manifest of backup", id="damaged",
        ),
        pytest.param(
            "", {"manifest_json": sealed(RECORD.model_copy(update={"id": OTHER}))}, Status.DAMAGED,
            f"belongs to {OTHER}", id="that of another",
        ),
    ],
)  # fmt: skip
def test_status(problem: str, files: dict[str, bytes], status: Status, reason: str) -> None:
    found = look(problem, **files)
    assert (found.status, reason in found.reason) == (status, True)


def test_a_mark_or_lock_that_nobody_can_read_holds() -> None:
    mark = KeepMark(backup=OTHER, kept=False, when=NOW)
    for spoilt in (b"{", sealed(mark)):  # or is another backup's
        found = records(keep_json=spoilt).mark()
        assert found is not None
        assert found.holds(NOW)
    for spoilt in (b"{", sealed(new_lock(OTHER, 0, NOW))):
        lock = records(lock_json=spoilt).lock()
        assert lock is not None
        assert lock.holds(NOW)
    assert (records().mark(), records().lock()) == (None, None)


def test_what_is_beside_the_stream_is_proven() -> None:
    with pytest.raises(FoundWrongError, match=r"definitions.json of backup .* cannot be read: No such file"):
        records(manifest_json=sealed(RECORD)).definitions_file()
    with pytest.raises(FoundWrongError, match=r"the definitions of backup .* are damaged"):
        records(manifest_json=sealed(RECORD), definitions_json=b"{}").definitions_file()


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b'{"schema": 1}', None])
def test_a_reason_that_cannot_be_read_is_one_more(content: bytes | None) -> None:
    files = {} if content is None else {"failure_json": content}
    assert records(**files).reason() == "its reason cannot be read"
