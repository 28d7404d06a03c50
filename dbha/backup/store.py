"""Where backups are kept: the protocol of every store, and the words for what lies in one."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO, Protocol

from dbha.backup.immutable import Lock
from dbha.backup.keep import KeepMark
from dbha.backup.manifest import BACKUP_ID, Manifest, Scope, Verification
from dbha.errors import FoundWrongError, UsageError


class Status(StrEnum):
    """How a backup stands; these words are part of the `--json` contract."""

    COMPLETE = "complete"
    WRITING = "writing"  # a process is at it now
    INTERRUPTED = "interrupted"  # its writing or its deletion was cut off, and nobody is at it any more
    FAILED = "failed"  # its data is gone, its log was kept
    ORPHANED = "orphaned"  # it is complete, and what it is based on is missing or not good
    BAD = "bad"  # it was complete, and a verification found that it cannot be restored
    DAMAGED = "damaged"  # it was complete, and its manifest cannot be read any more


@dataclass(frozen=True, slots=True)
class StoredBackup:
    """What a store has of one backup. Only a complete, orphaned or bad one has a manifest."""

    id: str
    status: Status
    reason: str  # why it is not complete, or why that is not enough
    stored_bytes: int
    manifest: Manifest | None = None
    verification: Verification | None = None
    lock: Lock | None = None  # until when nobody may delete it, in a store that locks
    mark: KeepMark | None = None  # the last word on whether it is to be kept, if anybody said one

    @property
    def created(self) -> datetime:
        """When it was begun, to the second."""
        return datetime.strptime(self.id[:16], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)

    @property
    def verified(self) -> bool:
        """Whether this very stream was found good the last time it was verified."""
        return (
            self.manifest is not None
            and self.verification is not None
            and self.verification.outcome == "good"
            and self.verification.stream_sha256 == self.manifest.stream.sha256
        )


class Draft(Protocol):
    """A backup that is being written. Nothing of it counts before `publish` returned."""

    def kept(self) -> Iterator[bytes]:
        """Yield what an interrupted attempt left of the stream; what is written then is appended to it.

        To be read to its end before the first `write`. Empty where `write` itself knows what is there already.
        """

    def write(self, block: bytes) -> None:
        """Append to the stream. Raises OSError or StoreUnreachableError when the store cannot take it."""

    def publish(self, beside: Mapping[str, bytes], manifest: Manifest) -> None:
        """Make the backup complete: all of it durable first, the manifest last, then its name.

        `beside` are the files that lie beside the stream, by the names that the manifest gives them.
        """

    def abandon(self, reason: str, log: bytes) -> None:
        """Delete the data; keep the reason and the log, to be seen. Never raises for a full disk."""

    def leave(self) -> None:
        """Let go of it as it is, so that `begin` with `go_on` can go on from there. Never raises for a full disk."""


class Store(Protocol):
    """Keeps backups. What it lists is read anew each time; there is no catalogue that could disagree.

    Every call may raise StoreUnreachableError when the store is somewhere else.
    """

    @property
    def where(self) -> str:
        """The store, in words for a message."""

    @property
    def directory(self) -> Path | None:
        """Where it is on this machine; None for a store that is somewhere else."""

    def begin(self, backup_id: str, *, go_on: bool = False) -> Draft:
        """Start to write a backup; with `go_on` take up one that is not complete and that nobody writes.

        Raises UsageError when there is one with this id, BusyError when another process writes it.
        """

    def list(self) -> Sequence[StoredBackup]:
        """Return all backups, also those that failed, in the order of their ids, judged with their bases."""

    def manifest(self, backup_id: str) -> Manifest:
        """Return a manifest. Raises FoundWrongError when it is damaged or not there."""

    def definitions_file(self, backup_id: str) -> bytes:
        """Return the definitions as they are stored, perhaps encrypted.

        Raises FoundWrongError when they are not what the manifest says.
        """

    def accounts_file(self, backup_id: str) -> bytes | None:
        """Return the accounts as they are stored, None for a backup of dbha 0.1.

        Raises FoundWrongError when they are not what the manifest says.
        """

    def open_stream(self, backup_id: str) -> BinaryIO:
        """Return the stored stream, to be closed by the caller. Raises FoundWrongError when it is not there."""

    def record_verification(self, verification: Verification) -> None:
        """Keep what a verification found, in the place of what the one before found.

        Raises UsageError when the backup is not there any more.
        """

    def record_mark(self, mark: KeepMark) -> None:
        """Put this mark beside the manifest, in the place of the one before. Raises UsageError without a backup."""

    def delete(self, backup_id: str) -> None:
        """Delete a backup, whatever its status.

        Raises UsageError for an unknown id, BusyError while it is being written, UnsafeError while it is locked.
        """

    def locks(self) -> str:
        """Return in words how new backups are kept from being deleted; empty where they are not.

        Raises FoundWrongError when the store cannot do what it is configured to.
        """

    def free_bytes(self) -> int | None:
        """Return how much more the store can take, in bytes; None when it does not tell."""

    def close(self) -> None:
        """Let go of connections, if there are any."""


def resolve(
    backups: Sequence[StoredBackup],
    name: str,
    where: str = "the store",
    *,
    services: Collection[str] = (),
) -> str:
    """Return the id that an operator means; `latest` is the newest complete backup, never a bad one.

    It is of the whole cluster or, where `services` are wanted, also of only some that have these among them. Raises
    UsageError for an id that is not there, and FoundWrongError when there is no such backup.
    """
    if name == "latest":
        complete = [backup.id for backup in complete_ones(backups, services)]
        if not complete:
            what = f"that has {', '.join(services)}" if services else "of the whole cluster"
            raise FoundWrongError(
                f"there is no complete backup {what} in {where}", hint="dbha backup list\ndbha backup create"
            )
        return max(complete)
    if any(backup.id == name for backup in backups):
        return name
    kind = "there is no backup" if BACKUP_ID.fullmatch(name) else "this is not the id of a backup:"
    raise UsageError(f"{kind} {name}", hint="dbha backup list")


def complete_ones(backups: Sequence[StoredBackup], services: Collection[str] = ()) -> list[StoredBackup]:
    """Return the complete backups of the whole cluster; where services are named, all that have these."""
    return [
        backup
        for backup in backups
        if backup.status is Status.COMPLETE and _serves(backup.manifest, services)
    ]


def _serves(manifest: Manifest | None, services: Collection[str]) -> bool:
    if manifest is None or not services:
        return manifest is not None and manifest.scope is Scope.CLUSTER
    return set(services) <= manifest.services.keys()


def stored_ratio(backups: Sequence[StoredBackup]) -> float | None:
    """Return stored to raw bytes of the newest full backup of the whole cluster, or None when there is none."""
    return _ratio(backups, "full")


def incremental_ratio(backups: Sequence[StoredBackup]) -> float | None:
    """Return stored bytes of the newest incremental backup to the size of all data then, or None."""
    return _ratio(backups, "incremental")


def _ratio(backups: Sequence[StoredBackup], kind: str) -> float | None:
    known = [
        manifest
        for each in backups
        if (manifest := each.manifest) is not None
        and manifest.kind == kind
        and manifest.scope is Scope.CLUSTER
    ]
    if not known or known[-1].data_bytes == 0:
        return None
    return known[-1].stream.stored_bytes / known[-1].data_bytes
