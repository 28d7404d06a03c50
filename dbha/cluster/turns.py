"""Ask the nodes in turn until one answers, through failing members and stalls of the whole cluster."""

import logging
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from dbha.cluster.handle import Cluster
from dbha.database import NodeUnreachableError, Session, SqlError
from dbha.errors import UnreachableError
from dbha.inventory import Node

T = TypeVar("T")
log = logging.getLogger(__name__)

_PAUSE_S = 0.1
DEADLOCK = 1213  # lost certification against another node's commit: read again, and judge again
_WAITED_TOO_LONG = 1205  # for a lock, or longer than repl.causal_read_timeout to catch up
_NOT_HERE = (  # what another node, or this one a moment later, may do better
    1040,  # too many connections
    1047,  # in no Primary component, or rejects queries
    1053,  # is shutting down
    1180,  # could not replicate the commit
    _WAITED_TOO_LONG,
    1290,  # is read only
    1317,  # the statement was interrupted
    1927,  # the connection was ended
)


class _StalledError(NodeUnreachableError):
    """The node let a session in, and then did not finish a statement."""


class NodesInTurn:
    """Some nodes, asked one after the other; the next question begins with the one that answered last."""

    def __init__(self, cluster: Cluster, nodes: Sequence[Node], answer_timeout_s: float) -> None:
        self._cluster = cluster
        self._nodes = list(nodes)
        self._answer_timeout_s = answer_timeout_s

    def ask(
        self, question: Callable[[Session], T], *, until_s: Callable[[], float], outlast_stalls: bool = False
    ) -> T:
        """Return the first answer; the session reads causally, so a node left behind fails instead of lying.

        Raises UnreachableError when a round past `until_s`, on the clock of `now_s`, ends without an answer, and
        what `question` raises for reasons that another node would not change. With `outlast_stalls` it goes on
        as long as a node accepts sessions and only does not finish: the cluster waits for a schema change or
        drops a dead member. Each round then waits twice as long, to leave few statements behind.
        """
        timeout_s = self._answer_timeout_s
        while True:
            troubles: list[Exception] = []
            for node in self._nodes:
                try:
                    answer = self._ask_one(node, question, timeout_s)
                except (UnreachableError, SqlError) as error:
                    if not _may_pass(error):
                        raise
                    troubles.append(error)
                else:
                    self._begin_with(node)
                    return answer
            told = "; ".join(map(str, troubles))
            if outlast_stalls and any(isinstance(trouble, _StalledError) for trouble in troubles):
                log.warning("waiting for the cluster: no node finished within %g s", timeout_s)
                timeout_s *= 2
            elif now_s() >= until_s():
                raise UnreachableError(f"no node answers: {told}") from troubles[-1]
            time.sleep(_PAUSE_S)

    def _ask_one(self, node: Node, question: Callable[[Session], T], timeout_s: float) -> T:
        with self._cluster.session(node, read_timeout_s=timeout_s) as session:
            session.execute("SET SESSION wsrep_sync_wait = 1, wsrep_dirty_reads = OFF")
            try:
                return question(session)
            except (NodeUnreachableError, SqlError) as error:
                if isinstance(error, SqlError) and error.code != _WAITED_TOO_LONG:
                    raise
                raise _StalledError(str(error)) from error

    def _begin_with(self, node: Node) -> None:
        if self._nodes[0] != node:  # a new list: another thread may be walking through the old one
            self._nodes = [node, *(other for other in self._nodes if other != node)]


def now_s() -> float:
    """Return the time on a clock that nobody sets and that goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def after(delay_s: float) -> Callable[[], float]:
    """Return the end of a wait that begins now, for `ask`."""
    end_s = now_s() + delay_s
    return lambda: end_s


def _may_pass(error: UnreachableError | SqlError) -> bool:
    return not isinstance(error, SqlError) or error.code == DEADLOCK or error.code in _NOT_HERE
