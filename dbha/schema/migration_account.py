"""The account that may change a service's schema, which exists only while that is being done."""

import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dbha.cluster.fence import end_connections
from dbha.cluster.handle import Cluster
from dbha.database import Account, identified_by, literal
from dbha.inventory import Node
from dbha.schema.provision import grant_pattern
from dbha.secrets import Secret
from dbha.services import Service

PREFIX = "dbha_migrate_"


@contextmanager
def migration_account(
    cluster: Cluster, node: Node, service: Service, *, guard: Callable[[], None]
) -> Iterator[Account]:
    """Yield an account with all rights on the service's own databases; it is gone again afterwards.

    Its password is new each time and never leaves this process except to the server and into the migration
    tool's standard input. So a tool that outlived an earlier attempt cannot come back: its account is dropped
    and its connections are ended before the new one is made.
    """
    remove_migration_account(cluster, node, service.name)
    account = Account(f"{PREFIX}{service.name}", Secret(secrets.token_urlsafe(24)))
    name = _sql_name(service.name)
    guard()
    with cluster.session(node) as session:
        session.execute(f"CREATE USER {name} {identified_by(account.password)}")
        for database in service.databases:
            session.execute(f"GRANT ALL PRIVILEGES ON {grant_pattern(database.name)}.* TO {name}")
    try:
        yield account
    finally:
        remove_migration_account(cluster, node, service.name)


def remove_migration_account(cluster: Cluster, node: Node, service: str) -> None:
    """Drop the service's migration account if it is there, and end its connections on every node."""
    with cluster.session(node) as session:
        session.execute(f"DROP USER IF EXISTS {_sql_name(service)}")
    end_connections(cluster, [f"{PREFIX}{service}"])


def _sql_name(service: str) -> str:
    return f"{literal(PREFIX + service)}@'%'"
