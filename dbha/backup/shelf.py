"""The backups of one cluster, ready to be used: the store they are in and the place where they are prepared."""

import shutil
import threading
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from dbha.backup.definitions import Definitions
from dbha.backup.encryption import NO_IDENTITIES, Identities, recipients_of
from dbha.backup.levels import Level
from dbha.backup.manifest import Manifest, Scope, ServiceState
from dbha.backup.store import Status, Store
from dbha.backup.stored_bytes import definitions_of
from dbha.backup.take import take_backup
from dbha.backup.verify import verify
from dbha.cluster.handle import Cluster
from dbha.config import Configuration
from dbha.errors import BackupFailedError
from dbha.inventory import Node
from dbha.workflow import StepContext

_PREPARING = threading.Lock()
_APART = "apart"
_PATIENCE_S = 3600.0  # for whoever verifies the same backup, or another one


@dataclass(frozen=True, slots=True)
class Shelf:
    """Takes, verifies and hands out backups; `state_of_services` says what the services are at now."""

    cluster: Cluster
    store: Store
    staging: Path
    configuration: Configuration
    state_of_services: Callable[[Node], Mapping[str, ServiceState]]
    identities: Identities = NO_IDENTITIES

    def take(
        self,
        donor: Node,
        backup_id: str,
        *,
        label: str,
        context: StepContext,
        services: Collection[str] = (),
        base: str = "",
    ) -> Manifest:
        """Take a backup under this id, or return the one an interrupted attempt completed.

        Of the whole donor or, where `services` are named, of these. With `base` an incremental one upon that backup.
        """
        for stored in self.store.list():
            if stored.id == backup_id and stored.status is Status.COMPLETE:
                return self.store.manifest(backup_id)
            if stored.id == backup_id:  # an interrupted attempt's
                self.store.delete(backup_id)
        states = self.state_of_services(donor)
        if absent := [name for name in services if name not in states]:
            raise BackupFailedError(f"{', '.join(absent)} has no databases on {donor}", hint="dbha status")
        taken = {name: state for name, state in states.items() if not services or name in services}
        return take_backup(
            self.cluster,
            self.store,
            donor,
            backup_id=backup_id,
            services=taken,
            label=label,
            policy=self.configuration.backup,
            databases=[name for service in taken.values() for name in service.databases],
            on_bytes=context.measure,
            on_line=context.say,
            base=self._base(base) if base else None,
            scope=Scope.SERVICES if services else Scope.CLUSTER,
            recipients=recipients_of(self.configuration.backup.encryption),
            timeout_s=self.configuration.limits.backup_timeout_s,
        )

    def _base(self, backup_id: str) -> Manifest:
        """Return what was decided to go on from. Raises BackupFailedError when it is not good any more."""
        found = next((each for each in self.store.list() if each.id == backup_id), None)
        if found is None or found.manifest is None or found.status is not Status.COMPLETE:
            how = f"{found.status}: {found.reason}" if found else "not there any more"
            raise BackupFailedError(
                f"no incremental backup upon {backup_id}, which is {how}", hint="dbha backup create"
            )
        return found.manifest

    def verify(self, backup_id: str, level: Level, context: StepContext) -> None:
        """Verify a backup and keep nothing of it but the verdict. Raises FoundWrongError when it is not good."""
        with _PREPARING:
            verify(
                self.store,
                backup_id,
                self.staging,
                on_bytes=context.measure,
                on_count=context.count,
                keep=False,
                patience_s=_PATIENCE_S,
                level=level,
                identities=self.identities,
            )

    def prepared(self, backup_id: str, on_bytes: Callable[[int, int], None]) -> Path:
        """Return the verified, unpacked and prepared backup; one that is there already is used again.

        Raises FoundWrongError when the backup is not good. Whoever needs one at the same time waits for the
        other, also for a scheduled verification.
        """
        with _PREPARING:
            verification = verify(
                self.store, backup_id, self.staging, on_bytes=on_bytes, keep=True, patience_s=_PATIENCE_S,
                identities=self.identities,
            )  # fmt: skip
        assert verification.prepared is not None
        return verification.prepared

    def prepared_apart(self, backup_id: str, on_bytes: Callable[[int, int], None]) -> Path:
        """Return one more prepared backup, beside the one that tables are imported from: a server may write to it."""
        apart = replace(self, staging=self.staging / _APART)
        return apart.prepared(backup_id, on_bytes)

    def definitions(self, backup_id: str) -> Definitions:
        """Return the structure of the databases in a backup."""
        return definitions_of(self.store, self.store.manifest(backup_id), self.identities)

    def forget_prepared(self, backup_id: str) -> None:
        """Remove what was prepared of a backup, also for points in time, and what unfinished ones left of it.

        The backup itself stays.
        """
        for staging in (self.staging, self.staging / _APART):
            for place in (staging / backup_id, *staging.glob(f"{backup_id}.*.partial")):
                shutil.rmtree(place, ignore_errors=True)
        for place in self._points.glob(f"{backup_id}-*"):
            shutil.rmtree(place, ignore_errors=True)
        with suppress(OSError):  # there is none, or one of another backup
            self._points.rmdir()

    def point(self, backup_id: str, until: str) -> Path:
        """Return where a backup is brought to a point in time. No verification ends servers there."""
        return self._points / f"{backup_id}-{until}"

    @property
    def _points(self) -> Path:
        return self.staging.with_name("points")

    def source(self, backup_id: str) -> "ShelfSource":
        """Return a backup as the source of a restore."""
        return ShelfSource(self, backup_id)


@dataclass(frozen=True, slots=True)
class ShelfSource:
    """One backup on the shelf, for restoring from."""

    shelf: Shelf
    backup_id: str

    def definitions(self) -> Definitions:
        """Return the structure of the databases."""
        return self.shelf.definitions(self.backup_id)

    def prepared(self, context: StepContext) -> Path:
        """Return the prepared backup, made again when it is gone."""
        return self.shelf.prepared(self.backup_id, context.measure)

    def prepared_apart(self, context: StepContext) -> Path:
        """Return one more prepared backup, which a server may write to."""
        return self.shelf.prepared_apart(self.backup_id, context.measure)
