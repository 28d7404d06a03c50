"""What is in the databases before a load: the schemas, nova's cells, and how much of the cloud there is already."""

import re
from collections.abc import Collection, Mapping

from dbha.database import Session, identifier
from dbha.errors import UnsafeError
from dbha.sandbox.cloud.rules import Rules
from dbha.sandbox.cloud.statements import Target, expanded

_CELL0_UUID = "00000000-0000-0000-0000-000000000000"
_SYNC_HINT = "dbha sync"

# Services can be restored one by one, to times of their own: (database, table, column, what each block brings).
_PROBES = (
    ("keystone", "project", "id", "domain"),
    ("glance", "images", "id", "image"),
    ("placement", "resource_providers", "uuid", "host"),
)


def inspect_target(session: Session, rules: Rules, databases: Mapping[str, str]) -> Target:
    """Return what must be known of the databases. Raises UnsafeError that names what is missing."""
    found = session.rows(
        "SELECT table_schema AS `schema`, table_name AS `table`, column_name AS `column`"
        " FROM information_schema.columns WHERE table_schema IN %s",
        [tuple(databases.values())],
    )
    roles = {name: role for role, name in databases.items()}
    columns: dict[tuple[str, str], set[str]] = {}
    for row in found:
        columns.setdefault((roles[row["schema"]], row["table"]), set()).add(row["column"])
    missing = missing_parts(rules, columns)
    if missing:
        raise UnsafeError(f"the schemas are not there: {_few(missing)} missing", hint=_SYNC_HINT)
    cell_id, cell0_id = _cells(session, databases)
    return Target(databases, cell_id, cell0_id, columns)


def missing_parts(rules: Rules, columns: Mapping[tuple[str, str], Collection[str]]) -> list[str]:
    """Return the databases, tables and columns that the rules need and `columns` lacks, each named once."""
    missing: dict[str, None] = {}
    there = {database for database, _ in columns}
    for table in rules.tables:
        if table.database not in there:
            missing[table.database] = None
        elif (table.database, table.name) not in columns:
            missing[f"{table.database}.{table.name}"] = None
        else:
            needed = table.columns.keys() - table.optional - set(columns[table.database, table.name])
            missing |= {f"{table.database}.{table.name}.{name}": None for name in sorted(needed)}
    return list(missing)


def cell_database(url: str) -> str:
    """Return the database that a cell mapping's connection URL, or template of one, points to."""
    found = re.search(r"/([^/?]*)(\?.*)?$", url)
    return found[1] if found else ""


def count_servers(session: Session, databases: Mapping[str, str]) -> int:
    """Return how many servers of the cloud nova has. Raises UnsafeError when it has others as well."""
    instances = f"{identifier(databases['nova'])}.instances"
    own = f"SUM(uuid = {expanded('UUID_OF(server, id)')})"
    found = session.rows(f"SELECT COUNT(*) AS n, MAX(id) AS last, {own} AS own FROM {instances}")[0]
    servers = int(found["n"])
    if servers and not servers == found["last"] == found["own"]:
        raise UnsafeError(
            f"{databases['nova']} has {servers} server(s), and not all of them are a synthetic cloud's",
            hint="use a new sandbox: dbha sandbox down, dbha sandbox up, dbha sync, dbha sandbox load",
        )
    return servers


def count_complete(session: Session, rules: Rules, databases: Mapping[str, str], servers: int) -> int:
    """Return how many of nova's first `servers` servers the other services know, in whole blocks if not all."""
    blocks = -(-servers // rules.block_servers)
    complete = servers
    for role, table, column, thing in _PROBES if blocks else ():
        database = identifier(databases[role])
        first_of_block = f"(seq - 1) * {rules.sources[thing].per_block} + 1"
        numbers = f"SELECT {first_of_block} AS n FROM {database}.seq_1_to_{blocks}"
        ids = f"SELECT {expanded(rules.sources[thing].columns[column])} FROM ({numbers}) AS blocks"
        found = session.value(f"SELECT COUNT(*) FROM {database}.{table} WHERE {column} IN ({ids})")
        complete = min(complete, found * rules.block_servers)
    return complete


def _cells(session: Session, databases: Mapping[str, str]) -> tuple[int, int]:
    rows = session.rows(
        f"SELECT id, uuid, database_connection AS url FROM {identifier(databases['nova_api'])}.cell_mappings"
    )
    cell0 = [row["id"] for row in rows if row["uuid"] == _CELL0_UUID]
    cells = [row["id"] for row in rows if cell_database(row["url"]) == databases["nova"]]
    if not cell0 or not cells:
        raise UnsafeError(f"nova_api maps no cell to {databases['nova']}", hint=_SYNC_HINT)
    return cells[0], cell0[0]


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more are" if len(names) > 3 else " is")
