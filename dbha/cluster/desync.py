"""Keeping a node that is read for a backup out of flow control, and undoing that also after a crash.

A node with `wsrep_desync=ON` may fall behind without holding up the others. Whoever switches it on writes a row
into the cluster first: so a controller that comes later, also another one, knows a desync of a dead run of dbha
from one that somebody else wants, and undoes only the first. A server that was started again is not desynced.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dbha.cluster.handle import Cluster
from dbha.cluster.home import MISSING, ensure_home
from dbha.cluster.lease import LeaseRow, read_lease
from dbha.cluster.state import SYNCED
from dbha.database import NodeUnreachableError, Session, SqlError
from dbha.errors import DbhaError, UsageError

_ANSWER_TIMEOUT_S = 5.0
_CATCH_UP_S = 300.0
_PAUSE_S = 0.2


@dataclass(frozen=True, slots=True)
class Desynced:
    """A node that a run of dbha desynced; `member` is what Galera calls its server since that one was started."""

    node: str
    run_id: str
    member: str


def is_left(found: Desynced, lease: LeaseRow | None, *, is_ours_and_dead: bool) -> bool:
    """Tell whether a desync outlived its run: nobody who holds the cluster is at it.

    `is_ours_and_dead`: the run is one of this controller, and no process of it lives.
    """
    if is_ours_and_dead or lease is None:
        return True
    return lease.run_id != found.run_id or lease.expired


def desync(session: Session, node: str, run_id: str) -> bool:
    """Switch flow control off on the session's node; False, and nothing done, where somebody else did already.

    Can be repeated after it was cut off anywhere.
    """
    ensure_home(session)
    if not any(each.run_id == run_id and each.node == node for each in _rows(session)):
        if _is_on(session):
            return False
        session.execute(
            "REPLACE INTO dbha.desync (node, run_id, member, since) VALUES (%s, %s, %s, UTC_TIMESTAMP(6))",
            [node, run_id, _member(session)],
        )
    session.execute("SET GLOBAL wsrep_desync = ON")
    return True


def resync(session: Session, found: Desynced) -> bool:
    """Undo `desync` on its node, and forget it; return whether the node was still desynced by it."""
    is_on = _member(session) == found.member and _is_on(session)
    if is_on:
        session.execute("SET GLOBAL wsrep_desync = OFF")
    session.execute("DELETE FROM dbha.desync WHERE node = %s AND run_id = %s", [found.node, found.run_id])
    return is_on


def resync_after(cluster: Cluster, node: str, run_id: str) -> str:
    """Undo what `desync` did for a run, and wait until the node is Synced; return a word on it, or nothing.

    A node that cannot be asked keeps its row: whoever begins the next run undoes it, if it is still needed.
    """
    try:
        with cluster.session(cluster.node(node), read_timeout_s=_ANSWER_TIMEOUT_S) as session:
            for found in _rows(session):
                if (found.node, found.run_id) == (node, run_id):
                    resync(session, found)
            return "" if _is_synced_in_time(session) else f"{node} is still catching up"
    except NodeUnreachableError:
        return f"{node} does not answer; the next command that changes the cluster looks again"


def left_behind(cluster: Cluster, is_ours_and_dead: Callable[[str], bool]) -> tuple[Desynced, ...]:
    """Return the desyncs that outlived their runs, as the first node that answers knows them."""
    for node in cluster.nodes:
        try:
            with cluster.session(node, read_timeout_s=_ANSWER_TIMEOUT_S) as session:
                rows = _rows(session)
                lease = read_lease(session) if rows else None
        except DbhaError:  # the verdict says what is wrong with it
            continue
        return tuple(
            row for row in rows if is_left(row, lease, is_ours_and_dead=is_ours_and_dead(row.run_id))
        )
    return ()


def reap(
    cluster: Cluster, is_ours_and_dead: Callable[[str], bool], say: Callable[[str], None]
) -> Sequence[Desynced]:
    """Undo every desync that outlived its run, and say so; return them. One that cannot be undone now is left."""
    found = left_behind(cluster, is_ours_and_dead)
    for each in found:
        try:
            node = cluster.node(each.node)
            with cluster.session(node, read_timeout_s=_ANSWER_TIMEOUT_S) as session:
                was_on = resync(session, each)
        except UsageError:  # it is no node of this cluster any more
            continue
        except DbhaError as error:
            say(f"{each.node} may still be desynced by run {each.run_id}: {error}")
            continue
        if was_on:
            say(
                f"{each.node} takes part in flow control again: run {each.run_id} had desynced it, and is gone"
            )
    return found


def _rows(session: Session) -> list[Desynced]:
    try:
        rows = session.rows("SELECT node, run_id, member FROM dbha.desync ORDER BY node")
    except SqlError as error:
        if error.code in MISSING:
            return []
        raise
    return [Desynced(row["node"], row["run_id"], row["member"]) for row in rows]


def _is_on(session: Session) -> bool:
    return bool(session.value("SELECT @@GLOBAL.wsrep_desync"))


def _member(session: Session) -> str:
    return str(_status(session, "wsrep_gcomm_uuid"))


def _status(session: Session, name: str) -> object:
    rows = session.rows(f"SHOW GLOBAL STATUS LIKE '{name}'")
    return rows[0]["Value"] if rows else ""


def _is_synced_in_time(session: Session) -> bool:
    deadline_s = time.monotonic() + _CATCH_UP_S
    while int(str(_status(session, "wsrep_local_state") or 0)) != SYNCED:
        if time.monotonic() > deadline_s:
            return False
        time.sleep(_PAUSE_S)
    return True
