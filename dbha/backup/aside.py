"""Move a service's tables aside into databases of their own, and back; nothing is ever copied or lost.

Renaming keeps rows, indexes and foreign keys (InnoDB rewrites the references). It is done a few tables at a time:
each statement holds up writers of the whole cluster while it runs.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence

from dbha.backup.definitions import DatabaseDefinition, read_definitions
from dbha.database import Session, SqlError, identifier, literal

_MOVED_PER_STATEMENT = 8
_DROPPED_PER_STATEMENT = 4
_HAS_OTHERS = (
    "SELECT 1 FROM information_schema.tables WHERE table_schema = %s AND table_type = 'VIEW'"
    " UNION ALL SELECT 1 FROM information_schema.routines WHERE routine_schema = %s"
    " UNION ALL SELECT 1 FROM information_schema.events WHERE event_schema = %s LIMIT 1"
)
_LONGEST_NAME = 64  # MariaDB manual, "Identifier Names", maximum length


def aside_name(run_id: str, database: str) -> str:
    """Return the name of the database that keeps the tables which run `run_id` moved out of `database`."""
    name = f"dbha_aside_{run_id.lower().replace('-', '_')}_{database}"
    if len(name) <= _LONGEST_NAME:
        return name
    digest = hashlib.sha256(database.encode()).hexdigest()[:8]  # two long names may begin alike
    return f"{name[: _LONGEST_NAME - 9]}_{digest}"


def asides_in(session: Session) -> list[str]:
    """Return the databases with tables moved aside that are there now."""
    return session.column(
        "SELECT schema_name FROM information_schema.schemata WHERE schema_name LIKE 'dbha\\_aside\\_%'"
    )


def tables_of(session: Session, database: str) -> list[str]:
    """Return the names of the base tables of a database, in order."""
    return session.column(
        "SELECT table_name FROM information_schema.tables"
        " WHERE table_schema = %s AND table_type = 'BASE TABLE' ORDER BY table_name",
        [database],
    )


def move_tables(session: Session, source: str, target: str, *, guard: Callable[[], None]) -> int:
    """Move every table of `source` that is not yet in `target`; return how many are in `target` then.

    Triggers of the moved tables are dropped first, because a table with one cannot change its database; their
    text is in the backup's definitions. Can be repeated after it was cut off anywhere.
    """
    session.execute(f"CREATE DATABASE IF NOT EXISTS {identifier(target)}")
    _drop_triggers(session, source, guard)
    session.execute("SET SESSION foreign_key_checks = 0")
    for chunk in _chunks(tables_of(session, source), _MOVED_PER_STATEMENT):
        guard()
        moves = ", ".join(
            f"{identifier(source)}.{identifier(table)} TO {identifier(target)}.{identifier(table)}"
            for table in chunk
        )
        session.execute(f"RENAME TABLE {moves}")
    return len(tables_of(session, target))


def bring_back(
    session: Session, aside: str, database: str, triggers: Mapping[str, str], *, guard: Callable[[], None]
) -> None:
    """Undo `move_tables`: each table in `aside` replaces the one in `database`, and the aside database goes.

    A table that is not aside, because it was not moved yet or is back already, stays as it is. So this can be
    repeated after it was cut off anywhere.
    """
    session.execute("SET SESSION foreign_key_checks = 0")
    for table in tables_of(session, aside):
        guard()
        old, new = f"{identifier(aside)}.{identifier(table)}", f"{identifier(database)}.{identifier(table)}"
        session.execute(f"DROP TABLE IF EXISTS {new}")
        session.execute(f"RENAME TABLE {old} TO {new}")
    session.execute(f"USE {identifier(database)}")
    for name, create in triggers.items():
        session.execute(f"DROP TRIGGER IF EXISTS {identifier(name)}")
        session.execute(create)
    session.execute(f"DROP DATABASE IF EXISTS {identifier(aside)}")


def charset_of(session: Session, database: str) -> list[str]:
    """Return the character set and the collation of a database; the server's own where there is none."""
    rows = session.rows(
        "SELECT default_character_set_name AS charset, default_collation_name AS collation"
        " FROM information_schema.schemata WHERE schema_name = %s",
        [database],
    )
    if not rows:
        return ["utf8mb4", "utf8mb4_general_ci"]
    return [rows[0]["charset"], rows[0]["collation"]]


