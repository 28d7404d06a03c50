"""Bring prepared tables back on one node: define, discard, copy, import. Nothing here is replicated.

Every node imports the same bytes, so all end equal; a backup prepared with `--export` has an .ibd and a .cfg file
for each table (MariaDB manual, "Copying Transportable Tablespaces"). A table that never had a row is only defined:
that gives the same table, and most tables of an OpenStack database are like that.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from dbha.backup.aside import tables_of
from dbha.backup.checkpoint import checkpoint
from dbha.backup.staged_files import StagedFiles
from dbha.cluster.handle import Cluster
from dbha.database import Session, SqlError, identifier
from dbha.inventory import Node

_IMPORTERS_PER_NODE = 2
_DROPPED_WITHIN_S = 60.0
_PAUSE_S = 0.2
_LOCK_WAIT_TIMEOUT = 1205

# Where an InnoDB page keeps what is needed to see that a table is empty (MariaDB source: fil0fil.h, page0types.h).
_PAGE_SIZE_DEFAULT = 16384
_CLUSTERED_ROOT_PAGE = 3
_PAGE_TYPE = slice(24, 26)
_PAGE_TYPE_INDEX = 17855
_PAGE_RECORDS = slice(38 + 16, 38 + 18)
_PAGE_LEVEL = slice(38 + 26, 38 + 28)
_PAGE_ROOT_AUTO_INCREMENT = slice(38 + 18, 38 + 26)


def import_database(
    cluster: Cluster,
    node: Node,
    database: str,
    tables: Mapping[str, str],
    prepared: Path,
    *,
    guard: Callable[[], None],
    on_bytes: Callable[[int], None],
) -> int:
    """Make `database` on `node` hold exactly `tables` (name to CREATE TABLE) with the rows of `prepared`.

    Whatever tables the database has on this node are dropped there first, so it can be repeated after it was cut
    off anywhere. Returns how many tables had rows to import.
    """
    filled = [table for table in tables if not is_untouched(prepared / database / f"{table}.ibd")]
    files = StagedFiles.of(cluster, node, database)
    clear_database(cluster, node, database)
    with local_session(cluster, node) as session, ThreadPoolExecutor(max_workers=1) as pool:
        guard()
        copying = pool.submit(files.copy, prepared / database, filled, on_bytes)
        _define(session, database, tables, filled, guard)
        copying.result()
        guard()
        # Until it is imported, a copied file has the number of another tablespace: often of the very table that was
        # renamed aside. A recovery that replays the rename would find both, and the server would not start.
        checkpoint(session)
        files.put_in_place()
    _import_side_by_side(cluster, node, database, filled, guard)
    files.forget_descriptions()
    with local_session(cluster, node) as session:
        checkpoint(session)
    return len(filled)


def clear_database(cluster: Cluster, node: Node, database: str) -> None:
    """Drop all tables of the database on this node only, with every file that an import left in it."""
    with local_session(cluster, node) as session:
        _drop_all(session, database, tables_of(session, database))
    StagedFiles.of(cluster, node, database).clear()


def drop_tables_here(cluster: Cluster, node: Node, database: str, *, guard: Callable[[], None]) -> None:
    """Drop all tables of the database on this node only. A replicated DROP would hold up writers of all services."""
    with local_session(cluster, node) as session:
        _drop_all(session, database, tables_of(session, database), guard)


def clear_tables(cluster: Cluster, node: Node, database: str, tables: Sequence[str]) -> None:
    """Drop some tables of the database on this node only, whatever an import left of them, with their files."""
    with local_session(cluster, node) as session:
        _drop_all(session, database, tables)
    StagedFiles.of(cluster, node, database).clear_tables(tables)


def _define(
    session: Session,
    database: str,
    tables: Mapping[str, str],
    filled: Sequence[str],
    guard: Callable[[], None],
) -> None:
    session.execute(f"USE {identifier(database)}")
    for definition in tables.values():
        guard()
        session.execute(definition)
    for table in filled:
        guard()
        session.execute(f"ALTER TABLE {identifier(table)} DISCARD TABLESPACE")


@contextmanager
def local_session(cluster: Cluster, node: Node) -> Iterator[Session]:
    """Yield a session whose statements change this node only: not replicated, not in its binary log."""
    with cluster.session(node) as session:
        session.execute("SET SESSION wsrep_on = OFF")
        session.execute("SET SESSION sql_log_bin = 0, foreign_key_checks = 0, sql_mode = ''")
        yield session


def is_untouched(tablespace: Path) -> bool:
    """Tell whether a table's file certainly holds nothing: its clustered index is one page without records, and its
    AUTO_INCREMENT counter, which that page keeps, was never moved."""
    with tablespace.open("rb") as file:
        file.seek(_CLUSTERED_ROOT_PAGE * _PAGE_SIZE_DEFAULT)
        page = file.read(128)

    def number(place: slice) -> int:
        return int.from_bytes(page[place], "big")

    return (
        len(page) == 128
        and number(_PAGE_TYPE) == _PAGE_TYPE_INDEX
        and number(_PAGE_LEVEL) == 0
        and number(_PAGE_RECORDS) == 0
        and number(_PAGE_ROOT_AUTO_INCREMENT) == 0
    )


def _drop_all(
    session: Session, database: str, tables: Iterable[str], guard: Callable[[], None] = lambda: None
) -> None:
    """Drop the tables in an order that the server accepts.

    While a discarded table refers to another one, that one cannot be dropped: the server says at once that it waited
    too long for a lock. Neither can any for a moment after a crash, while InnoDB has it open for itself.
    """
    left, deadline_s = sorted(tables), time.monotonic() + _DROPPED_WITHIN_S
    while left:
        refused = []
        for table in left:
            guard()
            if not _drop(session, f"{identifier(database)}.{identifier(table)}"):
                refused.append(table)
        if len(refused) == len(left):
            if time.monotonic() > deadline_s:
                raise SqlError(
                    session.node,
                    _LOCK_WAIT_TIMEOUT,
                    f"{database}.{refused[0]} cannot be dropped: it is in use",
                )
            time.sleep(_PAUSE_S)
        left = refused


def _drop(session: Session, table: str) -> bool:
    """Drop a table; return False when the server does not do it now."""
    try:
        session.execute(f"DROP TABLE IF EXISTS {table}")
    except SqlError as error:
        if error.code != _LOCK_WAIT_TIMEOUT:
            raise
        return False
    return True


def _import_side_by_side(
    cluster: Cluster, node: Node, database: str, tables: Sequence[str], guard: Callable[[], None]
) -> None:
    def import_some(some: Sequence[str]) -> None:
        with local_session(cluster, node) as session:
            for table in some:
                guard()
                session.execute(f"ALTER TABLE {identifier(database)}.{identifier(table)} IMPORT TABLESPACE")

    shares = [tables[start::_IMPORTERS_PER_NODE] for start in range(_IMPORTERS_PER_NODE)]
    with ThreadPoolExecutor(max_workers=_IMPORTERS_PER_NODE) as pool:
        list(pool.map(import_some, shares))
