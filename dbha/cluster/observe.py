"""Ask every node for its state, side by side, and never wait longer than the limit."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from datetime import UTC, datetime
from functools import partial

from dbha.cluster.handle import Cluster
from dbha.cluster.state import PRIMARY, NodeState, parse_state, silent_state
from dbha.database import AccessDeniedError, Row, Session
from dbha.errors import DbhaError
from dbha.inventory import Node

STATUS_QUERY = "SHOW GLOBAL STATUS LIKE 'wsrep%'"
VARIABLES_QUERY = (
    "SHOW GLOBAL VARIABLES WHERE Variable_name IN "
    "('read_only', 'version', 'wsrep_desync', 'wsrep_on', 'wsrep_reject_queries')"
)

_BETWEEN_LOOKS_S = 0.2
_SETTLES_WITHIN_S = 15.0  # twice as long as members wait by default before they drop one that is silent
_BETWEEN_SETTLING_S = 0.5


def observe(cluster: Cluster, timeout_s: float) -> tuple[NodeState, ...]:
    """Return the state of every node, in inventory order, after at most `timeout_s`.

    Never raises for a node: one that refuses, denies the account or does not answer in time is a state. Where
    the nodes' views differ it looks a second time if there is time: members take up a new view some
    milliseconds apart, and only a difference that stays is worth a verdict.
    """
    deadline_s = time.monotonic() + timeout_s
    first = _look(cluster, cluster.nodes, timeout_s)
    answered = [node for node, state in zip(cluster.nodes, first, strict=True) if state.reachable]
    left_s = deadline_s - time.monotonic() - _BETWEEN_LOOKS_S
    if not _views_differ(first) or left_s < _BETWEEN_LOOKS_S:
        return first
    time.sleep(_BETWEEN_LOOKS_S)
    again = {state.name: state for state in _look(cluster, answered, left_s)}
    return tuple(again.get(state.name, state) for state in first)


def observe_settled(cluster: Cluster, timeout_s: float) -> tuple[NodeState, ...]:
    """Return the states once no component counts a node that is silent, or after 15 s.

    For some seconds after nodes were lost the others count them still, and nobody knows who keeps a quorum.
    """
    deadline_s = time.monotonic() + _SETTLES_WITHIN_S
    while _counts_the_silent(states := observe(cluster, timeout_s)) and time.monotonic() < deadline_s:
        time.sleep(_BETWEEN_SETTLING_S)
    return states


def _counts_the_silent(states: Sequence[NodeState]) -> bool:
    answering = sum(state.reachable for state in states)
    return answering < len(states) and any(
        state.cluster_status == PRIMARY and (state.cluster_size or 0) > answering for state in states
    )


def _views_differ(states: Sequence[NodeState]) -> bool:
    views = {
        (state.cluster_state_uuid, state.conf_id, state.cluster_size)
        for state in states
        if state.reachable and state.cluster_status == PRIMARY
    }
    return len(views) > 1


def _look(cluster: Cluster, nodes: Sequence[Node], timeout_s: float) -> tuple[NodeState, ...]:
    """Return the answers of `nodes`, asked once and at the same time.

    A frozen server accepts connections and answers nothing, so the limit is kept here and not left to the
    driver, whose timeouts start again with each packet; a thread that waits for such a server ends by itself.
    """
    asked = {node.name: _in_background(partial(_ask, cluster, node, timeout_s)) for node in nodes}
    wait(asked.values(), timeout=timeout_s)
    return tuple(
        asked[node.name].result() if asked[node.name].done() else _late(node, timeout_s) for node in nodes
    )


def probe(session: Session) -> tuple[list[Row], list[Row]]:
    """Return the rows of STATUS_QUERY and VARIABLES_QUERY, as the node is and not as it wishes to be.

    Turns `wsrep_sync_wait` off first: where it is on by default, SHOW waits for the node to catch up, and a
    node that cannot catch up would hang the probe instead of failing it.
    """
    session.execute("SET SESSION wsrep_sync_wait = 0")
    return session.rows(STATUS_QUERY), session.rows(VARIABLES_QUERY)


def _ask(cluster: Cluster, node: Node, timeout_s: float) -> NodeState:
    started_s = time.monotonic()
    try:
        with cluster.session(node, read_timeout_s=timeout_s) as session:
            status, variables = probe(session)
    except DbhaError as error:
        is_refusing = isinstance(error, AccessDeniedError)
        return silent_state(node, str(error), observed_at=datetime.now(UTC), is_refusing=is_refusing)
    return parse_state(
        node, status, variables, observed_at=datetime.now(UTC), round_trip_s=time.monotonic() - started_s
    )


def _in_background(ask: Callable[[], NodeState]) -> Future[NodeState]:
    """Return the answer to come, from a daemon thread: a frozen server must not hold up the process's end."""
    answer: Future[NodeState] = Future()

    def run() -> None:
        try:
            answer.set_result(ask())
        except BaseException as error:  # noqa: BLE001 - a bug; `result` raises it in the caller's thread
            answer.set_exception(error)

    threading.Thread(target=run, name="observe", daemon=True).start()
    return answer


def _late(node: Node, timeout_s: float) -> NodeState:
    error = f"{node} ({node.address}:{node.port}) does not answer: no answer within {timeout_s:g} s"
    return silent_state(node, error, observed_at=datetime.now(UTC))
