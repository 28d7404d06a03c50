"""Metrics of the backups in a store, and of the archived binary logs."""

from collections.abc import Iterator
from datetime import datetime

from dbha.backup.checks import check, known_of
from dbha.backup.store import Status, StoredBackup, complete_ones
from dbha.health.metric import Metric, Sample
from dbha.health.observation import ArchiveSeen, StoreSeen

_STORE = ("store",)
_KIND = ("store", "kind")
KINDS = ("full", "incremental")

BACKUPS = Metric("dbha_backups", "Backups in the store, of whatever it holds.", ("store", "status"))
FREE = Metric("dbha_store_free_bytes", "How much more the store can take, where it tells.", _STORE)
LAST = Metric(
    "dbha_backup_last_timestamp_seconds", "When the newest complete backup of the cluster was begun.", _KIND
)
LAST_VERIFIED = Metric(
    "dbha_backup_last_verified_timestamp_seconds",
    "When the newest backup that was verified and found good was begun.",
    _KIND,
)
OLDEST = Metric("dbha_backup_oldest_timestamp_seconds", "When the oldest complete backup was begun.", _KIND)
DURATION = Metric("dbha_backup_last_duration_seconds", "How long the newest complete backup took.", _KIND)
SIZE = Metric("dbha_backup_last_size_bytes", "Size of the data that the newest complete backup is of.", _KIND)
STORED = Metric("dbha_backup_last_stored_bytes", "Room that the newest complete backup takes.", _KIND)
CHECK = Metric(
    "dbha_backup_check_level",
    "How a test of dbha backup check comes out: 0 OK, 1 WARNING, 2 CRITICAL.",
    ("store", "test"),
)
REACH = Metric(
    "dbha_backup_restorable_until_timestamp_seconds",
    "The newest point in time that archived logs lead to from the newest complete backup.",
    _STORE,
)
BUSY = Metric("dbha_archive_busy", "Whether a process archives binary logs here.")
WINDOWS = Metric(
    "dbha_archive_windows", "Parts of the history that are archived without a gap; more than 1: gaps."
)
BEGINS = Metric("dbha_archive_window_begin_timestamp_seconds", "Begin of the newest part without a gap.")
UNTIL = Metric(
    "dbha_archive_window_end_timestamp_seconds", "Up to when the newest part without a gap is complete."
)
ARCHIVED = Metric("dbha_archive_stored_bytes", "Room that the archived binary logs take.")

METRICS = (
    BACKUPS, FREE, LAST, LAST_VERIFIED, OLDEST, DURATION, SIZE, STORED, CHECK, REACH, BUSY, WINDOWS, BEGINS, UNTIL,
    ARCHIVED,
)  # fmt: skip


def samples_of_store(store: str, seen: StoreSeen, now: datetime) -> Iterator[Sample]:
    """Yield what a store has. The tests are made with the time of now, so a backup ages also while it is silent."""
    for status in Status:
        yield from BACKUPS.of(sum(backup.status is status for backup in seen.backups), store, status)
    yield from FREE.of(seen.free_bytes, store)
    complete = complete_ones(seen.backups)
    for kind in KINDS:
        yield from _of_kind(
            [each for each in complete if each.manifest and each.manifest.kind == kind], store, kind
        )
    for result in check(known_of(seen.backups, seen.free_bytes, now), seen.policy, now):
        yield from CHECK.of(result.level, store, result.name)
    yield from REACH.of(seen.reach.time if seen.reach else None, store)


def _of_kind(oldest_first: list[StoredBackup], store: str, kind: str) -> Iterator[Sample]:
    if not oldest_first:
        return
    newest = oldest_first[-1]
    yield from LAST.of(newest.created, store, kind)
    yield from OLDEST.of(oldest_first[0].created, store, kind)
    if verified := [backup for backup in oldest_first if backup.verified]:
        yield from LAST_VERIFIED.of(verified[-1].created, store, kind)
    if manifest := newest.manifest:
        yield from DURATION.of((manifest.finished - manifest.created).total_seconds(), store, kind)
        yield from SIZE.of(manifest.data_bytes, store, kind)
    yield from STORED.of(newest.stored_bytes, store, kind)


def samples_of_archive(seen: ArchiveSeen) -> Iterator[Sample]:
    """Yield what is archived of binary logs."""
    yield from BUSY.of(seen.busy)
    yield from WINDOWS.of(seen.windows)
    yield from BEGINS.of(seen.begins)
    yield from UNTIL.of(seen.until)
    yield from ARCHIVED.of(seen.stored_bytes)
