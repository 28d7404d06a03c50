"""Backups as a store sees them: any bytes, with the manifest that belongs to them."""

import hashlib

from dbha.backup.manifest import DefinitionsFile, Manifest, StreamFile
from dbha.backup.store import Store
from tests.unit.test_backup_manifest import MANIFEST
from tests.unit.test_backup_store import DEFINITIONS

CONTENT = DEFINITIONS.model_dump_json(by_alias=True).encode()


def manifest_of(backup_id: str, stream: bytes) -> Manifest:
    """Return the manifest of a backup with this stream and `CONTENT` as its definitions."""
    return MANIFEST.model_copy(
        update={
            "id": backup_id,
            "stream": StreamFile(
                stored_bytes=len(stream), raw_bytes=99, sha256=hashlib.sha256(stream).hexdigest()
            ),
            "definitions": DefinitionsFile(sha256=hashlib.sha256(CONTENT).hexdigest()),
        }
    )


def complete(store: Store, backup_id: str, stream: bytes, *, block_bytes: int = 1 << 20) -> Manifest:
    """Write such a backup, block by block, and publish it."""
    manifest, draft = manifest_of(backup_id, stream), store.begin(backup_id)
    for start in range(0, len(stream), block_bytes):
        draft.write(stream[start : start + block_bytes])
    draft.publish({manifest.definitions.file: CONTENT}, manifest)
    return manifest
