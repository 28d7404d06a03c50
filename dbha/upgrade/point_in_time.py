"""Which backup is brought to a point in time, and what has to be replayed for it; looks at everything first."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass

from dbha.backup.binlog.archive import Archive
from dbha.backup.binlog.choose import Reach, choose_backup
from dbha.backup.binlog.replay_plan import ReplayPlan, plan_replay
from dbha.backup.binlog.target import Target, parse_target
from dbha.backup.store import Store, StoredBackup, complete_ones, resolve
from dbha.errors import UnreachableError, UnsafeError
from dbha.upgrade.site import Site

_LATEST = "latest"
_SERVERS = ("mariadbd", "mariadb")


@dataclass(frozen=True, slots=True)
class PointInTime:
    """A backup and, of the archived logs, what brings it to the point `to`."""

    backup_id: str
    to: str
    plan: ReplayPlan

    @property
    def until(self) -> str:
        """The last transaction that will be there."""
        return str(self.plan.until)


def point_of(
    site: Site, store: Store, backups: Sequence[StoredBackup], name: str, to: str, *, here: bool
) -> PointInTime:
    """Return how to get to a point in time from the backup of this name, `latest` being the best one for it.

    With `here` it is replayed on this machine. Every log that is needed is read and hashed. Raises UnsafeError when
    the point cannot be reached, with what can be; FoundWrongError for a log that was changed; UnreachableError for a
    missing tool.
    """
    target = parse_target(to)
    needed = ("mariadb-binlog", *(_SERVERS if here else ()))
    if missing := [tool for tool in needed if shutil.which(tool) is None]:
        raise UnreachableError(
            f"not installed on this machine: {', '.join(missing)}",
            hint="apt-get install mariadb-client" + (" mariadb-server" if here else ""),
        )
    backup_id = _best(site.archive, backups, target) if name == _LATEST else resolve(backups, name)
    manifest = store.manifest(backup_id)
    if manifest.part:
        raise UnsafeError(
            f"backup {backup_id} holds only {manifest.part}, and the logs are of the whole cluster",
            hint="dbha backup list     choose one of the whole cluster",
        )
    return PointInTime(backup_id, to, plan_replay(site.archive, manifest, target))


def _best(archive: Archive, backups: Sequence[StoredBackup], target: Target) -> str:
    complete = complete_ones(backups)
    reach = archive.restorable([backup.manifest for backup in complete if backup.manifest])
    return choose_backup(
        [
            Reach(
                id=backup.id,
                verified=backup.verified,
                finished=backup.manifest.finished,
                timeline=backup.manifest.timeline,
                until=reach[backup.id],
            )
            for backup in complete
            if backup.manifest
        ],
        target,
    )
