"""How many rows a backup must have, known while others go on writing.

The rows are counted in one consistent snapshot from just before the copy. The backup is the state at the copy's
end, so it may have more or fewer: at most as many more as rows were written on the donor since, in whatever table,
and at most as many fewer as rows were deleted. The server counts both (Handler_write, Handler_delete; what it
applies for others is among them). Most of what an idle cloud writes are updates, which count for neither, so most
counts are exact; and no bound ever holds only because nobody happened to write.

Two things slip past those counters. A transaction that is open when the snapshot is taken may have done its
writing before: what such ones have changed so far is added to both bounds. And rows that go by ON DELETE CASCADE:
a table that has such a key has no lower bound once anything was deleted.
"""

import contextlib
import re
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from dbha.backup.definitions import Definitions, change_counters
from dbha.backup.manifest import RowCounts
from dbha.cluster.handle import Cluster
from dbha.database import Session, SqlError, identifier
from dbha.errors import DbhaError
from dbha.inventory import Node

_CACHE_AGE_S = 0.12  # the server hands out its list of transactions again for 0.1 s
_READ_TIMEOUT_S = 300  # for each table; a donor that hangs must not be waited for
_GRACE_SHARE = 0.02  # of the time the copy took
_LEAST_GRACE_S = 0.2
_KILL_PAUSE_S = 0.05
_STOP_TIMEOUT_S = 5
_TOO_LATE = "the copy ended first"
_CASCADE = re.compile(r"ON DELETE CASCADE")
_OPEN_TRANSACTIONS = (
    "SELECT trx_rows_modified AS changed, trx_unique_checks = 0 AND trx_foreign_key_checks = 0 AS in_bulk"
    " FROM information_schema.innodb_trx WHERE trx_rows_modified > 0"
)


class NotCountableError(DbhaError):
    """Something goes on that makes it impossible to tell how many rows came and went."""


@dataclass(frozen=True, slots=True)
class Changes:
    """How often rows were written and deleted on a node since it started; `pending` by transactions still open."""

    written: int
    deleted: int
    pending: int = 0


@dataclass(frozen=True, slots=True)
class RowFindings:
    """What comparing row counts found; `wrong` has words for every table that cannot be explained."""

    exact: int
    within: int
    wrong: tuple[str, ...]


def recorded_counts(counts: Mapping[str, int], before: Changes, after: Changes, *, why_not: str) -> RowCounts:
    """Return what the manifest says of rows that were counted between the two readings."""
    added = after.written - before.written
    removed = after.deleted - before.deleted
    if added < 0 or removed < 0:
        return RowCounts(why_not="the donor's counters were reset meanwhile")
    return RowCounts(
        tables=dict(counts), added=added + before.pending, removed=removed + before.pending, why_not=why_not
    )


def compare_rows(recorded: RowCounts, found: Mapping[str, int], cascading: Iterable[str]) -> RowFindings:
    """Return how the rows found in a backup agree with those recorded; `cascading` may lose rows unseen.

    A table that is in one of the two alone is not compared.
    """
    unseen = frozenset(cascading) if recorded.removed else frozenset()
    exact, within, wrong = 0, 0, list[str]()
    for table in sorted(recorded.tables.keys() & found.keys()):
        count = recorded.tables[table]
        least = 0 if table in unseen else max(0, count - recorded.removed)
        most = count + recorded.added
        if not least <= found[table] <= most:
            bounds = f"{least}" if least == most else f"{least} to {most}"
            wrong.append(f"{table} has {found[table]} rows instead of {bounds}")
        elif least == most:
            exact += 1
        else:
            within += 1
    return RowFindings(exact, within, tuple(wrong))


def in_words(recorded: RowCounts | None, findings: RowFindings) -> str:
    """Return what was compared of the rows, for people."""
    if recorded is None:
        return "rows were not compared: they were not counted when it was taken"
    if not recorded.tables:
        return f"rows were not compared: {recorded.why_not or 'there are no tables'}"
    parts = [f"the rows of {findings.exact} tables are as counted"] if findings.exact else []
    if findings.within:
        parts.append(
            f"those of {findings.within} to within the {recorded.added} that came"
            f" and the {recorded.removed} that went meanwhile"
        )
    return ", ".join(parts) + (f"; others were not counted: {recorded.why_not}" if recorded.why_not else "")


def cascading_tables(definitions: Definitions) -> frozenset[str]:
    """Return the tables, as `database.table`, whose rows can go with those of another table."""
    return frozenset(
        f"{database}.{table}"
        for database, known in definitions.databases.items()
        for table, create in known.tables.items()
        if _CASCADE.search(create)
    )


