"""keystone."""

from dbha.services.model import (
    SYNC_EXITS,
    Connection,
    Database,
    ExitTable,
    NativeCommand,
    Schema,
    Service,
    SyncMethod,
    exits,
    failed,
    more,
)

# keystone's code lists the directories of migrations it applies, and only that list tells its heads: 28.0.0 ships
# a directory that is not on it and that no sync ever applies.
_SCHEMA = Schema(
    "keystone",
    "keystone",
    "common/sql/alembic.ini",
    config_function="keystone.common.sql.upgrades:_find_alembic_conf",
)

_CHECK_EXITS = exits(
    "the schema is current",
    {
        1: failed("the state could not be told; a schema newer than this code ends like this too"),
        2: more("`db_sync --expand` is due, or the database is empty"),
        3: more("`db_sync --migrate` is due"),
        4: more("`db_sync --contract` is due"),
    },
)


# Up to 2026.1 keystone gives the URL to configparser as it is, to which a percent sign is a mistake.
_CONNECTION = Connection("database", "keystone", password_apart=True)


def _command(title: str, *options: str, table: ExitTable = SYNC_EXITS) -> NativeCommand:
    return NativeCommand(title, "keystone-manage", ("db_sync", *options), (_CONNECTION,), table)


KEYSTONE = Service(
    name="keystone",
    distribution="keystone",
    databases=(Database("keystone", _SCHEMA),),
    account="keystone",
    sync={
        SyncMethod.OFFLINE: ((_command("sync keystone"),),),
        SyncMethod.PHASES: (
            (_command("expand keystone", "--expand"),),
            (_command("migrate keystone", "--migrate"),),
            (_command("contract keystone", "--contract"),),
        ),
    },
    check=_command("check keystone", "--check", table=_CHECK_EXITS),
)
