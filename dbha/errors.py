"""What can go wrong that an operator can act on; each class carries the exit code of design section 5.

Raise the class whose promise about changes is true. A message says what happened, `unchanged` what was left
as it was, `hint` the next command to type. Anything that is not a `DbhaError` is a bug and exits 70.
"""

from collections.abc import Sequence


class DbhaError(Exception):
    """An error with an exit code, a statement of what stayed unchanged, and a next step."""

    exit_code = 1
    unchanged = ""

    def __init__(self, message: str, *, hint: str = "", unchanged: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint
        if unchanged is not None:
            self.unchanged = unchanged


class BugError(DbhaError):
    """Something that dbha did not expect, met in the middle of a run."""

    exit_code = 70


class FoundWrongError(DbhaError):
    """A check looked and found something wrong; it changed nothing."""

    exit_code = 1
    unchanged = "nothing was changed"


class UsageError(DbhaError):
    """The arguments make no sense together."""

    exit_code = 2
    unchanged = "nothing was changed"


class ConfigurationError(DbhaError):
    """The configuration or inventory is wrong; `problems` has every mistake, each with its path."""

    exit_code = 3
    unchanged = "nothing was changed"

    def __init__(self, source: str, problems: Sequence[str], *, hint: str = "") -> None:
        super().__init__(f"{source} has {len(problems)} mistake(s)", hint=hint)
        self.problems = tuple(problems)


class UnsafeError(DbhaError):
    """A check refused to go on before anything was changed."""

    exit_code = 4
    unchanged = "nothing was changed"


class UnreachableError(DbhaError):
    """A node, host or tool that is needed could not be reached or found, before any change."""

    exit_code = 5
    unchanged = "nothing was changed"


class KeyMissingError(UnreachableError):
    """A backup is encrypted, and no identity here opens it. That is no fault of the backup."""


class BackupFailedError(DbhaError):
    """No good backup was made; older backups are as they were."""

    exit_code = 6
    unchanged = "no schema was changed, and older backups are as they were"


class UpgradeRolledBackError(DbhaError):
    """The upgrade failed and everything it had changed was put back."""

    exit_code = 7
    unchanged = "everything was put back as it was before the run"


class RestoreFailedError(DbhaError):
    """A restore failed; a human is needed. The message names the runbook and where the old data lies."""

    exit_code = 8


class NotRecoveredError(DbhaError):
    """A recovery of the cluster began and did not come to its end; a human is needed."""

    exit_code = 8
    unchanged = "no data was removed: what was moved aside is kept, and servers that were started go on"


class BusyError(DbhaError):
    """Another run holds the cluster; the message names it."""

    exit_code = 9
    unchanged = "nothing was changed"


class InterruptedRunError(DbhaError):
    """An earlier run was interrupted and must be resumed or abandoned first; the message names it."""

    exit_code = 10
    unchanged = "nothing was changed by this command"


class LeaseLostError(DbhaError):
    """Another controller took the cluster over; this one must not act any more."""

    exit_code = 9
    unchanged = "this controller stopped at once; the other one carries the run on"