class RowCounting:
    """Counts the rows of a donor in a thread of its own; see `counting_rows`."""

    def __init__(self, cluster: Cluster, donor: Node, databases: Sequence[str]) -> None:
        self._cluster, self._donor, self._databases = cluster, donor, tuple(databases)
        self._opened, self._ended, self._enough = threading.Event(), threading.Event(), threading.Event()
        self._connection_id = 0
        self._before: Changes | None = None
        self._structure: dict[str, int] = {}
        self._counts: dict[str, int] = {}
        self._why_not = ""
        self._copying_since_s = time.monotonic()

    def run(self) -> None:
        """Count, smallest tables first, until all are counted or somebody has had enough."""
        try:
            with self._cluster.session(self._donor, read_timeout_s=_READ_TIMEOUT_S) as session:
                self._connection_id = int(session.value("SELECT CONNECTION_ID()"))
                self._before, self._structure = open_snapshot(session)
                self._opened.set()
                self._count(session)
        except DbhaError as error:  # the backup is no worse for it; its manifest says why
            self._why_not = _TOO_LATE if self._enough.is_set() else str(error)
        finally:
            self._opened.set()
            self._ended.set()

    def skip(self) -> None:
        """Count nothing, because the operator said so."""
        self._why_not = "`backup.count_rows` is off"
        self._opened.set()
        self._ended.set()

    def wait_for_snapshot(self) -> None:
        """Return once the snapshot is there: it has to be older than what is copied."""
        self._opened.wait()
        self._copying_since_s = time.monotonic()

    def result(self) -> RowCounts:
        """Return what was counted, to be asked for as soon as the copy has ended."""
        copying_s = time.monotonic() - self._copying_since_s
        if not self._ended.wait(max(_LEAST_GRACE_S, copying_s * _GRACE_SHARE)):
            self.stop()
        if self._before is None:
            return RowCounts(why_not=self._why_not)
        with self._cluster.session(self._donor, read_timeout_s=_READ_TIMEOUT_S) as session:
            after, structure = read_changes(session), change_counters(session)
        if structure != self._structure:  # the rows that TRUNCATE removes are not among the counters
            return RowCounts(why_not="statements that change structure ran meanwhile")
        return recorded_counts(self._counts, self._before, after, why_not=self._why_not)

    def stop(self) -> None:
        """End the counting now; tables that were counted stay counted."""
        self._enough.set()
        if self._ended.is_set():
            return
        # A donor that does not answer does not answer the counting either, which then ends by itself.
        asking = self._cluster.session(self._donor, read_timeout_s=_STOP_TIMEOUT_S)
        with contextlib.suppress(DbhaError), asking as session:
            while not self._ended.wait(_KILL_PAUSE_S):  # again and again: the query may begin just after it
                with contextlib.suppress(SqlError):  # it has just ended by itself
                    session.execute(f"KILL QUERY {self._connection_id}")

    def _count(self, session: Session) -> None:
        for database, table in _countable(session, self._databases):
            if self._enough.is_set():
                self._why_not = _TOO_LATE
                return
            query = f"SELECT COUNT(*) FROM {identifier(database)}.{identifier(table)}"
            self._counts[f"{database}.{table}"] = int(session.value(query))


@contextmanager
def counting_rows(
    cluster: Cluster, donor: Node, databases: Sequence[str], *, wanted: bool
) -> Iterator[RowCounting]:
    """Count the rows of a donor beside the copy that the block makes, and never much longer than that.

    What keeps the rows from being counted is told in the result; it is never raised.
    """
    counting = RowCounting(cluster, donor, databases)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(counting.run if wanted else counting.skip)
        try:
            yield counting
        finally:
            counting.stop()
        running.result()  # nothing but a bug is left to be raised


def open_snapshot(session: Session) -> tuple[Changes, dict[str, int]]:
    """Begin a consistent snapshot, and return what had been changed before it: never more, or it is among `pending`.

    With it come the counters of statements that change structure. Raises NotCountableError.
    """
    session.execute("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    before, read_at_s = read_changes(session), time.monotonic()
    structure = change_counters(session)
    time.sleep(max(0.0, read_at_s + _CACHE_AGE_S - time.monotonic()))
    # In this order: whatever the snapshot does not see is open now, if it wrote anything before the counters.
    open_ones = session.rows(_OPEN_TRANSACTIONS)
    if any(row["in_bulk"] for row in open_ones):
        raise NotCountableError("a dump was being loaded when the copy began")
    session.execute("START TRANSACTION WITH CONSISTENT SNAPSHOT")
    pending = sum(int(row["changed"]) for row in open_ones)
    return Changes(before.written, before.deleted, pending), structure


def read_changes(session: Session) -> Changes:
    """Return how many rows were written to and deleted from tables of this node since it started."""
    rows = session.rows("SHOW GLOBAL STATUS WHERE Variable_name IN ('Handler_write', 'Handler_delete')")
    found = {row["Variable_name"]: int(row["Value"]) for row in rows}
    return Changes(written=found["Handler_write"], deleted=found["Handler_delete"])


def _countable(session: Session, databases: Sequence[str]) -> list[tuple[str, str]]:
    """Return the tables that have snapshots, the smallest first."""
    if not databases:
        return []
    rows = session.rows(
        "SELECT table_schema AS db, table_name AS name FROM information_schema.tables"
        " WHERE table_schema IN %s AND table_type = 'BASE TABLE' AND engine = 'InnoDB' ORDER BY data_length",
        [tuple(databases)],
    )
    return [(row["db"], row["name"]) for row in rows]
