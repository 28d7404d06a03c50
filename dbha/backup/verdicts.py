"""Put a new verdict on a backup beside the earlier ones, so that none hides what another one found."""

from dbha.backup.levels import remembered, standing
from dbha.backup.manifest import BackupId, Verdict, Verification
from dbha.backup.store import Store


def record_verdict(store: Store, backup_id: BackupId, verdict: Verdict) -> Verification:
    """Keep a verdict in the store, and return how the backup stands with it."""
    earlier = next((each.verification for each in store.list() if each.id == backup_id), None)
    stands = with_verdict(earlier, backup_id, verdict)
    store.record_verification(stands)
    return stands


def with_verdict(earlier: Verification | None, backup_id: BackupId, verdict: Verdict) -> Verification:
    """Return the record of a backup once more was found out about it."""
    history = remembered((*(earlier.verdicts if earlier else ()), verdict))
    counts = standing(history)
    return Verification(backup=backup_id, history=history, **counts.model_dump())
