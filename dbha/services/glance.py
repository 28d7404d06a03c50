"""glance."""

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

_CHECK_EXITS = exits(
    "the schema is current",
    {
        1: failed("the state could not be told"),
        3: more("`db expand` is due, or the database is empty"),
        4: more("`db migrate` is due"),
        5: more("`db contract` is due"),
    },
)


def _command(title: str, verb: str, table: ExitTable = SYNC_EXITS) -> NativeCommand:
    return NativeCommand(title, "glance-manage", ("db", verb), (Connection("database", "glance"),), table)


GLANCE = Service(
    name="glance",
    distribution="glance",
    databases=(
        Database("glance", Schema("glance", "glance", "db/sqlalchemy/alembic_migrations/alembic.ini")),
    ),
    account="glance",
    sync={
        SyncMethod.OFFLINE: ((_command("sync glance", "sync"),),),
        # On an old or empty schema `db expand` creates triggers. Where the binary log is on and the account has
        # no SUPER that is error 1419, and leaves a schema that no retry can repair.
        SyncMethod.PHASES: (
            (_command("expand glance", "expand"),),
            (_command("migrate glance", "migrate"),),
            (_command("contract glance", "contract"),),
        ),
    },
    check=_command("check glance", "check", table=_CHECK_EXITS),
)
