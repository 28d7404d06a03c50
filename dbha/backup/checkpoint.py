"""Make the redo log forget imports: what mariadb-backup makes of a log that tells of one is not a backup."""

from dbha.database import Session, SqlError

UNKNOWN_VARIABLE = 1193


def checkpoint(session: Session) -> None:
    """Ask InnoDB of the session's node for a checkpoint, so that a copy starts from a log without older changes.

    Without it a table that was imported since the last checkpoint is silently left out of a backup, and of a state
    transfer, that says "completed OK!": its DISCARD is in the log as a deleted file, its IMPORT is not in the log
    at all (compare MDEV-29208).
    """
    try:
        session.execute("SET GLOBAL innodb_log_checkpoint_now = ON")
    except SqlError as error:
        if (
            error.code != UNKNOWN_VARIABLE
        ):  # an older server; dbha's own backups notice files left out in any case
            raise
