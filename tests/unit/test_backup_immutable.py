"""Locks of backups: when they hold, what they are written with, and what damaged ones count as."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dbha.backup.directory_store import DirectoryStore
from dbha.backup.immutable import LOCK, Lock, new_lock, refuse_locked, thaw, unreadable_lock
from dbha.backup.manifest import sealed
from dbha.backup.pruning import Pruning
from dbha.backup.remote_store import RemoteStore
from dbha.backup.s3_objects import lock_arguments
from dbha.backup.store import Store
from dbha.config.model import ObjectLock, RetentionPolicy
from dbha.errors import UnsafeError
from tests.unit.memory_objects import Memory
from tests.unit.test_backup_store import FIRST, SECOND, complete

NOW = datetime(2026, 11, 24, 4, 30, tzinfo=UTC)
LAST = RetentionPolicy(last=1)


@pytest.mark.parametrize(
    ("lock", "now", "holds"),
    [
        (new_lock(FIRST, 7, NOW), NOW, True),
        (new_lock(FIRST, 7, NOW), NOW + timedelta(days=7, seconds=-1), True),
        (new_lock(FIRST, 7, NOW), NOW + timedelta(days=7), False),
        (unreadable_lock(FIRST), NOW + timedelta(days=9999), True),
    ],
)
def test_when_a_lock_holds(lock: Lock, now: datetime, *, holds: bool) -> None:
    assert lock.holds(now) is holds


def test_the_words_of_a_refusal() -> None:
    with pytest.raises(UnsafeError, match=r"is locked until 2026-12-01 04:30 UTC"):
        refuse_locked(FIRST, new_lock(FIRST, 7, NOW), NOW)
    refuse_locked(FIRST, None, NOW)


def test_what_the_server_is_told() -> None:
    assert lock_arguments(ObjectLock(mode="compliance", days=30), NOW) == {
        "ObjectLockMode": "COMPLIANCE",
        "ObjectLockRetainUntilDate": NOW + timedelta(days=30),
    }


def stores(directory: Path) -> list[Store]:
    return [
        DirectoryStore(directory / "store", immutable_days=7),
        RemoteStore(Memory(), part_bytes=4, locked_days=7),
    ]


def spoil(store: Store) -> None:
    if isinstance(store, DirectoryStore):
        thaw(iter([store.directory / FIRST / LOCK]))
        (store.directory / FIRST / LOCK).write_bytes(b"{}")
    else:
        assert isinstance(store, RemoteStore)
        store._objects.put(f"{FIRST}/{LOCK}", b"{}")


@pytest.mark.parametrize("number", [0, 1])
def test_a_locked_backup_is_neither_pruned_nor_deleted(tmp_path: Path, number: int) -> None:
    store = stores(tmp_path)[number]
    try:
        for backup_id in (FIRST, SECOND):
            complete(store, backup_id)
        first = store.list()[0]
        assert first.lock is not None
        assert first.lock.until - datetime.now(UTC) < timedelta(days=7)
        with pytest.raises(UnsafeError, match="is locked until"):
            store.delete(FIRST)
        decision = Pruning(store, LAST, lambda: []).decisions[0]
        assert decision.keep
        assert decision.reason == str(first.lock)
        spoil(store)
        assert store.list()[0].lock == unreadable_lock(FIRST)
        with pytest.raises(UnsafeError, match="its lock cannot be read"):
            store.delete(FIRST)
    finally:
        thaw(path for path in tmp_path.rglob("*") if path.is_file())


def test_a_lock_that_ran_out_lets_go(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path, immutable_days=1)
    complete(store, FIRST)
    old = new_lock(FIRST, 1, datetime.now(UTC) - timedelta(days=2))
    thaw((tmp_path / FIRST).iterdir())
    (tmp_path / FIRST / LOCK).write_bytes(sealed(old))
    store.delete(FIRST)
    assert store.list() == ()
