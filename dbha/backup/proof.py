"""Read back what a restore or a sync claims: the same tables, rows and schema version, on every node."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from dbha.backup.aside import tables_of
from dbha.backup.binlog.gtid import latest, parse_gtids
from dbha.backup.definitions import fingerprint
from dbha.cluster.handle import Cluster, side_by_side
from dbha.database import Session, identifier
from dbha.errors import DbhaError
from dbha.heads import Heads, in_words, read_heads
from dbha.inventory import Node

Checksums = dict[str, int]  # "database.table" to what CHECKSUM TABLE says of it

_PROBE_REVISION = "dbha-replication-probe"
_PROBE_DEADLINE_S = 10
_TABLES_PER_STATEMENT = 16


class NotProvenError(DbhaError):
    """What was read back is not what it must be; the message names node, table and both values."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A table whose checksum on a node is not the expected one."""

    node: str
    table: str
    expected: int | None
    found: int | None

    def __str__(self) -> str:
        return f"{self.table} on {self.node}: expected {self.expected}, found {self.found}"


def checksums(
    cluster: Cluster, node: Node, databases: Iterable[str], *, guard: Callable[[], None] = lambda: None
) -> Checksums:
    """Return the checksum of every table of the databases on one node (MariaDB: CHECKSUM TABLE reads all rows)."""
    found: Checksums = {}
    with cluster.session(node) as session:
        session.execute("SET SESSION wsrep_sync_wait = 1")  # what is still on its way to this node counts
        for database in databases:
            tables = tables_of(session, database)
            for start in range(0, len(tables), _TABLES_PER_STATEMENT):
                guard()
                found |= _checksums_of(session, database, tables[start : start + _TABLES_PER_STATEMENT])
    return found


def checksums_everywhere(
    cluster: Cluster, databases: Sequence[str], nodes: Iterable[Node]
) -> dict[str, Checksums]:
    """Return the checksums on each of the nodes, taken side by side."""
    return side_by_side(lambda node: checksums(cluster, node, databases), nodes)


def compare(expected: Mapping[str, int], found: Mapping[str, Mapping[str, int]]) -> list[Difference]:
    """Return every table of every node that is missing, additional or different from `expected`."""
    return [
        Difference(node, table, expected.get(table), tables.get(table))
        for node, tables in found.items()
        for table in sorted(expected.keys() | tables.keys())
        if expected.get(table) != tables.get(table)
    ]


def require_equal(expected: Mapping[str, int], found: Mapping[str, Mapping[str, int]]) -> None:
    """Raise NotProvenError that names the first few differences, if there are any."""
    if differences := compare(expected, found):
        shown = "; ".join(map(str, differences[:3]))
        raise NotProvenError(f"{len(differences)} table(s) differ: {shown}")


def prove_structure(cluster: Cluster, node: Node, heads: Heads, expected: str) -> None:
    """Raise NotProvenError unless the node has these schema heads, and `expected` is its structure's fingerprint."""
    with cluster.session(node) as session:
        session.execute("SET SESSION wsrep_sync_wait = 1")
        if (found := read_heads(session, tuple(heads))) != heads:
            raise NotProvenError(f"{node}: the schema is at {in_words(found)}, not at {in_words(heads)}")
        if fingerprint(session, tuple(heads)) != expected:
            raise NotProvenError(f"{node}: the structure of {', '.join(heads)} is not that of the backup")


def structure_of(cluster: Cluster, node: Node, databases: Sequence[str]) -> tuple[Heads, str]:
    """Return schema heads and the structure's fingerprint as a node has them: what the others must have."""
    with cluster.session(node) as session:
        session.execute("SET SESSION wsrep_sync_wait = 1")
        heads = read_heads(session, databases) if databases else {}
        return heads, fingerprint(session, databases)


def require_one_count(cluster: Cluster, nodes: Sequence[Node], beyond: int | None) -> None:
    """Raise NotProvenError when nodes do not number transactions alike, and all of them beyond a number.

    Others may write meanwhile: what a node says lies between what the first says before and after. Where the cluster
    keeps no such count, nothing is required.
    """
    first, *others = nodes
    before = _count(cluster, first)
    found = side_by_side(lambda node: _count(cluster, node), others)
    after = _count(cluster, first)
    if before is None or after is None:
        return
    if beyond is not None and before <= beyond:
        raise NotProvenError(f"{first} gives GTIDs again: it is at number {before}, and the data at {beyond}")
    for name, count in found.items():
        if count is None or not before <= count <= after:
            raise NotProvenError(
                f"{name} has given GTIDs up to number {count}, and {first} up to {after}: they would not be the same"
            )


def _count(cluster: Cluster, node: Node) -> int | None:
    """Return the number of the cluster's last transaction on a node; None where the cluster has no such numbers."""
    with cluster.session(node) as session:
        if not int(session.value("SELECT @@GLOBAL.log_bin AND @@GLOBAL.wsrep_gtid_mode")):
            return None
        session.execute("SET SESSION wsrep_sync_wait = 1")
        session.value("SELECT COUNT(*) FROM mysql.db")  # returns once all that was committed before is here
        row = session.rows("SELECT @@GLOBAL.gtid_binlog_pos AS position, @@GLOBAL.gtid_domain_id AS local")[0]
    last = latest(parse_gtids(str(row["position"])), {int(row["local"])})
    return last.sequence if last else None


def prove_replication(cluster: Cluster, writer: Node, nodes: Iterable[Node], database: str) -> None:
    """Prove that a write to a table of `database` on one node arrives on `nodes`, and leave no trace of it.

    It goes to `alembic_version`, a table that came back with the others. The reads wait for the node to have
    applied all it was sent (wsrep_sync_wait = 1). Can be repeated after it was cut off anywhere.
    """
    forget_probe(cluster, writer, database)
    table = f"{identifier(database)}.alembic_version"
    with cluster.session(writer) as session:
        session.execute(f"INSERT INTO {table} (version_num) VALUES (%s)", [_PROBE_REVISION])
        try:
            side_by_side(lambda node: _require_probe(cluster, node, table), nodes)
        finally:
            forget_probe(cluster, writer, database)


def forget_probe(cluster: Cluster, writer: Node, database: str) -> None:
    """Remove what a proof that was cut off left in `database`; nothing else can be compared before."""
    with cluster.session(writer) as session:
        session.execute(
            f"DELETE FROM {identifier(database)}.alembic_version WHERE version_num = %s", [_PROBE_REVISION]
        )


def _require_probe(cluster: Cluster, node: Node, table: str) -> None:
    with cluster.session(node, read_timeout_s=_PROBE_DEADLINE_S) as session:
        session.execute("SET SESSION wsrep_sync_wait = 1")
        query = f"SELECT COUNT(*) FROM {table} WHERE version_num = %s"
        if session.value(query, [_PROBE_REVISION]) != 1:
            raise NotProvenError(f"{node}: a write to {table} did not arrive")


def _checksums_of(session: Session, database: str, tables: Sequence[str]) -> Checksums:
    names = ", ".join(f"{identifier(database)}.{identifier(table)}" for table in tables)
    rows = session.rows(f"CHECKSUM TABLE {names}")
    return {row["Table"]: row["Checksum"] for row in rows}
