"""Statements that outlived their controller: a server goes on with one when the process that sent it was killed."""

import time

from dbha.cluster.handle import Cluster, side_by_side
from dbha.database import NodeUnreachableError, literal
from dbha.errors import DbhaError
from dbha.inventory import Node

_WITHIN_S = 3600.0  # what a run sends touches a few tables at a time, but those may be large
_PAUSE_S = 0.2
_ANSWER_TIMEOUT_S = 5.0


def wait_for_outlived(cluster: Cluster, run_id: str, *, within_s: float = _WITHIN_S) -> None:
    """Return once no node executes a statement that an earlier controller of the run sent.

    Whatever such a statement does would happen in the middle of what comes next. To be called before this
    controller signs any statement itself. A node that cannot be asked is passed over: it does not serve either.
    Raises DbhaError, with the statement, when one does not end in time.
    """
    deadline_s = time.monotonic() + within_s
    while left := {node: found for node, found in _statements(cluster, run_id).items() if found}:
        if time.monotonic() > deadline_s:
            node, found = next(iter(left.items()))
            raise DbhaError(
                f"{node} still executes a statement of run {run_id} from before it was cut off: {found[0][:200]}",
                hint=f"dbha runs resume {run_id}     once it has ended",
                unchanged="nothing was done since",
            )
        time.sleep(_PAUSE_S)


def _statements(cluster: Cluster, run_id: str) -> dict[str, list[str]]:
    def ask(node: Node) -> list[str]:
        try:
            with cluster.session(node, read_timeout_s=_ANSWER_TIMEOUT_S) as session:
                return session.column(
                    "SELECT info FROM information_schema.processlist"
                    f" WHERE info LIKE {literal(f'/* dbha {run_id} *%')}"
                )
        except NodeUnreachableError:
            return []

    return side_by_side(ask, cluster.nodes)
