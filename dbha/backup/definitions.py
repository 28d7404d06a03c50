"""The structure of databases: what a restore of single tables needs, and a fingerprint to compare nodes with.

Read by SQL, so it is the server's own word and takes about 0.1 s for 300 tables. A fingerprint is equal on all
nodes of a cluster and changes with every change of structure; row counts and AUTO_INCREMENT are not part of it.
"""

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from dbha.backup.manifest import Record, canonical
from dbha.database import Row, Session, identifier
from dbha.errors import UsageError

# Only after the closing parenthesis of the columns: a column's comment may well say AUTO_INCREMENT=7.
_AUTO_INCREMENT = re.compile(r"(?m)^(\) .*?) AUTO_INCREMENT=\d+")
_PLAIN_TABLE = re.compile(r"[0-9A-Za-z_$]+")
_IMPORTABLE = ("BASE TABLE", "InnoDB")


class DatabaseDefinition(Record):
    """One database. `tables` has CREATE TABLE by name; `tablespaces` are file stems like `nova/instances`.

    `unusual` names the tables that cannot be brought back by importing tablespaces, each with the reason.
    """

    charset: str
    collation: str
    tables: dict[str, str]
    tablespaces: tuple[str, ...]
    unusual: tuple[str, ...] = ()
    triggers: dict[str, str] = Field(default_factory=dict)
    views: dict[str, str] = Field(default_factory=dict)
    routines: dict[str, str] = Field(default_factory=dict)
    events: dict[str, str] = Field(default_factory=dict)

    @property
    def beyond_tables(self) -> tuple[str, ...]:
        """What importing tables would lose, in words; empty for every plain OpenStack database."""
        kinds = {"trigger": self.triggers, "view": self.views, "routine": self.routines, "event": self.events}
        return (*self.unusual, *(f"{kind} {name}" for kind, things in kinds.items() for name in things))


class Definitions(Record):
    """The structure of the databases of a backup."""

    schema_version: Literal[1] = Field(default=1, alias="schema")
    databases: dict[str, DatabaseDefinition]

    def fingerprint_of(self, databases: Sequence[str]) -> str:
        """Return what `fingerprint` returns on a server with the same structure.

        Raises UsageError for a database that is not here.
        """
        if unknown := [name for name in databases if name not in self.databases]:
            raise UsageError(f"the backup has no database {', '.join(unknown)}")
        # Tablespaces are left out: their names can change (an index for full text) while the structure does not.
        structure = {
            name: self.databases[name].model_dump(mode="json", exclude={"tablespaces"})
            for name in set(databases)
        }
        return hashlib.sha256(canonical(structure)).hexdigest()


def fingerprint(session: Session, databases: Sequence[str]) -> str:
    """Return a sha256 over columns, keys, constraints, options, triggers, views, routines and events."""
    return read_definitions(session, databases).fingerprint_of(databases)


def change_counters(session: Session) -> dict[str, int]:
    """Return how often this node ran each statement that changes structure, replicated ones included.

    Counters that did not move prove in a few milliseconds that nothing was changed in between; when one did,
    it may have been for another database, so only comparing definitions tells.
    """
    rows = session.rows(
        "SELECT variable_name AS name, variable_value AS count FROM information_schema.global_status"
        " WHERE variable_name RLIKE '^COM_(ALTER|CREATE|DROP|RENAME)_|^COM_TRUNCATE$'"
        " AND variable_name NOT RLIKE '_(USER|ROLE|SERVER|UDF|TEMPORARY_TABLE)$'"
    )
    return {row["name"]: int(row["count"]) for row in rows}


def read_definitions(session: Session, databases: Sequence[str]) -> Definitions:
    """Return the structure of the databases as this node has it. Raises UsageError when one is not there."""
    wanted = sorted(set(databases))
    if not wanted:  # a cluster whose services have no databases yet
        return Definitions(databases={})
    with plain_sql_mode(session):
        names = _names(session, wanted)
        schemata = _schemata(session, wanted)
        return Definitions(
            databases={name: _database(session, name, schemata[name], names) for name in wanted}
        )


def _schemata(session: Session, databases: Sequence[str]) -> dict[str, Row]:
    found = {
        row["name"]: row
        for row in session.rows(
            "SELECT schema_name AS name, default_character_set_name AS charset,"
            " default_collation_name AS collation"
            " FROM information_schema.schemata WHERE schema_name IN %s",
            [databases],
        )
    }
    if missing := [name for name in databases if name not in found]:
        raise UsageError(f"{session.node} has no database {', '.join(missing)}")
    return found


