"""dbha's own database in the cluster: what must be known wherever dbha runs, and travels with the data."""

import uuid

from dbha.database import Session, SqlError

DATABASE = "dbha"

MISSING = (1049, 1146)  # no such database, no such table
_TABLES = {
    "timeline": """
        singleton TINYINT NOT NULL PRIMARY KEY DEFAULT 1 CHECK (singleton = 1),
        identity CHAR(36) NOT NULL,
        reason VARCHAR(200) NOT NULL,
        created DATETIME(6) NOT NULL""",
    # Those that the data came through before: told from a fork by who is whose descendant.
    "timeline_past": """
        identity CHAR(36) NOT NULL PRIMARY KEY,
        reason VARCHAR(200) NOT NULL,
        created DATETIME(6) NOT NULL""",
    "lease": """
        name VARCHAR(64) NOT NULL PRIMARY KEY,
        token BIGINT UNSIGNED NOT NULL,
        holder VARCHAR(255) NOT NULL DEFAULT '',
        run_id VARCHAR(64),
        workflow VARCHAR(64) NOT NULL DEFAULT '',
        acquired_at DATETIME(6),
        expires_at DATETIME(6)""",
    "desync": """
        node VARCHAR(64) NOT NULL PRIMARY KEY,
        run_id VARCHAR(64) NOT NULL,
        member VARCHAR(64) NOT NULL,
        since DATETIME(6) NOT NULL""",
    "service_release": """
        service VARCHAR(64) NOT NULL PRIMARY KEY,
        `release` VARCHAR(32) NOT NULL,
        recorded_at DATETIME(6) NOT NULL,
        run_id VARCHAR(64) NOT NULL""",
    # Its rows are never replicated: each tells of the data directory that it is in (backup/lineage.py).
    "data_directory_mark": """
        backup VARCHAR(64) NOT NULL PRIMARY KEY,
        mark CHAR(36) NOT NULL""",
}


def ensure_home(session: Session) -> None:
    """Create what is missing of dbha's database; does nothing where all of it is there.

    It looks first because even CREATE ... IF NOT EXISTS is replicated in total order and stops every write of
    the cluster for its time.
    """
    found = session.column(
        "SELECT table_name FROM information_schema.tables WHERE table_schema = %s", [DATABASE]
    )
    missing = [name for name in _TABLES if name not in found]
    if missing:
        session.execute(f"CREATE DATABASE IF NOT EXISTS {DATABASE} CHARACTER SET utf8mb4")
    for name in missing:
        session.execute(f"CREATE TABLE IF NOT EXISTS {DATABASE}.{name} ({_TABLES[name]}) ENGINE=InnoDB")


def current_timeline(session: Session) -> str | None:
    """Return the identity of the cluster's present history, None where dbha has not given it one."""
    try:
        found: str | None = session.value(f"SELECT identity FROM {DATABASE}.timeline")
    except SqlError as error:
        if error.code in MISSING:
            return None
        raise
    return found


def timeline_chain(session: Session) -> tuple[str, ...]:
    """Return all identities that the cluster's data came through, the oldest first; empty without a home."""
    present = current_timeline(session)
    if present is None:
        return ()
    try:
        past = session.column(f"SELECT identity FROM {DATABASE}.timeline_past ORDER BY created")
    except SqlError as error:
        if error.code not in MISSING:
            raise
        past = []
    return (*(each for each in past if each != present), present)


def begin_timeline(session: Session, reason: str, *, identity: str = "") -> str:
    """Give the cluster a new identity and return it: from here on its data is another history.

    With an `identity` that was decided before it can be repeated. `ensure_home` first.
    """
    identity = identity or str(uuid.uuid4())
    session.execute(
        f"INSERT IGNORE INTO {DATABASE}.timeline_past (identity, reason, created)"
        f" SELECT identity, reason, created FROM {DATABASE}.timeline WHERE identity <> %s",
        [identity],
    )
    session.execute(
        f"REPLACE INTO {DATABASE}.timeline (identity, reason, created) VALUES (%s, %s, UTC_TIMESTAMP(6))",
        [identity, reason[:200]],
    )
    return identity


def recorded_releases(session: Session) -> dict[str, str]:
    """Return the release of each service that dbha has upgraded or taken note of; empty without a home."""
    try:
        rows = session.rows(f"SELECT service, `release` FROM {DATABASE}.service_release")
    except SqlError as error:
        if error.code in MISSING:
            return {}
        raise
    return {row["service"]: row["release"] for row in rows}


def record_release(session: Session, service: str, release: str, run_id: str) -> None:
    """Write down which release a service's schema is at, and the run that brought it there."""
    session.execute(
        f"REPLACE INTO {DATABASE}.service_release (service, `release`, recorded_at, run_id)"
        " VALUES (%s, %s, UTC_TIMESTAMP(6), %s)",
        [service, release, run_id],
    )
