"""What an operator is told of a run that failed and put everything back."""

from dbha.errors import DbhaError, UnsafeError, UpgradeRolledBackError

_INTERRUPTED = (130, 143)


def gone_back(
    failure: DbhaError, what: str, again: str, *, noticed: bool, unnoticed: str = UnsafeError.unchanged
) -> DbhaError:
    """Return the failure as it is told: with exit code 7 once anybody could have `noticed` the run.

    `what` failed, in words; `again` is the command for the same once more; `unnoticed` says how things are where
    nobody could notice.
    """
    hint = f"dbha runs show latest     what failed, step by step\n{again}     once the cause is gone"
    if failure.exit_code in _INTERRUPTED:
        failure.unchanged = failure.unchanged or (UpgradeRolledBackError.unchanged if noticed else unnoticed)
        return failure
    if noticed:
        return UpgradeRolledBackError(f"{what} failed: {failure}", hint=hint)
    failure.unchanged, failure.hint = failure.unchanged or unnoticed, failure.hint or hint
    return failure
