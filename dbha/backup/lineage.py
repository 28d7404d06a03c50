"""Whether a data directory descends from the one that a backup was copied from, so that an increment can be taken.

An increment is every page whose log sequence number (LSN) is above the last one of its base. That is all that
changed only while both numbers belong to one data directory: after a state transfer a node has the pages, and the
numbers, of another one. Nothing that the server shows tells of that, so dbha writes a mark into the data directory
itself, just after each backup and not replicated. It travels with every physical copy of the directory, and with
nothing else; a directory that has it holds whatever the backup holds, and all that changed since has greater numbers.

One thing breaks that rule: IMPORT TABLESPACE sets the LSN of all pages to 0, and an increment leaves them out while
mariadb-backup says "completed OK!" (measured on 10.11). Such tables have new ids, and pages without an LSN.
"""

import json
import posixpath
import uuid
from dataclasses import dataclass

from dbha.backup.manifest import Origin
from dbha.backup.tablespaces import local_session
from dbha.backup.tool_files import series_of
from dbha.cluster.handle import Cluster
from dbha.cluster.home import DATABASE, ensure_home
from dbha.database import Session
from dbha.errors import BackupFailedError
from dbha.inventory import Node
from dbha.transport.sent_program import SentProgram

PROGRAM = SentProgram(("dbha.backup.node_pages",))
_TABLE = "data_directory_mark"
_MARKS = f"{DATABASE}.{_TABLE}"
_KEPT = 1000  # marks of so many backups; who bases one on an older one is told that its mark is gone
_SCAN_TIMEOUT_S = 3600
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Directory:
    """What a node's data directory is now, as far as an increment upon one backup needs to know."""

    state_uuid: str
    server_series: str
    lsn: int
    mark: str  # the one that this backup left in it; empty when there is none
    mark_table: int
    imported: tuple[str, ...]  # tables that were imported since, named as InnoDB names them


def leave_mark(cluster: Cluster, donor: Node, backup_id: str) -> Origin:
    """Write a first mark into the donor's data directory, before it is copied. `renew_mark` makes it count."""
    with cluster.session(donor) as session:
        ensure_home(session)
    mark = str(uuid.uuid4())
    with local_session(cluster, donor) as session:
        session.execute(
            f"DELETE FROM {_MARKS} WHERE backup NOT IN"
            f" (SELECT backup FROM (SELECT backup FROM {_MARKS} ORDER BY backup DESC LIMIT %s) AS kept)",
            [_KEPT],
        )
        session.execute(f"REPLACE INTO {_MARKS} (backup, mark) VALUES (%s, %s)", [backup_id, mark])
        last_table = session.value("SELECT MAX(table_id) FROM information_schema.innodb_sys_tables")
        return Origin(mark=mark, mark_table=_mark_table(session), last_table=int(last_table))


def renew_mark(cluster: Cluster, donor: Node, backup_id: str, origin: Origin) -> Origin:
    """Replace the first mark by one that is in no copy yet: what has it descends from the copied state.

    Raises BackupFailedError when the first one is gone, so that the donor got other data meanwhile.
    """
    mark = str(uuid.uuid4())
    with local_session(cluster, donor) as session:
        changed = session.execute(
            f"UPDATE {_MARKS} SET mark = %s WHERE backup = %s AND mark = %s", [mark, backup_id, origin.mark]
        )
    if changed != 1:
        raise BackupFailedError(f"{donor} got other data during the backup", hint="dbha backup create")
    return origin.model_copy(update={"mark": mark})


def look_at_directory(cluster: Cluster, node: Node, base_id: str, origin: Origin) -> Directory:
    """Return what the node's data directory is now, asked for an increment upon a backup with this origin."""
    with cluster.session(node) as session:
        ensure_home(session)
        status = {
            row["name"].lower(): row["value"]
            for row in session.rows(
                "SELECT variable_name AS name, variable_value AS value FROM information_schema.global_status"
                " WHERE variable_name IN ('wsrep_cluster_state_uuid', 'innodb_lsn_current')"
            )
        }
        return Directory(
            state_uuid=str(status.get("wsrep_cluster_state_uuid", "")),
            server_series=series_of(str(session.value("SELECT VERSION()"))),
            lsn=int(status.get("innodb_lsn_current", 0)),
            mark=session.value(f"SELECT mark FROM {_MARKS} WHERE backup = %s", [base_id]) or "",
            mark_table=_mark_table(session),
            imported=imported_since(cluster, node, session, origin.last_table),
        )


def imported_since(cluster: Cluster, node: Node, session: Session, last_table: int) -> tuple[str, ...]:
    """Return which of the tables with ids above `last_table` hold pages that were imported and not changed since.

    Their files are read on the node, and no others: those of tables that were made, rebuilt or emptied since.
    """
    rows = session.rows(
        "SELECT s.name AS name, s.filename AS file, s.page_size AS page_bytes"
        " FROM information_schema.innodb_sys_tables t JOIN information_schema.innodb_sys_tablespaces s"
        " ON s.space = t.space WHERE t.table_id > %s AND t.space > 0",
        [last_table],
    )
    if not rows:
        return ()
    files = [(row["name"], posixpath.join(node.datadir, row["file"]), int(row["page_bytes"])) for row in rows]
    done = cluster.transport(node).run(
        PROGRAM.argv, stdin=PROGRAM.source + json.dumps(files).encode() + b"\n", timeout_s=_SCAN_TIMEOUT_S
    )
    return tuple(sorted(json.loads(done.check().stdout)))


def require_nothing_imported(cluster: Cluster, node: Node, last_table: int) -> None:
    """Raise BackupFailedError when a table was imported: what was just copied does not have it."""
    with cluster.session(node) as session:
        imported = imported_since(cluster, node, session, last_table)
    if imported:
        raise BackupFailedError(f"{in_words(imported)} was imported meanwhile", hint="dbha backup create")


def in_words(tables: tuple[str, ...]) -> str:
    """Return the first few tables, and how many more there are."""
    more = f" and {len(tables) - _SHOWN} more" if len(tables) > _SHOWN else ""
    return f"{', '.join(tables[:_SHOWN])}{more}"


def _mark_table(session: Session) -> int:
    query = "SELECT table_id FROM information_schema.innodb_sys_tables WHERE name = %s"
    return int(session.value(query, [f"{DATABASE}/{_TABLE}"]))
