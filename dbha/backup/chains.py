"""Backups that are based on others: which ones a restore needs, and what is wrong with one when a base is. Pure."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from dbha.backup.manifest import Manifest
from dbha.backup.store import Status, StoredBackup
from dbha.errors import FoundWrongError, UnsafeError


def judged(backups: Sequence[StoredBackup]) -> tuple[StoredBackup, ...]:
    """Return the backups with every complete one as `orphaned` whose base is missing, another one, or not good."""
    found: dict[str, StoredBackup] = {}
    for backup in sorted(backups, key=_depth):  # so that a base is judged before what is based on it
        problem = _problem_of_base(backup, found) if backup.status is Status.COMPLETE else ""
        found[backup.id] = replace(backup, status=Status.ORPHANED, reason=problem) if problem else backup
    return tuple(found[backup.id] for backup in backups)


def chain_of(manifest: Manifest, manifest_of: Callable[[str], Manifest]) -> tuple[Manifest, ...]:
    """Return the backups that a restore needs, the full one first and this one last.

    `manifest_of` raises FoundWrongError for one that is not there. Raises FoundWrongError also for a base that is
    not the one which this backup was taken upon.
    """
    chain = [manifest]
    while (base := chain[0].base) is not None:
        known = manifest_of(base.id)
        if known.stream.sha256 != base.sha256 or known.depth >= chain[0].depth:
            raise FoundWrongError(
                f"backup {manifest.id} cannot be restored: {_another(base.id)}", hint="dbha backup list"
            )
        chain.insert(0, known)
    return tuple(chain)


def based_on(backups: Sequence[StoredBackup], backup_id: str) -> tuple[str, ...]:
    """Return the ids of the backups that cannot be restored without this one, nearest first."""
    found = [backup_id]
    for parent in found:  # grows while it is walked
        found += [
            backup.id
            for backup in backups
            if backup.manifest is not None
            and backup.manifest.base is not None
            and backup.manifest.base.id == parent
            and backup.id not in found
        ]
    return tuple(found[1:])


def refuse_needed(backups: Sequence[StoredBackup], backup_id: str) -> None:
    """Raise UnsafeError, naming them, when other backups are based on this one."""
    if needing := based_on(backups, backup_id):
        *first, last = (f"dbha backup delete {each}" for each in reversed(needing))
        raise UnsafeError(
            f"backup {backup_id} is the base of {', '.join(needing)}, which cannot be restored without it",
            hint="\n".join([*first, f"{last}     first, if they may go as well"]),
        )


def _depth(backup: StoredBackup) -> int:
    return backup.manifest.depth if backup.manifest is not None else 0


def _problem_of_base(backup: StoredBackup, found: dict[str, StoredBackup]) -> str:
    base = backup.manifest.base if backup.manifest is not None else None
    if base is None:
        return ""
    known = found.get(base.id)
    if known is None:
        return f"its base {base.id} is not there"
    if known.status is not Status.COMPLETE:
        return f"its base {base.id} is {known.status}{f': {known.reason}' if known.reason else ''}"
    if known.manifest is not None and known.manifest.stream.sha256 != base.sha256:
        return _another(base.id)
    return ""


def _another(base_id: str) -> str:
    return f"its base {base_id} is another backup than the one it was taken upon"
