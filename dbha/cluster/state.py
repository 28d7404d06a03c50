"""What a node said of itself at one moment. Being unreachable is a value here, not an exception."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from dbha.database import Row
from dbha.inventory import Node

PRIMARY = "Primary"
SYNCED = 4  # wsrep_local_state; Galera numbers its states and keeps the numbers
DONOR = 2

_NONE = 2**64 - 1  # how Galera prints "there is none" in an unsigned number
_NO_UUID = "00000000-0000-0000-0000-000000000000"


@dataclass(frozen=True, slots=True)
class NodeState:
    """The observed state of one node, in Galera's own terms; the defaults are those of a silent node.

    `cluster_state_uuid`, `conf_id` and `cluster_size` together are the node's view of the cluster. A number is
    None where the node has none, as `conf_id` outside of a Primary component.
    """

    name: str
    address: str
    port: int
    reachable: bool
    observed_at: datetime
    error: str = ""  # why it is not reachable
    is_refusing: bool = False  # it answers, and does not let the administrator in
    cluster_status: str = ""
    local_state: int | None = None
    local_state_comment: str = ""
    ready: bool = False
    connected: bool = False
    cluster_state_uuid: str | None = None
    conf_id: int | None = None
    cluster_size: int | None = None
    last_committed: int | None = None
    receive_queue: int | None = None
    flow_control_paused_s: float | None = None  # since the server started
    desynced: bool = False
    read_only: bool = False
    rejects_queries: bool = False
    version: str = ""
    round_trip_s: float | None = None


def parse_state(
    node: Node, status: Iterable[Row], variables: Iterable[Row], *, observed_at: datetime, round_trip_s: float
) -> NodeState:
    """Return the state that the rows of SHOW GLOBAL STATUS and SHOW GLOBAL VARIABLES describe.

    A row that is missing reads as the cautious answer: not ready, not connected, no number.
    """
    told = _by_name(status) | _by_name(variables)
    uuid = told.get("wsrep_cluster_state_uuid", "")
    paused_ns = _number(told, "wsrep_flow_control_paused_ns")
    return NodeState(
        name=node.name,
        address=node.address,
        port=node.port,
        reachable=True,
        observed_at=observed_at,
        cluster_status=told.get("wsrep_cluster_status", ""),
        local_state=_number(told, "wsrep_local_state"),
        local_state_comment=told.get("wsrep_local_state_comment", ""),
        ready=told.get("wsrep_ready") == "ON",
        connected=told.get("wsrep_connected") == "ON",
        cluster_state_uuid=uuid if uuid not in ("", _NO_UUID) else None,
        conf_id=_number(told, "wsrep_cluster_conf_id"),
        cluster_size=_number(told, "wsrep_cluster_size"),
        last_committed=_number(told, "wsrep_last_committed"),
        receive_queue=_number(told, "wsrep_local_recv_queue"),
        flow_control_paused_s=paused_ns / 1e9 if paused_ns is not None else None,
        desynced=told.get("wsrep_desync") == "ON" or (_number(told, "wsrep_desync_count") or 0) > 0,
        read_only=told.get("read_only", "OFF") not in ("OFF", "0"),  # newer servers know more than ON
        rejects_queries=told.get("wsrep_reject_queries", "NONE") != "NONE",
        version=told.get("version", ""),
        round_trip_s=round_trip_s,
    )


def silent_state(node: Node, error: str, *, observed_at: datetime, is_refusing: bool = False) -> NodeState:
    """Return the state of a node that could not be asked, and why not."""
    return NodeState(
        node.name, node.address, node.port, False, observed_at, error=error, is_refusing=is_refusing
    )


def _by_name(rows: Iterable[Row]) -> dict[str, str]:
    return {str(row["Variable_name"]).lower(): str(row["Value"]) for row in rows}


def _number(told: Mapping[str, str], name: str) -> int | None:
    text = told.get(name, "")
    if not text.isdecimal() or int(text) == _NONE:  # -1 says "none" as well
        return None
    return int(text)
