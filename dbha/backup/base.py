"""Which backup an incremental one is based on, and whether it can be. Pure; the caller looks at store and node."""

from collections.abc import Sequence

from dbha.backup.lineage import Directory, in_words
from dbha.backup.manifest import Manifest
from dbha.backup.store import Status, StoredBackup, complete_ones, resolve
from dbha.backup.tool_files import series_of
from dbha.config.model import IncrementalPolicy
from dbha.errors import UnsafeError

_FULL = "dbha backup create     takes a full one"


def choose_base(backups: Sequence[StoredBackup], name: str, policy: IncrementalPolicy) -> Manifest:
    """Return the backup to go on from: the newest full one that is good, or the one that is named.

    Raises UnsafeError with the reason when there is none, or when it cannot be gone on from; UsageError for a
    name that is not there.
    """
    if name:
        backup_id = resolve(backups, name)
        chosen = next(backup for backup in backups if backup.id == backup_id)
    else:
        whole = complete_ones(backups)
        good = [each for each in whole if each.manifest is not None and each.manifest.kind == "full"]
        if not good:
            raise UnsafeError("there is no good full backup to go on from", hint=_FULL)
        chosen = good[-1]
    if chosen.status is not Status.COMPLETE or chosen.manifest is None:
        raise UnsafeError(f"backup {chosen.id} is {chosen.status}: {chosen.reason}", hint=_FULL)
    if problem := _why_no_base(chosen.manifest, policy):
        raise UnsafeError(f"no incremental backup upon {chosen.id}: {problem}", hint=_FULL)
    return chosen.manifest


def _why_no_base(base: Manifest, policy: IncrementalPolicy) -> str:
    if base.part:
        return f"it holds only {base.part}"
    if base.origin is None or base.lsn is None:
        return "it was taken by a dbha that did not record what that needs"
    if base.depth >= policy.max_depth:
        return (
            f"it is number {base.depth} of a chain, and `backup.incremental.max_depth` is {policy.max_depth}"
            if base.depth
            else f"`backup.incremental.max_depth` is {policy.max_depth}"
        )
    return ""


def require_descent(base: Manifest, directory: Directory) -> None:
    """Raise UnsafeError unless all that changed since the base was taken is told by LSNs in this data directory."""
    if problem := why_not_upon(base, directory):
        raise UnsafeError(f"no incremental backup upon {base.id}: {problem}", hint=_FULL)


def why_not_upon(base: Manifest, directory: Directory) -> str:
    """Return why an increment upon the base would not hold all that changed; empty when it would."""
    origin, lsn = base.origin, base.lsn
    assert origin is not None
    assert lsn is not None
    if directory.state_uuid != base.cluster_state_uuid:
        return f"the cluster began a new history since then, {directory.state_uuid}"
    if (directory.mark, directory.mark_table) != (origin.mark, origin.mark_table):
        return f"{base.donor} has the data of another node since then, by a state transfer or a restore"
    if directory.lsn < lsn.to_lsn:
        return f"the data of {base.donor} is older than the backup"
    if directory.server_series != series_of(base.server_version):
        return f"{base.donor} runs MariaDB {directory.server_series}, and it is of {base.server_version}"
    if directory.imported:
        return (
            f"{in_words(directory.imported)} was imported since then, by a restore of a service for example"
        )
    return ""