def triggers_of(session: Session, database: str) -> dict[str, str]:
    """Return CREATE TRIGGER of every trigger of a database, by name."""
    names = session.column(
        "SELECT trigger_name FROM information_schema.triggers WHERE trigger_schema = %s", [database]
    )
    return {
        name: session.rows(f"SHOW CREATE TRIGGER {identifier(database)}.{identifier(name)}")[0][
            "SQL Original Statement"
        ]
        for name in names
    }


def others_of(session: Session, database: str) -> dict[str, str]:
    """Return CREATE of every view, routine and event of a database, by `KIND name`: these cannot be moved aside."""
    if not session.value(
        _HAS_OTHERS, [database] * 3
    ):  # as with OpenStack's own; reading all definitions takes longer
        return {}
    return others_in(read_definitions(session, [database]).databases[database])


def others_in(known: DatabaseDefinition) -> dict[str, str]:
    """Return what `others_of` returns for a database with this definition."""
    named = {
        **{f"VIEW {name}": create for name, create in known.views.items()},
        **{f"EVENT {name}": create for name, create in known.events.items()},
    }
    for kind, _, name in (routine.partition(" ") for routine in known.routines):
        named[f"{kind.upper()} {name}"] = known.routines[f"{kind} {name}"]
    return named


def drop_others(session: Session, database: str, others: Iterable[str], *, guard: Callable[[], None]) -> None:
    """Drop views, routines and events, named as `others_of` names them."""
    for kind, _, name in (other.partition(" ") for other in others):
        guard()
        session.execute(f"DROP {kind} IF EXISTS {identifier(database)}.{identifier(name)}")


def bring_others_back(
    session: Session, database: str, others: Mapping[str, str], *, guard: Callable[[], None]
) -> None:
    """Make views, routines and events again, once all tables are back. Can be repeated.

    A view may need one that comes later, so what fails is tried again while anything else succeeds.
    """
    if not others:
        return
    drop_others(session, database, others, guard=guard)
    session.execute(f"USE {identifier(database)}")
    left = list(others)
    while left:
        failed = {name: error for name in left if (error := _try(session, others[name]))}
        if len(failed) == len(left):
            raise next(iter(failed.values()))
        left = list(failed)


def _try(session: Session, statement: str) -> SqlError | None:
    try:
        session.execute(statement)
    except SqlError as error:
        return error
    return None


def drop_tables(session: Session, database: str, tables: Iterable[str], *, guard: Callable[[], None]) -> None:
    """Drop the tables, on every node, whether or not the session's own node has them."""
    session.execute("SET SESSION foreign_key_checks = 0")
    for chunk in _chunks(sorted(tables), _DROPPED_PER_STATEMENT):
        guard()
        names = ", ".join(f"{identifier(database)}.{identifier(table)}" for table in chunk)
        session.execute(f"DROP TABLE IF EXISTS {names}")


def drop_tables_and_database(session: Session, database: str, *, guard: Callable[[], None]) -> None:
    """Drop a database a few tables at a time, so that no single statement holds up the cluster for long."""
    drop_tables(session, database, tables_of(session, database), guard=guard)
    guard()
    session.execute(f"DROP DATABASE IF EXISTS {identifier(database)}")


def create_database(session: Session, database: str, charset: str, collation: str) -> None:
    """Make sure the database exists with this character set and collation."""
    options = f"CHARACTER SET {literal(charset)} COLLATE {literal(collation)}"
    session.execute(f"CREATE DATABASE IF NOT EXISTS {identifier(database)} {options}")
    session.execute(f"ALTER DATABASE {identifier(database)} {options}")


def _drop_triggers(session: Session, database: str, guard: Callable[[], None]) -> None:
    for trigger in triggers_of(session, database):
        guard()
        session.execute(f"DROP TRIGGER IF EXISTS {identifier(database)}.{identifier(trigger)}")


def _chunks(names: Sequence[str], size: int) -> Iterable[Sequence[str]]:
    return (names[start : start + size] for start in range(0, len(names), size))