@dataclass(frozen=True, slots=True)
class _Names:
    """What there is in the databases, each by database."""

    tables: Mapping[str, Sequence[Row]]
    triggers: Mapping[str, Sequence[Row]]
    routines: Mapping[str, Sequence[Row]]
    events: Mapping[str, Sequence[Row]]
    tablespaces: Mapping[str, Sequence[str]]


def _names(session: Session, databases: Sequence[str]) -> _Names:
    return _Names(
        tables=_named(session, databases, "tables", "table", "table_type AS type, engine, create_options"),
        triggers=_named(session, databases, "triggers", "trigger", "'TRIGGER' AS type"),
        routines=_named(session, databases, "routines", "routine", "routine_type AS type"),
        events=_named(session, databases, "events", "event", "'EVENT' AS type"),
        tablespaces=tablespaces(session),
    )


def _database(session: Session, name: str, schema: Row, names: _Names) -> DatabaseDefinition:
    tables = _created(session, "TABLE", name, [row for row in names.tables[name] if row["type"] != "VIEW"])
    return DatabaseDefinition(
        charset=schema["charset"],
        collation=schema["collation"],
        tables=tables,
        tablespaces=tuple(names.tablespaces[name]),
        unusual=tuple(
            f"table {row['name']} ({reason})"
            for row in names.tables[name]
            if (reason := _why_unusual(row, tables))
        ),
        triggers=_created(session, "TRIGGER", name, names.triggers[name]),
        views=_created(session, "VIEW", name, [row for row in names.tables[name] if row["type"] == "VIEW"]),
        routines={
            f"{row['type'].lower()} {row['name']}": _created_one(session, row["type"], name, row["name"])
            for row in names.routines[name]
        },
        events=_created(session, "EVENT", name, names.events[name]),
    )


def _why_unusual(row: Row, tables: Mapping[str, str]) -> str:
    """Return why a table cannot be imported by its files; empty for one that can, and for views."""
    if row["type"] == "VIEW":
        return ""
    if (row["type"], row["engine"]) != _IMPORTABLE:
        return f"{row['type'].lower()}, {row['engine']}"
    if "partitioned" in (row["create_options"] or ""):
        return "partitioned"
    if "FULLTEXT KEY" in tables[row["name"]]:
        return "index for full text"
    if not _PLAIN_TABLE.fullmatch(row["name"]) or "$" in row["name"]:
        return "its files have another name"
    return ""


def _named(
    session: Session, databases: Sequence[str], view: str, kind: str, more: str
) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = defaultdict(list)
    for row in session.rows(
        f"SELECT {kind}_schema AS db, {kind}_name AS name, {more}"
        f" FROM information_schema.{view} WHERE {kind}_schema IN %s ORDER BY 1, 2",
        [databases],
    ):
        found[row["db"]].append(row)
    return found


def tablespaces(session: Session) -> dict[str, list[str]]:
    """Return the file stems of all tables with a file of their own, by database, from InnoDB's dictionary.

    The list of open tablespaces would be shorter: a server need not have opened every table since it started.
    """
    found: dict[str, list[str]] = defaultdict(list)
    for name in session.column(
        "SELECT name FROM information_schema.innodb_sys_tables WHERE space <> 0 ORDER BY name"
    ):
        database, _, stem = name.partition("/")
        if stem and not stem.startswith("FTS_"):
            found[database].append(name)
    return found


def _created(session: Session, kind: str, database: str, rows: Sequence[Row]) -> dict[str, str]:
    return {row["name"]: _created_one(session, kind, database, row["name"]) for row in rows}


def _created_one(session: Session, kind: str, database: str, name: str) -> str:
    sql = f"SHOW CREATE {kind} {identifier(database)}.{identifier(name)}"
    found = session.rows(sql)[0]
    text = next(
        value
        for column, value in found.items()
        if column.startswith("Create ") or column == "SQL Original Statement"
    )
    return without_counter(str(text)) if kind == "TABLE" else str(text)


def without_counter(create_table: str) -> str:
    """Return CREATE TABLE without its AUTO_INCREMENT value, which every insert moves.

    An imported tablespace brings its own counter; a recreated empty table starts at 1.
    """
    return _AUTO_INCREMENT.sub(r"\1", create_table)


@contextmanager
def plain_sql_mode(session: Session) -> Iterator[None]:
    """Make SHOW CREATE speak the same on every node, whatever `sql_mode` it is set to."""
    before = session.rows("SELECT @@SESSION.sql_mode AS mode, @@SESSION.sql_quote_show_create AS quote")[0]
    session.execute("SET SESSION sql_mode = '', sql_quote_show_create = 1")
    try:
        yield
    finally:
        session.execute(
            "SET SESSION sql_mode = %s, sql_quote_show_create = %s", [before["mode"], before["quote"]]
        )
