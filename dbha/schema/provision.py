"""Databases, accounts and grants of the services; a second run changes nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dbha.cluster.fence import ServiceAccount, accounts_writing_to
from dbha.cluster.handle import Cluster
from dbha.database import AccessDeniedError, Account, Session, connect, identified_by, identifier, literal
from dbha.inventory import Node
from dbha.secrets import Secret
from dbha.services import Database, Service

# Rows only: the schema is changed by the migration account, and only while it exists.
_DATA_RIGHTS = "SELECT, INSERT, UPDATE, DELETE, CREATE TEMPORARY TABLES"
_ANYWHERE = "%"


@dataclass(frozen=True, slots=True)
class Provisioned:
    """What was missing or different, and is no more."""

    databases: tuple[str, ...]
    accounts: tuple[str, ...]


def provision(
    cluster: Cluster, node: Node, services: Sequence[Service], passwords: Mapping[str, Secret]
) -> Provisioned:
    """Make the databases and accounts of the services, through `node`; return what was changed.

    An account that is there keeps everything but its password and its rights on the service's databases. One
    that is locked keeps its lock.
    """
    databases: list[str] = []
    accounts: list[str] = []
    with cluster.session(node) as session:
        for service in services:
            databases += [each.name for each in service.databases if _make_database(session, each)]
            if _make_account(cluster, session, service, passwords[service.name]):
                accounts.append(service.account)
    return Provisioned(tuple(databases), tuple(accounts))


def grant_pattern(database: str) -> str:
    """Return the database as GRANT wants it: `_` and `%` are wildcards there (MariaDB manual, GRANT)."""
    return identifier(database.replace("\\", "\\\\").replace("_", "\\_").replace("%", "\\%"))


def _make_database(session: Session, database: Database) -> bool:
    found = session.value("SELECT 1 FROM information_schema.schemata WHERE schema_name = %s", [database.name])
    if found:
        return False
    session.execute(
        f"CREATE DATABASE {identifier(database.name)}"
        f" CHARACTER SET {literal(database.character_set)} COLLATE {literal(database.collation)}"
    )
    return True


def _make_account(cluster: Cluster, session: Session, service: Service, password: Secret) -> bool:
    account = f"{literal(service.account)}@{literal(_ANYWHERE)}"
    locked = session.rows(
        "SELECT COALESCE(JSON_VALUE(Priv, '$.account_locked'), '') IN ('true', '1') AS locked"
        " FROM mysql.global_priv WHERE User = %s AND Host = %s",
        [service.account, _ANYWHERE],
    )
    changed = False
    if not locked:
        session.execute(f"CREATE USER {account} {identified_by(password)}")
        changed = True
    elif not locked[0]["locked"] and not _may_enter(
        cluster, session.node, Account(service.account, password)
    ):
        session.execute(f"ALTER USER {account} {identified_by(password)}")
        changed = True
    for database in service.databases:
        if not _has_rights(session, service.account, database.name):
            session.execute(f"GRANT {_DATA_RIGHTS} ON {grant_pattern(database.name)}.* TO {account}")
            changed = True
    return changed


def _may_enter(cluster: Cluster, node: Node, account: Account) -> bool:
    try:
        with connect(node, account, tls_ca_file=cluster.tls_ca_file) as session:
            return bool(session.value("SELECT 1"))
    except AccessDeniedError:
        return False


def _has_rights(session: Session, user: str, database: str) -> bool:
    return ServiceAccount(user, _ANYWHERE) in {
        ServiceAccount(account.user, account.host) for account in accounts_writing_to(session, [database])
    }
