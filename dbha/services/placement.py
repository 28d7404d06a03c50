"""placement."""

from dbha.services.model import (
    MIGRATION_EXITS,
    SYNC_EXITS,
    Connection,
    Database,
    ExitTable,
    NativeCommand,
    Schema,
    Service,
    SyncMethod,
)


def _command(title: str, *arguments: str, table: ExitTable = SYNC_EXITS) -> NativeCommand:
    connections = (Connection("placement_database", "placement"),)
    return NativeCommand(title, "placement-manage", ("db", *arguments), connections, table)


PLACEMENT = Service(
    name="placement",
    distribution="openstack-placement",
    databases=(Database("placement", Schema("placement", "placement", "db/sqlalchemy/alembic.ini")),),
    account="placement",
    sync={SyncMethod.OFFLINE: ((_command("sync placement", "sync"),),)},
    online_migrations=_command(
        "migrate data of placement", "online_data_migrations", "--max-count", "1000", table=MIGRATION_EXITS
    ),
)
