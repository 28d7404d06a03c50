"""Copy a backup from one store to another, unchanged: every byte is proven on its way, and a cut copy goes on."""

import hashlib
from collections.abc import Callable
from typing import BinaryIO

from dbha.backup.manifest import Manifest
from dbha.backup.store import Draft, Status, Store, StoredBackup
from dbha.errors import BackupFailedError, DbhaError, FoundWrongError, UnsafeError

_BLOCK_BYTES = 1 << 20


def needs_copy(manifest: Manifest, found: StoredBackup | None, target: str) -> bool:
    """Return whether a backup is to be copied to where `found` is all there is of it.

    Raises UnsafeError when another backup has its place, or when what is there is not good.
    """
    if found is None or found.status in (Status.INTERRUPTED, Status.FAILED, Status.WRITING):
        return True  # who else is writing it, the store itself refuses
    look = f"dbha backup show {manifest.id} --store ...     and, if it may go: dbha backup delete"
    if found.manifest is not None and found.manifest != manifest:
        raise UnsafeError(f"{target} has another backup {manifest.id}: its manifest differs", hint=look)
    if found.status is not Status.COMPLETE:
        raise UnsafeError(f"backup {manifest.id} in {target} is {found.status}: {found.reason}", hint=look)
    return False


def copy_backup(source: Store, target: Store, manifest: Manifest, on_bytes: Callable[[int], None]) -> None:
    """Copy a complete backup that is not in `target`; what an interrupted copy left there is used.

    `on_bytes` gets the bytes of the stream that are done. Raises FoundWrongError when the source is not what its
    manifest says: nothing is published then. Raises BackupFailedError when a store broke off for good: what was
    copied stays, for the next attempt.
    """
    beside = {manifest.definitions.file: source.definitions_file(manifest.id)}
    if manifest.accounts and (accounts := source.accounts_file(manifest.id)) is not None:
        beside[manifest.accounts.file] = accounts
    with source.open_stream(manifest.id) as stream:
        draft = target.begin(manifest.id, go_on=True)
        try:
            _copy_stream(stream, draft, manifest, on_bytes)
            draft.publish(beside, manifest)
        except FoundWrongError as error:
            draft.abandon(str(error), b"")
            raise
        except BaseException as error:  # a signal, too, leaves what is there to be gone on with
            draft.leave()
            if isinstance(error, DbhaError | OSError):
                raise _broken(manifest, target, error) from error
            raise


def _copy_stream(stream: BinaryIO, draft: Draft, manifest: Manifest, on_bytes: Callable[[int], None]) -> None:
    digest, done_bytes = hashlib.sha256(), 0
    for block in draft.kept():
        digest.update(block)
        done_bytes += len(block)
        on_bytes(done_bytes)
    stream.seek(done_bytes)
    while block := stream.read(_BLOCK_BYTES):
        digest.update(block)
        draft.write(block)
        done_bytes += len(block)
        on_bytes(done_bytes)
    expected = manifest.stream
    if (done_bytes, digest.hexdigest()) != (expected.stored_bytes, expected.sha256):
        raise FoundWrongError(
            f"backup {manifest.id} was changed since it was taken, or what an earlier copy left of it was:"
            " its sha256 is another",
            hint=f"dbha backup verify {manifest.id}     and when it is good, copy again: that begins anew",
        )


def _broken(manifest: Manifest, target: Store, error: BaseException) -> BackupFailedError:
    words = error.strerror or str(error) if isinstance(error, OSError) else str(error)
    return BackupFailedError(
        f"backup {manifest.id} was not copied to {target.where}: {words}",
        hint="the same command again goes on from there",
        unchanged="what was copied stays there as an interrupted backup; all others are as they were",
    )
