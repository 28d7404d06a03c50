"""Look at each part of a cluster once: its nodes, what they know, the journal, the archive, the stores."""

import logging
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from dbha.backup.binlog.archive import History, stored_bytes
from dbha.backup.store import StoredBackup, complete_ones
from dbha.cluster.lock import is_free
from dbha.cluster.observe import observe
from dbha.errors import DbhaError, UnreachableError
from dbha.health.inside import Inside, ask_inside
from dbha.health.observation import ArchiveSeen, Moment, NodesSeen, RunsSeen, StoreSeen
from dbha.journal import Journal, RunState
from dbha.upgrade.site import Site

log = logging.getLogger(__name__)


def clock() -> Moment:
    """Return the present moment."""
    return Moment(datetime.now(UTC), time.monotonic())


def in_words(error: Exception) -> str:
    """Return why a look failed. What no look is expected to raise is a bug, and its traceback goes into the log."""
    if isinstance(error, DbhaError):
        return str(error)
    if isinstance(error, OSError):
        return f"{error.filename or 'the machine'}: {error.strerror or error}"
    if isinstance(error, SQLAlchemyError):
        return f"the journal cannot be read: {getattr(error, 'orig', None) or error}"
    log.error("a look failed in a way that it should not", exc_info=error)
    return f"a bug in dbha ({type(error).__name__}); the traceback is in the log"


class Looker:
    """Looks at the parts of one site; keeps nothing of what it saw."""

    def __init__(self, site: Site, journal: Journal, lock_path: Path) -> None:
        self.site = site
        self._journal = journal
        self._lock_path = lock_path

    def nodes(self, timeout_s: float) -> NodesSeen:
        """Return how the nodes are, after at most `timeout_s`, whatever they do."""
        states = observe(self.site.cluster, timeout_s)
        return NodesSeen(self.site.cluster.nodes, states, self.site.verdict_of(states))

    def inside(self, nodes: NodesSeen | None, timeout_s: float) -> Inside:
        """Return what the writer knows. Raises UnreachableError while there is none."""
        if nodes is None or nodes.verdict.writer is None:
            raise UnreachableError("no node serves that could be asked")
        return ask_inside(self.site, self.site.cluster.node(nodes.verdict.writer), timeout_s)

    def runs(self) -> RunsSeen:
        """Return what the journal has."""
        unfinished = self._journal.unfinished()
        newest = unfinished[-1] if unfinished else None
        running = newest if newest and newest.state is RunState.RUNNING else None
        active = running if running and not is_free(self._lock_path) else None
        return RunsSeen(
            self._journal.counts(), tuple(self._journal.last_of_each()), tuple(unfinished), active
        )

    def archive(self) -> ArchiveSeen:
        """Return what is archived of the timeline that was archived last."""
        archive = self.site.archive
        histories = [archive.history(timeline) for timeline in archive.timelines()]
        newest = max((history for history in histories if history.windows), key=_until, default=None)
        window = newest.windows[-1] if newest else None
        return ArchiveSeen(
            busy=archive.is_busy(),
            windows=len(newest.windows) if newest else 0,
            begins=window.first_time if window else None,
            until=window.time if window else None,
            stored_bytes=stored_bytes(archive.directory),
        )

    def store(self, name: str) -> StoreSeen:
        """Return what a store has. One that is somewhere else may take long to say that it does not answer."""
        store = self.site.store_of(name)
        backups = tuple(_without_rows(backup) for backup in store.list())
        complete = complete_ones(backups)
        newest = complete[-1].manifest if complete else None
        reach = self.site.archive.restorable([newest])[newest.id] if newest else None
        return StoreSeen(backups, store.free_bytes(), self.site.configuration.backup.check, reach)


def _until(history: History) -> datetime:
    return history.windows[-1].time


def _without_rows(backup: StoredBackup) -> StoredBackup:
    """Return a backup without its count of rows, one number for each table, which nobody here asks for."""
    if backup.manifest is None:
        return backup
    return replace(backup, manifest=backup.manifest.model_copy(update={"rows": None}))
