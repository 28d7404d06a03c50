"""Backups of random bytes, put into a store without any server of databases."""

import hashlib
import os

from dbha.backup.manifest import DefinitionsFile, Manifest, StreamFile
from dbha.backup.store import Store, StoredBackup
from tests.real.places import PART_BYTES
from tests.unit.test_backup_manifest import MANIFEST
from tests.unit.test_backup_store import DEFINITIONS, FIRST

STREAM = os.urandom(10 * PART_BYTES + 1000)
HALF = STREAM[: len(STREAM) // 2]
CONTENT = DEFINITIONS.model_dump_json(by_alias=True).encode()


def manifest_of(backup_id: str, stream: bytes = STREAM) -> Manifest:
    return MANIFEST.model_copy(
        update={
            "id": backup_id,
            "stream": StreamFile(
                stored_bytes=len(stream), raw_bytes=9, sha256=hashlib.sha256(stream).hexdigest()
            ),
            "definitions": DefinitionsFile(sha256=hashlib.sha256(CONTENT).hexdigest()),
        }
    )


def complete(store: Store, backup_id: str = FIRST, stream: bytes = STREAM) -> Manifest:
    manifest, draft = manifest_of(backup_id, stream), store.begin(backup_id)
    draft.write(stream)
    draft.publish({"definitions.json": CONTENT}, manifest)
    return manifest


def only(store: Store) -> StoredBackup:
    (backup,) = store.list()
    return backup


def content(store: Store, backup_id: str = FIRST) -> bytes:
    with store.open_stream(backup_id) as stream:
        return stream.read()
