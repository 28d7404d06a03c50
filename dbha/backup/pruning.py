"""What retention is asked about, gathered; and what it decided, carried out."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import Any

from dbha.backup.manifest import BACKUP_ID
from dbha.backup.retention import Decision, Listed, decide, deletion_order
from dbha.backup.store import Store, StoredBackup
from dbha.config.model import BackupPolicy, RetentionPolicy
from dbha.errors import BusyError, ConfigurationError, FoundWrongError
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
            part=backup.manifest.part if backup.manifest else "",
            base=backup.manifest.base.id if backup.manifest and backup.manifest.base else None,
            mark=str(backup.mark) if backup.mark and backup.mark.holds(now) else "",
            lock=str(backup.lock) if backup.lock and backup.lock.holds(now) else "",
            run=needed.get(backup.id, ""),
        )
        for backup in backups
    )


class Pruning:
    """Retention on one store: the decisions of the moment when it was made, and carrying them out.

    `unfinished` returns the runs that have not ended.
    """

    def __init__(
        self,
        store: Store,
        policy: RetentionPolicy,
        unfinished: Callable[[], Sequence[RunRecord]],
        *,
        also_spoilt: bool = False,
    ) -> None:
        self._store, self._policy, self._unfinished = store, policy, unfinished
        self._also_spoilt = also_spoilt
        backups = store.list()
        self.stored_bytes = {backup.id: backup.stored_bytes for backup in backups}
        self.decisions = self._decide(backups)
        self.deletions = deletion_order(self.decisions, self._listed(backups))

    def delete(
        self, marks_held: Callable[[], AbstractContextManager[object]], stopped: Callable[[], bool]
    ) -> Iterator[Decision]:
        """Delete one after the other and yield each once it is gone; stop between two when `stopped`.

        Each is decided anew just before: a mark, or a verdict on another backup, may have come meanwhile.
        `marks_held` keeps marks from coming between that and the deletion. Cut off anywhere, what was begun shows
        as interrupted, and goes the next time. Raises FoundWrongError when the store cannot delete one.
        """
        for decision in self.deletions:
            if stopped():
                return
            with marks_held():
                gone = self._still_goes(decision.id) and self._delete_one(decision)
            if gone:
                yield decision

    def _still_goes(self, backup_id: str) -> bool:
        return any(each.id == backup_id and not each.keep for each in self._decide(self._store.list()))

    def _delete_one(self, decision: Decision) -> bool:
        """Delete it and return True, or False when somebody has just begun to write it."""
        try:
            self._store.delete(decision.id)
        except BusyError as refusal:
            log.info("not pruned: %s", refusal)
            return False
        except OSError as error:
            raise FoundWrongError(
                f"backup {decision.id} cannot be deleted: {error.strerror or error}",
                hint="dbha backup prune     again, when that is repaired",
                unchanged="all that are to be kept are as they were",
            ) from error
        log.info("pruned %s: %s", decision.id, decision.reason)
        return True

    def _decide(self, backups: Sequence[StoredBackup]) -> tuple[Decision, ...]:
        now = datetime.now(UTC)
        return decide(self._listed(backups), self._policy, now, also_spoilt=self._also_spoilt)

    def _listed(self, backups: Sequence[StoredBackup]) -> tuple[Listed, ...]:
        return listed(backups, self._unfinished(), datetime.now(UTC))


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
