"""Start a server on a prepared tree and compare what it serves with what was known when the backup was taken."""

import contextlib
import queue
import re
import shutil
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from dbha.backup.accounts import Accounts, read_accounts
from dbha.backup.accounts import differences as differences_of_accounts
from dbha.backup.bad_backup import BadBackupError
from dbha.backup.definitions import Definitions
from dbha.backup.levels import Level
from dbha.backup.manifest import Manifest
from dbha.backup.private_server import PrivateServer, PrivateServerError, private_server
from dbha.backup.rows import RowFindings, cascading_tables, compare_rows, in_words
from dbha.database import NodeUnreachableError, Row, Session, SqlError, identifier
from dbha.errors import UnsafeError
from dbha.heads import Heads, read_heads

OnTables = Callable[[int, int], None]  # tables done, tables in all

_SHOWN = 3
_FINE = ("OK", "Table is already up to date")
_NO_CHECK = "doesn't support check"
# What a server says, or how it ends, when the fault is this machine's and not the backup's.
_LOCAL_SIGNS = re.compile(
    r"No space left on device|Permission denied|Too many open files|Cannot allocate memory"
    r"|(?:[Ee]rror|Errcode:|number) (?:12|13|24|28)\b|unknown (?:variable|option)"
)
_LEAST_FREE_BYTES = 1 << 20  # with less, a server cannot even say what it lacks
_ENDED_BY_OTHERS = (-9, -15, None)  # killed, asked to stop, or still starting


@dataclass(frozen=True, slots=True)
class Table:
    """What the server says of one table."""

    name: str
    problem: str
    rows: int | None  # of one that was to be counted


@dataclass(frozen=True, slots=True)
class Served:
    """What a server has: names are `database.table`, views among them."""

    names: frozenset[str]
    heads: Heads
    tables: tuple[Table, ...]


def boot(
    tree: Path,
    manifest: Manifest,
    definitions: Definitions,
    accounts: Accounts | None,
    on_tables: OnTables,
    *,
    side_by_side: int,
    pool_bytes: int,
) -> str:
    """Serve the tree, check every table, and compare; return what there is to say of the rows.

    The server writes to the tree: it is of no use for a restore afterwards. Raises BadBackupError for what is
    wrong, UnsafeError when a server cannot run here.
    """
    try:
        with private_server(tree, pool_bytes=pool_bytes) as server:
            served = _look(server, manifest, definitions, on_tables, side_by_side)
            unlike = _accounts_unlike(server, accounts, manifest)
    except PrivateServerError as error:
        if is_local(error.ended, error.log, shutil.disk_usage(tree).free):
            raise UnsafeError(
                f"no server can run on the backup here: {error}",
                hint="dbha backup verify     again once the cause is gone, or with --level pages",
            ) from error
        raise BadBackupError(str(error), Level.BOOT) from error
    recorded = manifest.rows
    counts = {table.name: table.rows for table in served.tables if table.rows is not None}
    rows = (
        RowFindings(0, 0, ())
        if recorded is None
        else compare_rows(recorded, counts, cascading_tables(definitions))
    )
    if problems := differences(manifest, definitions, served) + rows.wrong + unlike:
        more = f", and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise BadBackupError(f"{'; '.join(problems[:_SHOWN])}{more}", Level.BOOT)
    return in_words(recorded, rows)


def differences(manifest: Manifest, definitions: Definitions, served: Served) -> tuple[str, ...]:
    """Return what a server has otherwise than the backup's manifest and definitions say, in words."""
    expected = _names(definitions)
    heads = [
        f"{database} has the schema heads {_heads(served.heads.get(database, ()))} instead of {_heads(recorded)}"
        for service in manifest.services.values()
        for database, recorded in service.heads.items()
        if served.heads.get(database, ()) != recorded
    ]
    return (
        *(f"{table.name}: {table.problem}" for table in served.tables if table.problem),
        *(f"table {name} is missing" for name in sorted(expected - served.names)),
        *(f"table {name} should not be there" for name in sorted(served.names - expected)),
        *heads,
    )


