"""The checksum of every table of some databases, as MariaDB's CHECKSUM TABLE computes it: by reading all rows."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from dbha.cluster.handle import Cluster, side_by_side
from dbha.database import Session, identifier
from dbha.inventory import Node

Checksums = dict[str, int]  # "database.table" to what CHECKSUM TABLE says of it
OnTables = Callable[[int, int], None]  # tables read, tables in all

_SESSIONS_PER_HOST = 4
_LARGEST_FIRST = (
    "SELECT table_schema AS db, table_name AS name FROM information_schema.tables"
    " WHERE table_schema IN %s AND table_type = 'BASE TABLE' ORDER BY data_length DESC, table_schema, table_name"
)


def _nothing(*_: int) -> None:
    return


def checksums(
    cluster: Cluster, node: Node, databases: Iterable[str], *, sessions: int = 1,
    guard: Callable[[], None] = _nothing, on_tables: OnTables = _nothing,
) -> Checksums:  # fmt: skip
    """Return the checksum of every table of the databases on one node, read by so many sessions side by side.

    `guard` is called before each table, and raises when this must not go on.
    """
    with cluster.session(node) as session:
        session.execute("SET SESSION wsrep_sync_wait = 1")  # what is still on its way to this node counts
        reading = Reading(_tables(session, tuple(databases)), guard, on_tables)
        with ThreadPoolExecutor(max_workers=sessions) as pool:
            others = [pool.submit(_read_beside, cluster, node, reading) for _ in range(sessions - 1)]
            reading.run(session)
        for other in others:
            other.result()
    return reading.found


def checksums_everywhere(
    cluster: Cluster, databases: Sequence[str], nodes: Sequence[Node], *, on_tables: OnTables = _nothing
) -> dict[str, Checksums]:
    """Return the checksums on each of the nodes, as fast as their hosts can: for data that nobody works on.

    `on_tables` is told of the tables of all nodes as one number.
    """
    counted = Counted(on_tables)
    return side_by_side(
        lambda node: checksums(
            cluster, node, databases, sessions=_sessions(node, nodes), on_tables=counted.of(node.name)
        ),
        nodes,
    )


def _sessions(node: Node, nodes: Iterable[Node]) -> int:
    """Return the node's share of the sessions that its host gets."""
    return max(1, _SESSIONS_PER_HOST // sum(each.ssh == node.ssh for each in nodes))


def _tables(session: Session, databases: tuple[str, ...]) -> list[tuple[str, str]]:
    """Return the tables, the largest first: no session is left alone with a large one at the end."""
    if not databases:
        return []
    rows = session.rows(_LARGEST_FIRST, [databases])
    return [(row["db"], row["name"]) for row in rows]


def _read_beside(cluster: Cluster, node: Node, reading: "Reading") -> None:
    with cluster.session(node) as session:
        session.execute("SET SESSION wsrep_sync_wait = 1")
        reading.run(session)


class Reading:
    """The tables of one node that are left to read; several sessions take from them."""

    def __init__(
        self, tables: Sequence[tuple[str, str]], guard: Callable[[], None], on_tables: OnTables
    ) -> None:
        self.found: Checksums = {}
        self._left, self._total = deque(tables), len(tables)
        self._guard, self._on_tables = guard, on_tables
        self._lock = threading.Lock()

    def run(self, session: Session) -> None:
        """Read tables until none is left; a failure leaves none to the others."""
        try:
            while (table := self._next()) is not None:
                self._guard()
                (row,) = session.rows(f"CHECKSUM TABLE {'.'.join(map(identifier, table))}")
                with self._lock:
                    self.found[row["Table"]] = row["Checksum"]
                    self._on_tables(len(self.found), self._total)
        except BaseException:
            self._left.clear()
            raise

    def _next(self) -> tuple[str, str] | None:
        try:
            return self._left.popleft()
        except IndexError:
            return None


class Counted:
    """The tables that all nodes have read, told as one number; called from several threads."""

    def __init__(self, on_tables: OnTables) -> None:
        self._on_tables = on_tables
        self._nodes: dict[str, tuple[int, int]] = {}
        self._lock = threading.Lock()

    def of(self, node: str) -> OnTables:
        """Return who is to be told of one node."""

        def tell(done: int, tables: int) -> None:
            with self._lock:
                self._nodes[node] = (done, tables)
                read, total = map(sum, zip(*self._nodes.values(), strict=True))
                self._on_tables(read, total)

        return tell
