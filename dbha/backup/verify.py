"""Prove a backup good, as far as a level says: hash it, prepare it, check its pages, start a server on it.

Whatever is wrong with the backup itself is recorded in the store and raised as FoundWrongError. What only keeps
it from being verified here (no room, a missing tool, a tool of another version) is raised and not recorded.
"""

import fcntl
import functools
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from dbha import __version__
from dbha.backup.bad_backup import BadBackupError
from dbha.backup.boot import boot
from dbha.backup.children import start
from dbha.backup.definitions import Definitions
from dbha.backup.encryption import NO_IDENTITIES, Identities, opening
from dbha.backup.levels import Level
from dbha.backup.manifest import Manifest, Verdict, Verification
from dbha.backup.pages import check_pages
from dbha.backup.prepared import Prepared
from dbha.backup.private_server import end_outlived
from dbha.backup.store import Store
from dbha.backup.stored_bytes import OnBytes, StoredBytes, check_stored_bytes, definitions_of, opened
from dbha.backup.tool_files import GALERA_FILES, INFO_FILES, galera_position
from dbha.backup.tools_here import require_tools
from dbha.backup.unpack import unpack
from dbha.backup.verdicts import record_verdict
from dbha.errors import BusyError, FoundWrongError, UnsafeError

_LEAST_MEMORY_BYTES = 128 << 20
_MOST_MEMORY_BYTES = 4 << 30
_PAUSE_S = 0.2
_NO_SPACE = "No space left on device"

OnCount = Callable[[str, int, int], None]  # what is counted, how many are done, how many there are


def _nobody_counts(what: str, done: int, total: int) -> None:
    pass


def verify(
    store: Store,
    backup_id: str,
    staging: Path,
    *,
    on_bytes: OnBytes,
    keep: bool,
    patience_s: float = 0,
    level: Level = Level.PREPARE,
    on_count: OnCount = _nobody_counts,
    identities: Identities = NO_IDENTITIES,
) -> Verification:
    """Return what was found, which is good; it is also recorded in the store.

    With `keep` the prepared tree stays at `staging/<id>` for a restore, and one that an earlier call left whole
    is used again. `on_bytes` gets the stored bytes read so far and all of them, `on_count` the files or tables.
    Raises FoundWrongError for a bad backup, also for one that passes now what it did not fail at; UnsafeError
    for too little room or a tool of another version, UnreachableError for a missing tool, BusyError when
    another process uses `staging` for longer than `patience_s`, KeyMissingError when none of the `identities` opens
    it (only a level above `hash` needs one); ValueError for keeping what a server wrote to.
    """
    if keep and level is Level.BOOT:
        raise ValueError("a tree that a server wrote to cannot be imported from")
    manifest = store.manifest(backup_id)
    if level is Level.HASH:
        return _judged(store, manifest, level, "", lambda: _prove_bytes(store, manifest, on_bytes))
    identities.require(manifest)
    staging.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _only_one(staging, patience_s):
        end_outlived(staging)
        tool_version = require_tools(manifest, level)
        tree = Prepared(staging, manifest)
        if (
            keep
            and _may_be_used(store, manifest, level)
            and (when := tree.proven(definitions_of(store, manifest, identities)))
        ):
            return _kept(_verdict(manifest, level, tool_version, when), manifest, tree.path)
        return _judged(
            store,
            manifest,
            level,
            tool_version,
            lambda: _prove(store, manifest, identities, tree, on_bytes, on_count, level, keep),
        )


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


@dataclass(frozen=True, slots=True)
class _Proof:
    """How a verification ended well."""

    note: str = ""
    prepared: Path | None = None


def _judged(
    store: Store, manifest: Manifest, level: Level, tool_version: str, prove: Callable[[], _Proof]
) -> Verification:
    """Return the good verdict on a backup once it is recorded; record a bad one, and raise it."""
    try:
        proof = prove()
    except (BadBackupError, FoundWrongError) as error:
        failed_at = error.level if isinstance(error, BadBackupError) else Level.HASH
        verdict = _verdict(manifest, failed_at, tool_version, datetime.now(UTC), problem=str(error))
        record_verdict(store, manifest.id, verdict)
        raise FoundWrongError(
            f"backup {manifest.id} is not good: {error}",
            hint="dbha backup create     and do not use this one; `dbha backup list` shows the others",
        ) from error
    verdict = _verdict(manifest, level, tool_version, datetime.now(UTC), note=proof.note)
    _require_good(record_verdict(store, manifest.id, verdict), level)
    return _kept(verdict, manifest, proof.prepared)


def _prove_bytes(store: Store, manifest: Manifest, on_bytes: OnBytes) -> _Proof:
    check_stored_bytes(store, manifest, on_bytes)
    return _Proof()


def _prove(
    store: Store,
    manifest: Manifest,
    identities: Identities,
    tree: Prepared,
    on_bytes: OnBytes,
    on_count: OnCount,
    level: Level,
    keep: bool,
) -> _Proof:
    definitions = definitions_of(store, manifest, identities)
    prepared, note = None, ""
    with tree.unfinished() as partial:
        _unpack(store, manifest, identities, partial, on_bytes)
        _prepare(partial)
        _check_position(partial, manifest)
        _check_tables(partial, definitions)
        if level.includes(Level.PAGES):
            check_pages(partial, functools.partial(on_count, "files"), side_by_side=_side_by_side())
        if level.includes(Level.BOOT):
            note = boot(
                partial,
                manifest,
                definitions,
                functools.partial(on_count, "tables"),
                side_by_side=_side_by_side(),
                pool_bytes=prepare_memory_bytes(_available_memory_bytes()),
            )
        if keep:
            prepared = tree.publish(partial, datetime.now(UTC))
    return _Proof(note=note, prepared=prepared)


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


def _check_tables(partial: Path, definitions: Definitions) -> None:
    missing = Prepared.missing_files(partial, definitions)
    if missing:
        raise _unfit(f"{len(missing)} file(s) of tables are missing: {', '.join(missing[:5])}")


def _unfit(problem: str) -> BadBackupError:
    return BadBackupError(problem, Level.PREPARE)


def _verdict(
    manifest: Manifest, level: Level, tool_version: str, when: datetime, *, problem: str = "", note: str = ""
) -> Verdict:
    return Verdict(
        level=level,
        outcome="bad" if problem else "good",
        problem=problem,
        note=note,
        when=when,
        stream_sha256=manifest.stream.sha256,
        tool_version=tool_version,
        dbha_version=__version__,
    )


def _kept(verdict: Verdict, manifest: Manifest, prepared: Path | None) -> Verification:
    return Verification(backup=manifest.id, prepared=prepared, **verdict.model_dump())


def _may_be_used(store: Store, manifest: Manifest, level: Level) -> bool:
    """Tell whether a tree that an earlier call left may be used: not when the backup was found bad since.

    Raises FoundWrongError when this level could not disprove what was found: it would only cost time.
    """
    known = next((each.verification for each in store.list() if each.id == manifest.id), None)
    if known is None or known.good or known.stream_sha256 != manifest.stream.sha256:
        return True
    if not level.includes(known.level):
        _require_good(known, level)
    return False


def _require_good(stands: Verification, level: Level) -> None:
    if not stands.good:
        raise FoundWrongError(
            f"backup {stands.backup} stays in quarantine: level `{level}` cannot disprove what `{stands.level}`"
            f" found on {stands.when:%Y-%m-%d %H:%M}: {stands.problem}",
            hint=f"dbha backup verify {stands.backup} --level {stands.level}",
        )


def _side_by_side() -> int:
    return len(os.sched_getaffinity(0))


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
