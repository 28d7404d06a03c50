"""Metrics of the nodes and of the verdict on them."""

from collections.abc import Iterator
from typing import get_args

from dbha.cluster.assess import Level, NodeVerdict
from dbha.cluster.state import PRIMARY, NodeState
from dbha.health.metric import Kind, Metric, Sample
from dbha.health.observation import NodesSeen

VERDICTS: tuple[str, ...] = get_args(Level)
_GALERA_STATES = {1: "joining", 2: "donor", 3: "joined", 4: "synced"}
STATES = ("unreachable", "non_primary", *_GALERA_STATES.values(), "other")

VERDICT = Metric("dbha_cluster_verdict", "The verdict on the cluster, 1 for the present one.", ("verdict",))
REASONS = Metric(
    "dbha_cluster_reasons", "How many reasons the verdict has; /health and dbha status tell them."
)
NODES = Metric("dbha_cluster_nodes", "Nodes that the inventory has.")
SERVING = Metric("dbha_cluster_serving_nodes", "Nodes that serve by the verdict.")
MAY_WRITE = Metric("dbha_cluster_may_write", "Whether there is a writer and the cluster may be changed.")

_NODE = ("node",)
INFO = Metric(
    "dbha_node_info", "Address and server version of a node that answers.", ("node", "address", "version")
)
REACHABLE = Metric("dbha_node_reachable", "Whether the node answered within the time limit.", _NODE)
PRIMARY_METRIC = Metric(
    "dbha_node_primary", "Whether the node says that it is in a Primary component.", _NODE
)
SYNCED = Metric("dbha_node_synced", "Whether the node says that it is Synced in a Primary component.", _NODE)
AGREES = Metric(
    "dbha_node_view_agrees",
    "Whether the node has the view of the cluster that the others' answers support.",
    _NODE,
)
SERVES = Metric("dbha_node_serves", "Whether clients may be sent to the node, by the verdict.", _NODE)
WRITER = Metric("dbha_node_writer", "Whether the node is the one that clients should write to.", _NODE)
STATE = Metric("dbha_node_state", "Where the node stands, 1 for the present state.", ("node", "state"))
DESYNCED = Metric("dbha_node_desynced", "Whether wsrep_desync holds the node out of flow control.", _NODE)
READ_ONLY = Metric("dbha_node_read_only", "Whether read_only is set.", _NODE)
REJECTS = Metric("dbha_node_rejects_queries", "Whether wsrep_reject_queries is set.", _NODE)
MEMBERS = Metric("dbha_node_view_members", "Members in the node's own view of the cluster.", _NODE)
QUEUE = Metric("dbha_node_receive_queue_writesets", "Write sets that wait to be applied.", _NODE)
PAUSED = Metric(
    "dbha_node_flow_control_paused_seconds_total",
    "For how long flow control has held the node up since its server started.",
    _NODE,
    Kind.COUNTER,
)
ROUND_TRIP = Metric("dbha_node_round_trip_seconds", "How long the node took to answer.", _NODE)

METRICS = (
    VERDICT, REASONS, NODES, SERVING, MAY_WRITE, INFO, REACHABLE, PRIMARY_METRIC, SYNCED, AGREES, SERVES, WRITER,
    STATE, DESYNCED, READ_ONLY, REJECTS, MEMBERS, QUEUE, PAUSED, ROUND_TRIP,
)  # fmt: skip


def samples_of_nodes(seen: NodesSeen) -> Iterator[Sample]:
    """Yield what the nodes said and what is thought of it. What a silent node would say is left out."""
    verdict = seen.verdict
    yield from VERDICT.each(VERDICTS, verdict.level)
    yield from REASONS.of(len(verdict.reasons))
    yield from NODES.of(len(seen.nodes))
    yield from SERVING.of(len(verdict.serving))
    yield from MAY_WRITE.of(verdict.may_write)
    for state, judged in zip(seen.states, verdict.nodes, strict=True):
        yield from _of_node(state, judged, is_writer=state.name == verdict.writer)


def _of_node(state: NodeState, judged: NodeVerdict, *, is_writer: bool) -> Iterator[Sample]:
    name = state.name
    yield from REACHABLE.of(state.reachable, name)
    yield from PRIMARY_METRIC.of(state.cluster_status == PRIMARY, name)
    yield from SYNCED.of(judged.synced, name)
    yield from AGREES.of(judged.view_agrees, name)
    yield from SERVES.of(judged.serves, name)
    yield from WRITER.of(is_writer, name)
    yield from STATE.each(STATES, state_of(state), name)
    if state.reachable:
        yield from INFO.of(1, name, f"{state.address}:{state.port}", state.version)
        yield from DESYNCED.of(state.desynced, name)
        yield from READ_ONLY.of(state.read_only, name)
        yield from REJECTS.of(state.rejects_queries, name)
    yield from MEMBERS.of(state.cluster_size, name)
    yield from QUEUE.of(state.receive_queue, name)
    yield from PAUSED.of(state.flow_control_paused_s, name)
    yield from ROUND_TRIP.of(state.round_trip_s, name)


def state_of(state: NodeState) -> str:
    """Return which of `STATES` a node is in."""
    if not state.reachable:
        return "unreachable"
    if state.cluster_status != PRIMARY:
        return "non_primary"
    return _GALERA_STATES.get(state.local_state or 0, "other")
