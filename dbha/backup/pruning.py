"""What retention is asked about, gathered; and what it decided, carried out."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import Any

from dbha.backup.keep import refuse_kept
from dbha.backup.manifest import BACKUP_ID
from dbha.backup.retention import Decision, Listed, decide, deletion_order
from dbha.backup.store import Store, StoredBackup
from dbha.config.model import BackupPolicy, RetentionPolicy
from dbha.errors import ConfigurationError, FoundWrongError, UnsafeError
from dbha.journal import RunRecord

log = logging.getLogger(__name__)

_EXAMPLE = """write into dbha.yml, for example:
backup:
  retention: {last: 3, daily: 7, weekly: 4, monthly: 6}"""


def retention_of(policy: BackupPolicy, source: str) -> RetentionPolicy:
    """Return the rules. Raises ConfigurationError that says what to write into `source` when there are none."""
    if policy.retention is None:
        raise ConfigurationError(
            source, ["backup.retention: missing, so nothing says which backups may go"], hint=_EXAMPLE
        )
    return policy.retention


def listed(
    backups: Sequence[StoredBackup], unfinished: Sequence[RunRecord], now: datetime
) -> tuple[Listed, ...]:
    """Return the backups of a store as retention sees them; `unfinished` are the runs that may need some."""
    needed = _named_in(unfinished)
    return tuple(
        Listed(
            id=backup.id,
            created=backup.created,
            status=backup.status,
            verified=backup.verified,
            base=None,  # there are only full backups
            mark=str(backup.mark) if backup.mark and backup.mark.holds(now) else "",
            run=needed.get(backup.id, ""),
        )
        for backup in backups
    )


class Pruning:
    """Retention on one store: `decisions` are as of the moment it was made, and deleted is nothing else."""

    def __init__(
        self,
        store: Store,
        policy: RetentionPolicy,
        unfinished: Sequence[RunRecord],
        *,
        also_spoilt: bool = False,
    ) -> None:
        self._store = store
        now = datetime.now(UTC)
        self._backups = {backup.id: backup for backup in store.list()}
        self._listed = listed(tuple(self._backups.values()), unfinished, now)
        self.decisions = decide(self._listed, policy, now, also_spoilt=also_spoilt)

    @property
    def deletions(self) -> tuple[Decision, ...]:
        """What may go, in the order in which it is deleted."""
        return deletion_order(self.decisions, self._listed)

    def stored_bytes(self, backup_id: str) -> int:
        """Return how many bytes a backup takes in the store."""
        return self._backups[backup_id].stored_bytes

    def delete(
        self, marks_held: Callable[[], AbstractContextManager[object]], stopped: Callable[[], bool]
    ) -> Iterator[Decision]:
        """Delete one after the other and yield each once it is gone; stop between two when `stopped`.

        Cut off anywhere, what was begun shows as interrupted and goes the next time. `marks_held` keeps others
        from setting a mark while one is looked at and deleted. Raises FoundWrongError when the store fails.
        """
        for decision in self.deletions:
            if stopped():
                return
            with marks_held():
                if self._is_kept_by_now(decision.id):
                    continue
                self._delete_one(decision)
            yield decision

    def _is_kept_by_now(self, backup_id: str) -> bool:
        """Tell whether somebody set a mark since it was decided, or the backup is gone already."""
        now = datetime.now(UTC)
        found = [backup for backup in self._store.list() if backup.id == backup_id]
        try:
            for backup in found:
                refuse_kept(backup_id, backup.mark, now)
        except UnsafeError as refusal:
            log.info("not pruned: %s", refusal)
            return True
        return not found

    def _delete_one(self, decision: Decision) -> None:
        try:
            self._store.delete(decision.id)
        except OSError as error:
            raise FoundWrongError(
                f"backup {decision.id} cannot be deleted: {error.strerror or error}",
                hint="dbha backup prune     again, when that is repaired",
                unchanged="all that are to be kept are as they were",
            ) from error
        log.info("pruned %s: %s", decision.id, decision.reason)


def _named_in(runs: Sequence[RunRecord]) -> dict[str, str]:
    """Return the ids of backups that the arguments of runs name, each with its run."""
    return {word: run.id for run in runs for word in _words(run.arguments) if BACKUP_ID.fullmatch(word)}


def _words(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from (word for each in value.values() for word in _words(each))
    elif isinstance(value, Sequence):
        yield from (word for each in value for word in _words(each))
