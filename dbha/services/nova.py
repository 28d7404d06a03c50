"""nova: nova_api, nova_cell0 and the cells' databases are one consistency group.

The cells are synced one by one with `--local_cell`. A plain `nova-manage db sync` finds cell0 through the URL
stored in nova_api.cell_mappings, which fails while the service's own account is locked, and it exits 0 when
that mapping is missing and cell0 was not synced at all.
"""

from collections.abc import Collection, Sequence
from dataclasses import replace

from dbha.services.model import (
    BAD_ARGUMENTS,
    HALF_APPLIED,
    MIGRATION_EXITS,
    Connection,
    Database,
    ExitTable,
    Meaning,
    NativeCommand,
    Outcome,
    Schema,
    Service,
    SyncMethod,
    exits,
    failed,
)

_API = Database("nova_api", Schema("nova_api", "nova", "db/api/alembic.ini"))
_MAIN = Schema("nova", "nova", "db/main/alembic.ini")
_CELL0 = Database("nova_cell0", _MAIN, cell="cell0")

# Each nova process fills these templates from its own configuration, so no password is stored in nova_api.
# cell0 has the transport `none:///`; a second cell with that one would be refused as a double.
_DATABASE_TEMPLATE = "{{scheme}}://{{username}}:{{password}}@{{hostname}}:{{port}}/{database}?{{query}}"
TRANSPORT_TEMPLATE = "{scheme}://{username}:{password}@{hostname}:{port}/{path}?{query}"

# The tool fills the template in and checks the result, and connects to nothing: any complete URL will do.
_ANY_TRANSPORT = (("DEFAULT", "transport_url", "rabbit://nobody:nothing@localhost:5672/"),)

_SYNC_EXITS = exits(
    "the schema is synced",
    {
        # Without --local_cell only; the tool then blames cell0's URL whatever the reason was.
        1: failed(f"cell0 could not be read or synced, whatever is said about its URL; {HALF_APPLIED}"),
        2: BAD_ARGUMENTS,
        255: failed(f"the sync stopped with an error (old code on a newer schema, too); {HALF_APPLIED}"),
    },
)
_MAP_CELL0_EXITS = exits("cell0 is mapped, now or already", {255: failed("cell0 could not be mapped")})
_CREATE_CELL_EXITS = exits(
    "the cell is mapped",
    {
        1: failed("a database or transport URL is missing or malformed; nothing was changed"),
        2: Meaning(Outcome.ALREADY, "a cell with this transport or database URL is mapped already"),
        255: failed("the cell could not be mapped"),
    },
)


def _command(
    title: str, arguments: Sequence[str], table: ExitTable, *, api: bool, cell: str = ""
) -> NativeCommand:
    connections = [Connection("api_database", _API.name)] if api else []
    connections += [Connection("database", cell)] if cell else []
    return NativeCommand(title, "nova-manage", tuple(arguments), tuple(connections), table)


def _sync_cell(database: Database) -> NativeCommand:
    arguments = ("db", "sync", "--local_cell")
    return _command(f"sync {database.name}", arguments, _SYNC_EXITS, api=False, cell=database.name)


def nova(cell_databases: Sequence[str] = ("nova",)) -> Service:
    """Return nova with one database for each cell; they are cell1, cell2 and so on in the order given."""
    cells = [Database(name, _MAIN, cell=f"cell{n}") for n, name in enumerate(cell_databases, start=1)]
    sync_api = _command("sync nova_api", ("api_db", "sync"), _SYNC_EXITS, api=True)
    sync_cells = tuple(_sync_cell(database) for database in (_CELL0, *cells))
    return Service(
        name="nova",
        distribution="nova",
        databases=(_API, _CELL0, *cells),
        account="nova",
        sync={SyncMethod.OFFLINE: ((sync_api,), sync_cells)},
        online_migrations=_command(
            "migrate data of nova",
            ("db", "online_data_migrations", "--max-count", "1000"),
            MIGRATION_EXITS,
            api=True,
            cell=cells[0].name,
        ),
    )


NOVA = nova()


def cell_mapping_commands(
    service: Service, missing: Collection[str], *, transport_template: str = TRANSPORT_TEMPLATE
) -> tuple[NativeCommand, ...]:
    """Return the commands that map the databases in `missing` as cells, to run one after another.

    `missing` names the databases that nova_api.cell_mappings does not mention; look there before every run, for
    the tool does not see that a template is mapped already and maps it a second time. nova_api must be synced.
    Any other service needs no such commands.
    """
    unmapped = (database for database in service.databases if database.cell and database.name in missing)
    return tuple(_map_cell(database, transport_template) for database in unmapped)


def _map_cell(database: Database, transport_template: str) -> NativeCommand:
    url = ("--database_connection", _DATABASE_TEMPLATE.format(database=database.name))
    title = f"map {database.name} as {database.cell}"
    if database.cell == _CELL0.cell:
        arguments: tuple[str, ...] = ("cell_v2", "map_cell0", *url)
        return _command(title, arguments, _MAP_CELL0_EXITS, api=True, cell=database.name)
    transport = ("--transport-url", transport_template)
    arguments = ("cell_v2", "create_cell", "--name", database.cell, *url, *transport)
    command = _command(title, arguments, _CREATE_CELL_EXITS, api=True, cell=database.name)
    return replace(command, options=_ANY_TRANSPORT)
