"""Read a stored backup again and see whether every byte is the one that was written. Needs no room and no tools."""

import errno
import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import BinaryIO

from dbha.backup.bad_backup import BadBackupError
from dbha.backup.definitions import Definitions
from dbha.backup.encryption import BLOCK_BYTES, NO_IDENTITIES, Identities, decrypted
from dbha.backup.levels import Level
from dbha.backup.manifest import Manifest
from dbha.backup.store import Store
from dbha.errors import UnreachableError

OnBytes = Callable[[int, int], None]  # stored bytes read, stored bytes in all


class StoredBytes:
    """The stream of a backup on its way out of the store: hashed and counted as it flows."""

    def __init__(self, manifest: Manifest, on_bytes: OnBytes) -> None:
        self._expected = manifest.stream
        self._on_bytes = on_bytes
        self._digest = hashlib.sha256()
        self._read_bytes = 0

    def take(self, block: bytes) -> None:
        """Take note of the next block."""
        self._digest.update(block)
        self._read_bytes += len(block)
        self._on_bytes(self._read_bytes, self._expected.stored_bytes)

    def require_whole(self) -> None:
        """Raise BadBackupError unless all of the stream went by, and nothing else."""
        if self._read_bytes != self._expected.stored_bytes:
            raise BadBackupError(
                f"the stream has {self._read_bytes} bytes instead of {self._expected.stored_bytes}",
                Level.HASH,
            )
        if self._digest.hexdigest() != self._expected.sha256:
            raise BadBackupError(
                "the stream was changed since it was taken: its sha256 is another", Level.HASH
            )


def check_stored_bytes(store: Store, manifest: Manifest, on_bytes: OnBytes) -> None:
    """Read stream, definitions and accounts. Raises BadBackupError, or FoundWrongError, when one byte is another.

    What is encrypted stays so: this needs no key.
    """
    store.definitions_file(manifest.id)
    store.accounts_file(manifest.id)
    seen = StoredBytes(manifest, on_bytes)
    with opened(store, manifest) as stream:
        while block := stream.read(BLOCK_BYTES):
            seen.take(block)
    seen.require_whole()


def definitions_of(store: Store, manifest: Manifest, identities: Identities = NO_IDENTITIES) -> Definitions:
    """Return the structure of the databases in a backup.

    Raises FoundWrongError when it is not what the manifest says, KeyMissingError when it cannot be opened here.
    """
    content = decrypted(store.definitions_file(manifest.id), manifest, identities)
    return Definitions.model_validate_json(content)


@contextmanager
def opened(store: Store, manifest: Manifest) -> Iterator[BinaryIO]:
    """Yield the stream. A medium that cannot be read is the backup's fault, a way to it that is cut is not."""
    with store.open_stream(manifest.id) as stream:
        try:
            yield stream
        except OSError as error:
            if error.errno == errno.EIO:
                raise BadBackupError(f"the stream cannot be read: {error.strerror}", Level.HASH) from error
            raise UnreachableError(
                f"the stream of backup {manifest.id} cannot be read now: {error}",
                hint="dbha backup verify     again, once the store can be read",
            ) from error
