"""Wait for members that come back as long as something of them moves: a transfer may take hours."""

import time
from collections.abc import Callable, Sequence

from dbha.cluster.bootstrap import what_is_missing
from dbha.cluster.evidence import ask
from dbha.cluster.handle import Cluster
from dbha.cluster.observe import observe
from dbha.cluster.state import SYNCED, NodeState
from dbha.errors import NotRecoveredError
from dbha.inventory import Node

STILL_FOR_S = 120.0  # how long nothing of a member may move
_LOOK_EVERY_S = 0.2
_PROGRESS_EVERY_S = 2.0
_OBSERVE_WITHIN_S = 3.0

OnBytes = Callable[[int, int | None], None]


class Moves:
    """How long what is counted of a member has stood still."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._last: object = None
        self._since_s = now_s()

    def still_s(self, counted: object) -> float:
        """Return for how many seconds this has been the same."""
        if counted != self._last:
            self._last, self._since_s = counted, self._now_s()
        return self._now_s() - self._since_s


def await_members(cluster: Cluster, nodes: Sequence[Node], on_bytes: OnBytes) -> tuple[NodeState, ...]:
    """Return the states of `nodes` once all are Synced in one component and have nothing left to apply.

    Raises NotRecoveredError when a server ended, or when nothing of a node moved for two minutes; then its server is
    left running, since it may yet go on.
    """
    part = cluster.only(node.name for node in nodes)
    moves = {node.name: Moves() for node in nodes}
    asked_s = time.monotonic()
    while True:
        states = observe(part, _OBSERVE_WITHIN_S)
        if not what_is_missing(states) and not any(state.receive_queue for state in states):
            return states
        if time.monotonic() - asked_s > _PROGRESS_EVERY_S:
            for node, state in zip(part.nodes, states, strict=True):
                _require_progress(cluster, node, state, moves[node.name], on_bytes)
            asked_s = time.monotonic()
        time.sleep(_LOOK_EVERY_S)


def _require_progress(
    cluster: Cluster, node: Node, state: NodeState, moves: Moves, on_bytes: OnBytes
) -> None:
    if state.local_state == SYNCED and not state.receive_queue:
        return
    answer = ask(cluster, node, "progress")
    if not answer["runs"]:
        raise NotRecoveredError(f"the server of {node} ended: {answer['log'] or 'it logged nothing'}")
    on_bytes(answer["size_bytes"], None)
    if moves.still_s((answer["size_bytes"], answer["moved_bytes"], state.last_committed)) > STILL_FOR_S:
        doing = state.local_state_comment or "starting, or waiting for a donor"
        raise NotRecoveredError(
            f"nothing of {node} moved for {STILL_FOR_S:g} s: it is {doing}, and still runs"
        )
