"""Prove a backup good, as far as a level says: hash it, prepare it, check its pages, start a server on it.

Whatever is wrong with the backup itself is recorded in the store and raised as FoundWrongError. What only keeps
it from being verified here (no room, a missing tool, a tool of another version) is raised and not recorded.
"""

import fcntl
import functools
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from dbha import __version__
from dbha.backup.accounts import stored_accounts
from dbha.backup.bad_backup import BadBackupError, blamed_on
from dbha.backup.boot import boot
from dbha.backup.definitions import Definitions
from dbha.backup.encryption import NO_IDENTITIES, Identities
from dbha.backup.levels import Level
from dbha.backup.manifest import Manifest, Verdict, Verification
from dbha.backup.pages import check_pages
from dbha.backup.prepare import available_memory_bytes, chain_in, in_all, make_tree, prepare_memory_bytes
from dbha.backup.prepared import Prepared
from dbha.backup.private_server import end_outlived
from dbha.backup.store import Store
from dbha.backup.stored_bytes import OnBytes, check_stored_bytes, definitions_of
from dbha.backup.tools_here import require_tools
from dbha.backup.verdicts import record_verdict
from dbha.errors import BusyError, FoundWrongError

_PAUSE_S = 0.2

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

    Of an incremental backup everything is proven that a restore of it needs. What is wrong with a base is a verdict
    on the base; on this one there is none then.

    With `keep` the prepared tree stays at `staging/<id>` for a restore, and one that an earlier call left whole
    is used again. `on_bytes` gets the stored bytes read so far and all of them, `on_count` the files or tables.
    Raises FoundWrongError for a bad backup, also for one that passes now what it did not fail at; UnsafeError
    for too little room or a tool of another version, UnreachableError for a missing tool, BusyError when
    another process uses `staging` for longer than `patience_s`, KeyMissingError when none of the `identities` opens
    it (only a level above `hash` needs one); ValueError for keeping what a server wrote to.
    """
    if keep and level is Level.BOOT:
        raise ValueError("a tree that a server wrote to cannot be imported from")
    chain = chain_in(store, backup_id)
    manifest = chain[-1]
    if level is Level.HASH:
        return _judged(store, manifest, level, "", lambda: _prove_bytes(store, chain, on_bytes))
    for each in chain:
        identities.require(each)
    staging.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _only_one(staging, patience_s):
        end_outlived(staging)
        for base in chain[:-1]:
            require_tools(base, Level.PREPARE)
        tool_version = require_tools(manifest, level)
        tree = Prepared(staging, manifest)
        if (
            keep
            and _may_be_used(store, manifest, level)
            and (when := _proven(store, tree, manifest, identities))
        ):
            return _kept(_verdict(manifest, level, tool_version, when), manifest, tree.path)
        return _judged(
            store,
            manifest,
            level,
            tool_version,
            lambda: _prove(store, chain, identities, tree, on_bytes, on_count, level, keep),
        )


def _proven(store: Store, tree: Prepared, manifest: Manifest, identities: Identities) -> datetime | None:
    """Return when the kept tree was proven; None when it was not, or cannot be compared with the definitions."""
    try:
        return tree.proven(definitions_of(store, manifest, identities))
    except FoundWrongError:  # proving it anew finds the same, and records it
        return None


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
        bad = (error.manifest if isinstance(error, BadBackupError) else None) or manifest
        verdict = _verdict(bad, failed_at, tool_version, datetime.now(UTC), problem=str(error))
        record_verdict(store, bad.id, verdict)
        whose = "" if bad.id == manifest.id else f"its base {bad.id}: "
        raise FoundWrongError(
            f"backup {manifest.id} is not good: {whose}{error}",
            hint="dbha backup create     and do not use this one; `dbha backup list` shows the others",
        ) from error
    verdict = _verdict(manifest, level, tool_version, datetime.now(UTC), note=proof.note)
    _require_good(record_verdict(store, manifest.id, verdict), level)
    return _kept(verdict, manifest, proof.prepared)


def _prove_bytes(store: Store, chain: Sequence[Manifest], on_bytes: OnBytes) -> _Proof:
    for manifest, on_these in zip(chain, in_all(chain, on_bytes), strict=True):
        with blamed_on(manifest):
            check_stored_bytes(store, manifest, on_these)
    return _Proof()


def _prove(
    store: Store,
    chain: Sequence[Manifest],
    identities: Identities,
    tree: Prepared,
    on_bytes: OnBytes,
    on_count: OnCount,
    level: Level,
    keep: bool,
) -> _Proof:
    manifest = chain[-1]
    definitions = definitions_of(store, manifest, identities)
    prepared, note = None, ""
    with tree.unfinished() as partial:
        with tree.beside(partial) as apart:
            make_tree(store, chain, identities, partial, apart, on_bytes)
        _check_tables(partial, definitions)
        if level.includes(Level.PAGES):
            check_pages(partial, functools.partial(on_count, "files"), side_by_side=_side_by_side())
        if level.includes(Level.BOOT):
            note = boot(
                partial,
                manifest,
                definitions,
                stored_accounts(store, manifest, identities),
                functools.partial(on_count, "tables"),
                side_by_side=_side_by_side(),
                pool_bytes=prepare_memory_bytes(available_memory_bytes()),
            )
        if keep:
            prepared = tree.publish(partial, datetime.now(UTC))
    return _Proof(note=note, prepared=prepared)


def _check_tables(partial: Path, definitions: Definitions) -> None:
    missing = Prepared.missing_files(partial, definitions)
    if missing:
        raise BadBackupError(
            f"{len(missing)} file(s) of tables are missing: {', '.join(missing[:5])}", Level.PREPARE
        )


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