def problem_of_check(rows: Sequence[Row]) -> str:
    """Return what CHECK TABLE found wrong with a table, in the server's words; empty for a good one.

    The last row decides. Warnings before a good end are about what the check itself mended or could not tell.
    """
    words = [(str(row["Msg_type"]).lower(), str(row["Msg_text"])) for row in rows]
    if not words:
        return "the check said nothing"
    kind, last = words[-1]
    if (kind == "status" and last in _FINE) or _NO_CHECK in last:
        return ""
    return ", ".join(text for kind, text in words if kind in ("warning", "error")) or last


def is_local(ended: int | None, log: str, free_bytes: int) -> bool:
    """Tell whether a server that did not run failed for a reason that has nothing to do with the backup."""
    if ended in _ENDED_BY_OTHERS or free_bytes < _LEAST_FREE_BYTES:
        return True
    return _LOCAL_SIGNS.search(log) is not None


def _look(
    server: PrivateServer,
    manifest: Manifest,
    definitions: Definitions,
    on_tables: OnTables,
    side_by_side: int,
) -> Served:
    with server.session() as session:
        names = _names_served(session, definitions.databases)
        versioned = [database for each in manifest.services.values() for database in each.heads]
        heads = read_heads(session, versioned) if versioned else {}
    wanted = [
        (database, table)
        for database, known in definitions.databases.items()
        for table in known.tables
        if f"{database}.{table}" in names
    ]
    counted = manifest.rows.tables if manifest.rows else {}
    return Served(names, heads, _check_all(server, wanted, counted, on_tables, side_by_side))


def _accounts_unlike(server: PrivateServer, recorded: Accounts | None, manifest: Manifest) -> tuple[str, ...]:
    """Return how the accounts are not the recorded ones. The last thing to be asked: it lets nobody in any more."""
    if recorded is None or manifest.accounts is None:
        return ()
    with server.session() as session:
        session.execute("FLUSH PRIVILEGES")  # the server was started without them
        found = read_accounts(session)
    return tuple(differences_of_accounts(recorded, found, manifest.accounts.unsettled))


def _check_all(
    server: PrivateServer,
    wanted: Iterable[tuple[str, str]],
    counted: Mapping[str, int],
    on_tables: OnTables,
    side_by_side: int,
) -> tuple[Table, ...]:
    waiting: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()
    for each in wanted:
        waiting.put(each)
    total, found, finding = waiting.qsize(), list[Table](), threading.Lock()

    def work() -> None:
        with server.session() as session:
            while True:
                try:
                    database, table = waiting.get_nowait()
                except queue.Empty:
                    return
                result = _check(server, session, database, table, f"{database}.{table}" in counted)
                with finding:
                    found.append(result)
                    on_tables(len(found), total)

    with ThreadPoolExecutor(max_workers=side_by_side) as pool:
        workers = [pool.submit(work) for _ in range(side_by_side)]
        try:
            for worker in workers:
                worker.result()
        finally:  # when one failed, or somebody asked to stop, the others need not go on
            while not waiting.empty():
                with contextlib.suppress(queue.Empty):
                    waiting.get_nowait()
    return tuple(sorted(found, key=lambda table: table.name))


def _check(server: PrivateServer, session: Session, database: str, table: str, count: bool) -> Table:
    name, quoted = f"{database}.{table}", f"{identifier(database)}.{identifier(table)}"
    try:
        if problem := problem_of_check(session.rows(f"CHECK TABLE {quoted}")):
            return Table(name, problem, None)
        return Table(name, "", int(session.value(f"SELECT COUNT(*) FROM {quoted}")) if count else None)
    except SqlError as error:
        return Table(name, str(error), None)
    except NodeUnreachableError:
        server.require_alive(f"it checked {name}")
        raise


def _names_served(session: Session, databases: Iterable[str]) -> frozenset[str]:
    wanted = tuple(databases)
    if not wanted:
        return frozenset()
    rows = session.rows(
        "SELECT table_schema AS db, table_name AS name FROM information_schema.tables WHERE table_schema IN %s",
        [wanted],
    )
    return frozenset(f"{row['db']}.{row['name']}" for row in rows)


def _names(definitions: Definitions) -> frozenset[str]:
    return frozenset(
        f"{database}.{name}"
        for database, known in definitions.databases.items()
        for name in (*known.tables, *known.views)
    )


def _heads(heads: Sequence[str]) -> str:
    return "/".join(heads) or "none"
