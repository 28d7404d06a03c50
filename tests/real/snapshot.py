"""What the services of a cloud are on every node, to be compared."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dbha.backup.proof import Checksums
from dbha.database import Session


@dataclass(frozen=True)
class Snapshot:
    """Everything of the services that a command which failed must leave as it was."""

    checksums: Mapping[str, Checksums]  # by node
    heads: Mapping[str, Mapping[str, tuple[str, ...]]]  # by node
    structure: Mapping[str, tuple[tuple[str, str], ...]]  # by node: (table or database, definition)
    releases: Mapping[str, str]
    locked: frozenset[str]


def assert_same(expected: Snapshot, found: Snapshot) -> None:
    """Require two snapshots to be equal, and name the first few differences."""
    for what in ("releases", "locked", "heads", "structure", "checksums"):
        before, after = getattr(expected, what), getattr(found, what)
        assert after == before, f"{what}: {_differences(before, after)[:4]}"


def _differences(before: Any, after: Any) -> list[str]:
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        return [
            f"{key}: {more}"
            for key in sorted({*before, *after})
            if before.get(key) != after.get(key)
            for more in _differences(before.get(key), after.get(key))
        ]
    if isinstance(before, tuple) and isinstance(after, tuple):
        return [f"was {row}" for row in before if row not in after] + [
            f"is {row}" for row in after if row not in before
        ]
    return [f"was {before}, is {after}"]


def part_of(snapshot: Snapshot, databases: tuple[str, ...]) -> object:
    """Return what a snapshot says of some databases on all nodes."""
    return {
        node: (
            {table: sum_ for table, sum_ in tables.items() if table.partition(".")[0] in databases},
            [row for row in snapshot.structure[node] if row[0].partition(".")[0] in databases],
        )
        for node, tables in snapshot.checksums.items()
    }


def structure_of(session: Session, databases: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Return columns, keys, triggers, views and routines of these databases, as this node has them."""
    place = "table_schema IN %s"
    queries = {
        f"SELECT CONCAT(table_schema, '.', table_name), CONCAT_WS(' ', column_name, ordinal_position, column_type,"
        f" is_nullable, column_default, extra) FROM information_schema.columns WHERE {place}",
        "SELECT CONCAT(table_schema, '.', table_name), CONCAT_WS(' ', index_name, seq_in_index, column_name,"
        f" non_unique) FROM information_schema.statistics WHERE {place}",
        f"SELECT CONCAT(table_schema, '.', table_name), CONCAT_WS(' ', constraint_name, constraint_type)"
        f" FROM information_schema.table_constraints WHERE {place}",
        "SELECT CONCAT(trigger_schema, '.', event_object_table), action_statement"
        " FROM information_schema.triggers WHERE trigger_schema IN %s",
        f"SELECT CONCAT(table_schema, '.', table_name), view_definition FROM information_schema.views WHERE {place}",
        "SELECT CONCAT(routine_schema, '.', routine_name), routine_definition"
        " FROM information_schema.routines WHERE routine_schema IN %s",
        "SELECT CONCAT(event_schema, '.', event_name), CONCAT_WS(' ', event_definition, status)"
        " FROM information_schema.events WHERE event_schema IN %s",
    }
    rows = [tuple(map(str, row.values())) for query in queries for row in session.rows(query, [databases])]
    return tuple(sorted((name, text) for name, text in rows))
