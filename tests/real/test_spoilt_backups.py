"""Stored backups that were spoilt are refused, whatever was done to them, and what is not their fault is not."""

import fcntl
import os
from pathlib import Path

import pytest

from dbha.backup.directory_store import DirectoryStore
from dbha.backup.verify import verify
from dbha.errors import BusyError, DbhaError, FoundWrongError, UnsafeError
from tests.real.lone_server import nothing
from tests.real.spoiling import chunks, flip, place_of, raw_stream, replace_stream, small_file_system, zstd

pytest_plugins = ("tests.real.lone_fixtures",)
pytestmark = pytest.mark.real


def refused(store: DirectoryStore, staging: Path) -> str:
    """Verify the only backup, which must be refused, and nothing may be left of it. Return why."""
    backup = store.list()[0]
    with pytest.raises(FoundWrongError) as wrong:
        verify(store, backup.id, staging, on_bytes=nothing, keep=True)
    assert not staging.exists() or {path.name for path in staging.iterdir()} <= {".lock"}
    assert not store.list()[0].verified
    assert wrong.value.hint
    return str(wrong.value)


@pytest.mark.parametrize("position", [0, 5, -1])
def test_a_flipped_byte_in_the_stream(store: DirectoryStore, tmp_path: Path, position: int) -> None:
    flip(place_of(store) / "stream.mbs.zst", position)
    assert "its sha256 is another" in refused(store, tmp_path / "staging")
    verification = store.list()[0].verification
    assert verification is not None
    assert verification.outcome == "bad"


@pytest.mark.parametrize("kept_bytes", [0, 13, -1])
def test_a_cut_tail(store: DirectoryStore, tmp_path: Path, kept_bytes: int) -> None:
    stream = place_of(store) / "stream.mbs.zst"
    size_bytes = stream.stat().st_size
    os.truncate(stream, kept_bytes if kept_bytes >= 0 else size_bytes + kept_bytes)
    assert f"bytes instead of {size_bytes}" in refused(store, tmp_path / "staging")


def test_a_longer_stream(store: DirectoryStore, tmp_path: Path) -> None:
    with (place_of(store) / "stream.mbs.zst").open("ab") as stream:
        stream.write(b"\0")
    assert "bytes instead of" in refused(store, tmp_path / "staging")


def test_an_honest_stream_put_in_again_is_good(store: DirectoryStore, tmp_path: Path) -> None:
    """The tests below prove something only because this one passes."""
    raw = raw_stream(store)
    middle = chunks(raw)[20].end
    replace_stream(store, zstd(raw[:middle]) + zstd(raw[middle:]))
    verify(store, store.list()[0].id, tmp_path / "staging", on_bytes=nothing, keep=False)


def test_a_stream_cut_inside_of_a_frame(store: DirectoryStore, tmp_path: Path) -> None:
    stored = zstd(raw_stream(store))
    replace_stream(store, stored[:-100])
    assert "zstd ended with exit status 1" in refused(store, tmp_path / "staging")


@pytest.mark.parametrize(
    "member", ["nova/extra.ibd", "ib_logfile0", "backup-my.cnf", "xtrabackup_checkpoints"]
)
def test_a_stream_without_a_member(store: DirectoryStore, tmp_path: Path, member: str) -> None:
    raw = raw_stream(store)
    assert any(chunk.path == member for chunk in chunks(raw))
    kept = b"".join(raw[chunk.begin : chunk.end] for chunk in chunks(raw) if chunk.path != member)
    replace_stream(store, zstd(kept))
    refused(store, tmp_path / "staging")


def test_a_stream_of_another_position(store: DirectoryStore, tmp_path: Path) -> None:
    manifest = store.manifest(store.list()[0].id)
    replace_stream(store, zstd(raw_stream(store)), seqno=manifest.seqno + 1)
    assert f"it holds {manifest.cluster_state_uuid}:{manifest.seqno} instead of" in refused(
        store, tmp_path / "staging"
    )


def test_what_only_keeps_it_from_being_verified_here_is_not_held_against_it(
    store: DirectoryStore, tmp_path: Path
) -> None:
    backup_id = store.list()[0].id
    with small_file_system(tmp_path / "small", 16) as staging:
        expect(UnsafeError, "no room left", store, staging)
    (tmp_path / "staging").mkdir()
    with (tmp_path / "staging" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        expect(BusyError, "another process is verifying", store, tmp_path / "staging")
    replace_stream(store, (place_of(store) / "stream.mbs.zst").read_bytes(), tool_version="11.8.6-MariaDB")
    expect(UnsafeError, "install mariadb-backup 11.8", store, tmp_path / "staging")
    assert store.list()[0].verification is None
    assert backup_id == store.list()[0].id


def expect(kind: type[DbhaError], words: str, store: DirectoryStore, staging: Path) -> None:
    with pytest.raises(kind) as refused:
        verify(store, store.list()[0].id, staging, on_bytes=nothing, keep=True)
    assert words in f"{refused.value} {refused.value.hint}"
