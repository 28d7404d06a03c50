"""Prove a backup good: hash it, unpack it, prepare it, and look at every table of its definitions.

Whatever is wrong with the backup itself is recorded in the store and raised as FoundWrongError. What only keeps
it from being verified here (no room, a missing tool, a tool of another version) is raised and not recorded.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from dbha import __version__
from dbha.backup.children import start
from dbha.backup.definitions import Definitions
from dbha.backup.manifest import Manifest, Verification
from dbha.backup.prepared import Prepared
from dbha.backup.store import Store
from dbha.backup.tool_files import GALERA_FILES, INFO_FILES, galera_position, series_of
from dbha.backup.unpack import unpack
from dbha.errors import BusyError, FoundWrongError, UnreachableError, UnsafeError

_LEAST_MEMORY_BYTES = 128 << 20
_MOST_MEMORY_BYTES = 4 << 30
_PAUSE_S = 0.2
_NO_SPACE = "No space left on device"


class BadBackupError(Exception):
    """What is wrong with a backup, in words. Never leaves this module."""


def verify(
    store: Store,
    backup_id: str,
    staging: Path,
    *,
    on_bytes: Callable[[int, int], None],
    keep: bool,
    patience_s: float = 0,
) -> Verification:
    """Return what was found, which is good; it is also recorded in the store.

    With `keep` the prepared tree stays at `staging/<id>` for a restore, and one that an earlier call left whole
    is used again. `on_bytes` gets the stored bytes read so far and all of them. Raises FoundWrongError for a
    bad backup, UnsafeError for too little room or a tool of another version, UnreachableError for a missing
    tool, BusyError when another process uses `staging` for longer than `patience_s`.
    """
    manifest = store.manifest(backup_id)
    staging.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _only_one(staging, patience_s):
        tool_version = _tool_version(manifest)
        tree = Prepared(staging, manifest)
        if keep and (when := tree.proven(store.definitions(backup_id))):
            return _verification(manifest, tool_version, when).model_copy(update={"prepared": tree.path})
        try:
            prepared = _prove(store, manifest, tree, on_bytes, keep)
        except (BadBackupError, FoundWrongError) as error:
            store.record_verification(
                _verification(manifest, tool_version, datetime.now(UTC), problem=str(error))
            )
            raise FoundWrongError(
                f"backup {backup_id} is not good: {error}",
                hint="dbha backup create     and do not use this one; `dbha backup list` shows the others",
            ) from error
        found = _verification(manifest, tool_version, datetime.now(UTC))
        store.record_verification(found)
        return found.model_copy(update={"prepared": prepared})


def prepare_argv(directory: Path, memory_bytes: int) -> tuple[str, ...]:
    """Return the command that makes an unpacked backup consistent and its tables ready for import."""
    return (
        "mariadb-backup",
        "--no-defaults",  # the options of the donor are in backup-my.cnf; those of this host do not matter
        "--prepare",
        "--export",
        f"--use-memory={memory_bytes}",
        f"--target-dir={directory.absolute()}",
    )


def prepare_memory_bytes(available_bytes: int) -> int:
    """Return how much memory prepare may use: half of what is there, within reason. Its own default is tiny."""
    return max(_LEAST_MEMORY_BYTES, min(available_bytes // 2, _MOST_MEMORY_BYTES))


def _prove(
    store: Store, manifest: Manifest, tree: Prepared, on_bytes: Callable[[int, int], None], keep: bool
) -> Path | None:
    definitions = store.definitions(manifest.id)
    with tree.unfinished() as partial:
        _unpack(store, manifest, partial, on_bytes)
        _prepare(partial)
        _check_position(partial, manifest)
        _check_tables(partial, definitions)
        return tree.publish(partial, datetime.now(UTC)) if keep else None


def _unpack(store: Store, manifest: Manifest, partial: Path, on_bytes: Callable[[int, int], None]) -> None:
    expected, digest = manifest.stream, hashlib.sha256()
    read_bytes = 0

    def count(block: bytes) -> None:
        nonlocal read_bytes
        digest.update(block)
        read_bytes += len(block)
        on_bytes(read_bytes, expected.stored_bytes)

    with store.open_stream(manifest.id) as stream:
        problem = unpack(stream, partial, count)
    if read_bytes != expected.stored_bytes:
        raise BadBackupError(f"the stream has {read_bytes} bytes instead of {expected.stored_bytes}")
    if digest.hexdigest() != expected.sha256:
        raise BadBackupError("the stream was changed since it was taken: its sha256 is another")
    _require(problem, partial)
    if not any((partial / name).is_file() for name in INFO_FILES):
        raise BadBackupError(f"the stream ends too early: {INFO_FILES[0]}, its last member, is missing")


def _prepare(partial: Path) -> None:
    argv = prepare_argv(partial, prepare_memory_bytes(_available_memory_bytes()))
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
        raise BadBackupError("mariadb-backup --prepare did not say `completed OK!`")


def _require(problem: str, partial: Path) -> None:
    """Raise for a problem: UnsafeError when only room is missing here, else the backup is bad."""
    if not problem:
        return
    if _NO_SPACE in problem or shutil.disk_usage(partial).free == 0:
        raise UnsafeError(
            f"there is no room left in {partial.parent} to unpack the backup",
            hint="dbha backup verify     again, when there is more room",
        )
    raise BadBackupError(problem)


def _check_position(partial: Path, manifest: Manifest) -> None:
    """Compare what InnoDB itself says since the prepare with what the donor said when it was copied."""
    files = [partial / name for name in GALERA_FILES if (partial / name).is_file()]
    try:
        position = galera_position(files[0].read_text() if files else "")
    except ValueError as error:
        raise BadBackupError(str(error)) from error
    if position != (manifest.cluster_state_uuid, manifest.seqno):
        raise BadBackupError(
            f"it holds {position[0]}:{position[1]} instead of {manifest.cluster_state_uuid}:{manifest.seqno}"
        )


def _check_tables(partial: Path, definitions: Definitions) -> None:
    missing = Prepared.missing_files(partial, definitions)
    if missing:
        raise BadBackupError(f"{len(missing)} file(s) of tables are missing: {', '.join(missing[:5])}")


def _verification(
    manifest: Manifest, tool_version: str, when: datetime, *, problem: str = ""
) -> Verification:
    return Verification(
        backup=manifest.id,
        outcome="bad" if problem else "good",
        problem=problem,
        when=when,
        stream_sha256=manifest.stream.sha256,
        tool_version=tool_version,
        dbha_version=__version__,
    )


def _tool_version(manifest: Manifest) -> str:
    """Return the version of mariadb-backup here; it must be of the series that took the backup."""
    missing = [tool for tool in ("mariadb-backup", "mbstream", "zstd") if shutil.which(tool) is None]
    if missing:
        raise UnreachableError(
            f"{', '.join(missing)} is not installed on this machine",
            hint="apt-get install mariadb-backup zstd",
        )
    done = subprocess.run(("mariadb-backup", "--version"), capture_output=True, text=True, check=False)
    version = (done.stdout + done.stderr).partition("server ")[2].split(" ")[0]
    if series_of(version) != series_of(manifest.tool_version):
        raise UnsafeError(
            f"backup {manifest.id} was taken by mariadb-backup {manifest.tool_version} and cannot be prepared"
            f" by {version or 'an unknown version'}",
            hint=f"install mariadb-backup {series_of(manifest.tool_version)} on this machine, then verify again",
        )
    return version


def _available_memory_bytes() -> int:
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def _only_one(staging: Path, patience_s: float) -> Iterator[None]:
    deadline_s = time.monotonic() + patience_s
    with (staging / ".lock").open("w") as lock:
        while not _locked(lock):
            if time.monotonic() >= deadline_s:
                raise BusyError(f"another process is verifying a backup in {staging}")
            time.sleep(_PAUSE_S)
        yield


def _locked(lock: TextIO) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
