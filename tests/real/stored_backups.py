"""Backups of random bytes, put into a store without any server of databases."""

import os

from dbha.backup.manifest import Manifest
from dbha.backup.store import Store, StoredBackup
from tests.real.places import PART_BYTES
from tests.unit import any_backup
from tests.unit.test_backup_store import FIRST

STREAM = os.urandom(10 * PART_BYTES + 1000)
HALF = STREAM[: len(STREAM) // 2]


def manifest_of(backup_id: str, stream: bytes = STREAM) -> Manifest:
    return any_backup.manifest_of(backup_id, stream)


def complete(store: Store, backup_id: str = FIRST, stream: bytes = STREAM) -> Manifest:
    return any_backup.complete(store, backup_id, stream)


def only(store: Store) -> StoredBackup:
    (backup,) = store.list()
    return backup


def content(store: Store, backup_id: str = FIRST) -> bytes:
    with store.open_stream(backup_id) as stream:
        return stream.read()
