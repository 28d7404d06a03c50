"""Make the prepared tree of a backup: unpack the full one, and apply to it every incremental one up to this, once.

`mariadb-backup` accepts the same increment twice and says "completed OK!". So a tree is never gone on with that was
cut off, and each increment has to begin at the LSN where the tree ends.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from dbha.backup.bad_backup import BadBackupError, blamed_on
from dbha.backup.chains import chain_of
from dbha.backup.children import start
from dbha.backup.encryption import Identities, opening
from dbha.backup.levels import Level
from dbha.backup.manifest import Manifest
from dbha.backup.store import Status, Store
from dbha.backup.stored_bytes import OnBytes, StoredBytes, opened
from dbha.backup.tool_files import CHECKPOINT_FILES, GALERA_FILES, INFO_FILES, galera_position, lsn_range
from dbha.backup.unpack import unpack
from dbha.errors import FoundWrongError, UnsafeError

_LEAST_MEMORY_BYTES = 128 << 20
_MOST_MEMORY_BYTES = 4 << 30
_NO_SPACE = "No space left on device"


def chain_in(store: Store, backup_id: str) -> tuple[Manifest, ...]:
    """Return the backups that a restore of this one needs, the full one first.

    Raises FoundWrongError when one of them is missing, another one, or not good; that is no verdict on this one.
    """
    manifest = store.manifest(backup_id)
    if manifest.base is not None:
        found = next((each for each in store.list() if each.id == backup_id), None)
        if found is not None and found.status is Status.ORPHANED:
            raise FoundWrongError(
                f"backup {backup_id} cannot be restored: {found.reason}",
                hint=f"dbha backup verify {manifest.base.id}     and when it is good, so may this one be",
            )
    return chain_of(manifest, store.manifest)


def unpacked_bytes(chain: Sequence[Manifest]) -> int:
    """Return how much room in bytes the backups of a chain take, unpacked beside each other."""
    return sum(manifest.stream.raw_bytes for manifest in chain)


def prepare_argv(
    directory: Path, memory_bytes: int, *, increment: Path | None = None, export: bool = True
) -> tuple[str, ...]:
    """Return the command that makes an unpacked backup consistent or, with `increment`, applies that to it.

    With `export` its tables are ready for import, and no further increment can be applied.
    """
    return (
        "mariadb-backup",
        "--no-defaults",  # the options of the donor are in backup-my.cnf; those of this host do not matter
        "--prepare",
        *(("--export",) if export else ()),
        f"--use-memory={memory_bytes}",
        f"--target-dir={directory.absolute()}",
        *((f"--incremental-dir={increment.absolute()}",) if increment else ()),
    )


def prepare_memory_bytes(available_bytes: int) -> int:
    """Return how much memory prepare may use: half of what is there, within reason. Its own default is tiny."""
    return max(_LEAST_MEMORY_BYTES, min(available_bytes // 2, _MOST_MEMORY_BYTES))


def available_memory_bytes() -> int:
    """Return how much memory this machine has to spare, in bytes."""
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def make_tree(
    store: Store,
    chain: Sequence[Manifest],
    identities: Identities,
    tree: Path,
    apart: Path,
    on_bytes: OnBytes,
) -> None:
    """Make the tree of the last backup of the chain in `tree`, an empty directory; `apart` is another one.

    Raises BadBackupError that names the backup whose fault it is, UnsafeError when only room is missing here.
    """
    for manifest, on_these in zip(chain, in_all(chain, on_bytes), strict=True):
        is_first, is_last = manifest is chain[0], manifest is chain[-1]
        with blamed_on(manifest):
            _unpack(store, manifest, identities, tree if is_first else apart, on_these)
            if not is_first:
                _require_follows(tree, manifest)
            _prepare(tree, increment=None if is_first else apart, export=is_last)
            _check_position(tree, manifest)
        if not is_first:
            _clear(apart)


def in_all(chain: Sequence[Manifest], on_bytes: OnBytes) -> Iterator[OnBytes]:
    """Yield for each backup what counts its bytes, so that `on_bytes` is told of all of them together."""
    total_bytes, before_bytes = sum(manifest.stream.stored_bytes for manifest in chain), 0
    for manifest in chain:

        def count(done_bytes: int, _: int, before_bytes: int = before_bytes) -> None:
            on_bytes(before_bytes + done_bytes, total_bytes)

        yield count
        before_bytes += manifest.stream.stored_bytes


def _unpack(
    store: Store, manifest: Manifest, identities: Identities, partial: Path, on_bytes: OnBytes
) -> None:
    seen = StoredBytes(manifest, on_bytes)
    with opened(store, manifest) as stream, opening(stream, manifest, identities, seen.take) as plain:
        problem = unpack(plain, partial, manifest.stream.compression)
    seen.require_whole()
    plain.require_opened()
    _require(problem, partial)
    if not any((partial / name).is_file() for name in INFO_FILES):
        raise _unfit(f"the stream ends too early: {INFO_FILES[0]}, its last member, is missing")


def _prepare(partial: Path, *, increment: Path | None, export: bool) -> None:
    memory_bytes = prepare_memory_bytes(available_memory_bytes())
    argv = prepare_argv(partial, memory_bytes, increment=increment, export=export)
    with start(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=partial) as done:
        try:
            _, words = done.communicate()
        except BaseException:  # a signal, too, must not leave the tool running
            done.kill()
            raise
    lines = words.decode("utf-8", "replace").strip().splitlines()
    if done.returncode < 0:
        raise UnsafeError(f"mariadb-backup --prepare was ended by signal {-done.returncode}")
    if done.returncode != 0:
        last = next((line for line in reversed(lines) if "rror" in line), lines[-1] if lines else "")
        _require(f"mariadb-backup --prepare ended with exit status {done.returncode}: {last}", partial)
    if not lines or not lines[-1].endswith("completed OK!"):
        raise _unfit("mariadb-backup --prepare did not say `completed OK!`")


def _require(problem: str, partial: Path) -> None:
    """Raise for a problem: UnsafeError when only room is missing here, else the backup is bad."""
    if not problem:
        return
    if _NO_SPACE in problem or shutil.disk_usage(partial).free == 0:
        raise UnsafeError(
            f"there is no room left in {partial.parent} to unpack the backup",
            hint="dbha backup verify     again, when there is more room",
        )
    raise _unfit(problem)


def _check_position(partial: Path, manifest: Manifest) -> None:
    """Compare what InnoDB itself says since the prepare with what the donor said when it was copied."""
    files = [partial / name for name in GALERA_FILES if (partial / name).is_file()]
    try:
        position = galera_position(files[0].read_text() if files else "")
    except ValueError as error:
        raise _unfit(str(error)) from error
    if position != (manifest.cluster_state_uuid, manifest.seqno):
        raise _unfit(
            f"it holds {position[0]}:{position[1]} instead of {manifest.cluster_state_uuid}:{manifest.seqno}"
        )


def _require_follows(tree: Path, manifest: Manifest) -> None:
    """Raise BadBackupError unless the tree ends where this increment begins, which it does not once it is applied."""
    files = [tree / name for name in CHECKPOINT_FILES if (tree / name).is_file()]
    try:
        _, ends = lsn_range(files[0].read_text() if files else "")
    except ValueError as error:
        raise _unfit(str(error)) from error
    if manifest.lsn is None or manifest.lsn.from_lsn != ends:
        raise _unfit(f"it does not go on at LSN {ends}, where what it is based on ends")


def _clear(directory: Path) -> None:
    for entry in directory.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _unfit(problem: str) -> BadBackupError:
    return BadBackupError(problem, Level.PREPARE)
