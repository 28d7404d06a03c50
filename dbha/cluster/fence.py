"""The fence: a service's accounts cannot write, on any node, while dbha and its migration account can.

Locking an account keeps new connections out (MariaDB: ALTER USER ... ACCOUNT LOCK, replicated in total order);
connections that exist stay as they are, so they are ended on every node until none is left.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from dbha.cluster.handle import Cluster, side_by_side
from dbha.database import NodeUnreachableError, Session, SqlError, literal
from dbha.errors import DbhaError
from dbha.inventory import Node

_NO_SUCH_THREAD = 1094
_WRITE_RIGHTS = ("Insert_priv", "Update_priv", "Delete_priv", "Create_priv", "Drop_priv", "Alter_priv")
_DROPPED_WITHIN_S = 30.0  # Galera drops a dead member after 6 s, by default
_END_DEADLINE_S = 3600.0  # a schema change in total order cannot be killed, only waited for
_ANSWER_TIMEOUT_S = 5.0
_PAUSE_S = 0.2


@dataclass(frozen=True, slots=True, order=True)
class ServiceAccount:
    """An account that may write to a service's databases, and whether it is locked now."""

    user: str
    host: str
    locked: bool = False

    @property
    def sql(self) -> str:
        """The account as ALTER USER wants it."""
        return f"{literal(self.user)}@{literal(self.host)}"

    def unlocked(self) -> "ServiceAccount":
        """The same account, taken as one that is not locked."""
        return ServiceAccount(self.user, self.host)


class FenceError(DbhaError):
    """Connections of fenced accounts would not end; their service may still be writing."""

    exit_code = 4


def accounts_writing_to(session: Session, databases: Iterable[str]) -> list[ServiceAccount]:
    """Return the accounts with rights to write that were granted on one of the databases, in order.

    Accounts with global rights (root, the administrator) are not among them: they cannot be fenced.
    """
    rights = " OR ".join(f"d.{right} = 'Y'" for right in _WRITE_RIGHTS)
    found: set[ServiceAccount] = set()
    for database in databases:
        rows = session.rows(
            "SELECT DISTINCT d.User AS user, d.Host AS host,"
            " COALESCE(JSON_VALUE(g.Priv, '$.account_locked'), '') IN ('true', '1') AS locked"
            " FROM mysql.db d JOIN mysql.global_priv g ON g.User = d.User AND g.Host = d.Host"
            f" WHERE %s LIKE d.Db AND ({rights})",
            [database],
        )
        found |= {ServiceAccount(row["user"], row["host"], bool(row["locked"])) for row in rows}
    return sorted(found)


def raise_fence(
    cluster: Cluster, node: Node, accounts: Sequence[ServiceAccount], *, guard: Callable[[], None]
) -> int:
    """Lock the accounts through `node` and end their connections on every node; return how many were ended."""
    with cluster.session(node) as session:
        for account in accounts:
            guard()
            session.execute(f"ALTER USER IF EXISTS {account.sql} ACCOUNT LOCK")
    side_by_side(lambda each: _catch_up(cluster, each), cluster.nodes)
    return end_connections(cluster, [account.user for account in accounts])


def _catch_up(cluster: Cluster, node: Node) -> None:
    """Return when the node has applied all that came before: it knows the locks, so nobody slips in any more."""
    try:
        with cluster.session(node, read_timeout_s=_DROPPED_WITHIN_S) as session:
            session.execute("SET SESSION wsrep_sync_wait = 1")
            session.value("SELECT 1 FROM mysql.global_priv LIMIT 1")
    except NodeUnreachableError:
        return  # `end_connections` makes sure that nobody writes through it


def lift_fence(
    cluster: Cluster, node: Node, accounts: Sequence[ServiceAccount], *, guard: Callable[[], None]
) -> None:
    """Unlock the accounts that were not locked before the fence went up."""
    with cluster.session(node) as session:
        for account in accounts:
            if not account.locked:
                guard()
                session.execute(f"ALTER USER IF EXISTS {account.sql} ACCOUNT UNLOCK")


def end_connections(cluster: Cluster, users: Sequence[str]) -> int:
    """End every connection of the users on every node and wait until none is left; return how many there were.

    A node that cannot be asked is passed over only when the others have dropped it from the cluster: nobody can
    write through it then. Raises FenceError when it has not been dropped, or connections do not end.
    """
    if not users:
        return 0
    ended = side_by_side(lambda node: _end_if_reachable(cluster, node, users), cluster.nodes)
    asked = [node for node in cluster.nodes if ended[node.name] is not None]
    lost = [node.name for node in cluster.nodes if ended[node.name] is None]
    if lost:
        _require_dropped(cluster, asked, lost)
    return sum(count or 0 for count in ended.values())


def _end_if_reachable(cluster: Cluster, node: Node, users: Sequence[str]) -> int | None:
    try:
        return _end_on(cluster, node, users)
    except NodeUnreachableError:
        return None


def _require_dropped(cluster: Cluster, asked: Sequence[Node], lost: Sequence[str]) -> None:
    """Return once the nodes that could be asked are all there is of the cluster (Galera needs some seconds)."""
    deadline = time.monotonic() + _DROPPED_WITHIN_S
    names = ", ".join(lost)
    while True:
        sizes = {_cluster_size(cluster, node) for node in asked}
        if sizes == {len(asked)}:
            return
        if not asked or time.monotonic() > deadline:
            raise FenceError(
                f"{names} cannot be asked and may still take writes: the cluster counts {sizes or 'no'} members",
                hint="dbha status",
            )
        time.sleep(0.2)


def _cluster_size(cluster: Cluster, node: Node) -> int:
    with cluster.session(node, read_timeout_s=_DROPPED_WITHIN_S) as session:
        rows = session.rows(
            "SHOW GLOBAL STATUS WHERE Variable_name IN ('wsrep_cluster_size', 'wsrep_cluster_status')"
        )
    told = {str(row["Variable_name"]).lower(): row["Value"] for row in rows}
    return int(told["wsrep_cluster_size"]) if told["wsrep_cluster_status"] == "Primary" else 0


def _end_on(cluster: Cluster, node: Node, users: Sequence[str]) -> int:
    ended: set[int] = set()
    deadline = time.monotonic() + _END_DEADLINE_S
    with cluster.session(node, read_timeout_s=_ANSWER_TIMEOUT_S) as session:
        while left := _connections(session, users):
            if time.monotonic() > deadline:
                raise FenceError(f"{node}: connections of {', '.join(users)} do not end: {sorted(left)}")
            for connection_id in left:
                _kill(session, connection_id)
            ended |= left
            time.sleep(0.02)
    return len(ended)


def _connections(session: Session, users: Sequence[str]) -> set[int]:
    places = ", ".join(["%s"] * len(users))
    query = f"SELECT id FROM information_schema.processlist WHERE user IN ({places})"
    return set(session.column(query, list(users)))


def _kill(session: Session, connection_id: int) -> None:
    try:
        session.execute("KILL CONNECTION %s", [connection_id])
    except SqlError as error:
        if error.code != _NO_SUCH_THREAD:  # it ended by itself meanwhile
            raise
