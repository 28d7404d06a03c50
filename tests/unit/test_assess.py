"""The verdict on a cluster, as a table: over answers that real nodes gave, and over what could not be staged."""

import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbha.cluster.assess import NodeVerdict, assess
from dbha.cluster.handle import Cluster
from dbha.cluster.observe import STATUS_QUERY, VARIABLES_QUERY, observe
from dbha.cluster.state import NodeState, parse_state, silent_state
from dbha.database import Account, Parameters, Row, Session
from dbha.inventory import Node
from dbha.secrets import Secret

FIXTURES = Path(__file__).parents[1] / "fixtures" / "wsrep"
NOW = datetime(2026, 11, 23, tzinfo=UTC)
HISTORY = "11111111-e6fa-11f1-be86-8296c2051d3c"
OTHER_HISTORY = "22222222-e6fa-11f1-be86-8296c2051d3c"


def captured(name: str) -> list[NodeState]:
    """Return the states that capture.py wrote down under this name."""
    nodes = json.loads((FIXTURES / f"{name}.json").read_text(encoding="utf-8"))["nodes"]
    return [_captured_state(entry) for entry in nodes]


def _captured_state(entry: dict[str, object]) -> NodeState:
    node = Node(str(entry["name"]), str(entry["address"]), int(str(entry["port"])), "/data")
    if entry["error"]:
        return silent_state(node, str(entry["error"]), observed_at=NOW)
    rows = [
        [{"Variable_name": key, "Value": value} for key, value in dict(part).items()]  # type: ignore[call-overload]
        for part in (entry["status"], entry["variables"])
    ]
    return parse_state(node, *rows, observed_at=NOW, round_trip_s=0.01)


def synced(
    name: str, conf_id: int = 5, size: int = 3, *, uuid: str = HISTORY, local_state: int = 4
) -> NodeState:
    """Return a node that is well by its own word."""
    comment = {1: "Joining", 2: "Donor/Desynced", 3: "Joined", 4: "Synced"}[local_state]
    return NodeState(
        name, "192.0.2.1", 3306, True, NOW, cluster_status="Primary", local_state=local_state,
        local_state_comment=comment, ready=local_state in (2, 4), connected=True, cluster_state_uuid=uuid,
        conf_id=conf_id, cluster_size=size, last_committed=7, receive_queue=0, version="10.11.19",
        round_trip_s=0.01,
    )  # fmt: skip


def silent(name: str) -> NodeState:
    """Return a node that does not answer."""
    return NodeState(
        name, "192.0.2.1", 3306, False, NOW, error=f"{name} (192.0.2.1:3306) does not answer: refused"
    )


def cut_off(name: str) -> NodeState:
    """Return a node that answers and has lost its Primary component."""
    return replace(
        synced(name), cluster_status="non-Primary", local_state=0, local_state_comment="Initialized",
        ready=False, conf_id=None, cluster_size=1,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "level", "serving"),
    [
        ("healthy", "healthy", "node1 node2 node3"),
        # What no observer can know: for some seconds an isolated node and the others look as before.
        ("isolated_at_once", "healthy", "node1 node2 node3"),
        ("alone", "degraded", "node1"),
        ("desynced", "degraded", "node1 node3"),
        ("donor", "degraded", "node2"),
        ("frozen", "degraded", "node1 node2"),
        ("frozen_at_once", "degraded", "node1 node2"),
        ("isolated", "degraded", "node1 node2"),
        ("joining_by_ist", "degraded", "node2"),
        ("killed", "degraded", "node1 node2"),
        ("killed_at_once", "degraded", "node1 node2"),
        ("only_donor", "degraded", "node1"),
        ("read_lock", "degraded", "node1 node2"),
        ("read_only", "degraded", "node2 node3"),
        ("rejecting", "degraded", "node1 node2"),
        ("rejoining", "degraded", "node1 node2"),
        ("shrunk", "degraded", "node1"),
        ("thawed", "degraded", "node1 node2"),
        ("lost_quorum", "down", ""),
        ("double_bootstrap", "unsafe", ""),
        ("other_history", "unsafe", ""),
    ],
)
def test_real_answers(name: str, level: str, serving: str) -> None:
    verdict = assess(captured(name))
    assert (verdict.level, " ".join(verdict.serving)) == (level, serving)
    assert verdict.writer == next(iter(serving.split()), None)
    assert verdict.may_write == (level in ("healthy", "degraded"))
    assert bool(verdict.reasons) == (level != "healthy")


def test_every_captured_file_is_in_the_table() -> None:
    (table,) = test_real_answers.pytestmark  # type: ignore[attr-defined]
    assert {row[0] for row in table.args[1]} == {path.stem for path in FIXTURES.glob("*.json")}


def test_a_thawed_node_is_not_believed_though_it_says_synced() -> None:
    node = assess(captured("thawed")).nodes[2]
    assert (node.state, node.synced, node.view_agrees, node.serves) == ("Synced", True, False, False)
    assert "may serve stale data" in node.why


def test_a_survivor_without_quorum_has_no_configuration() -> None:
    state = captured("lost_quorum")[0]
    assert (state.cluster_status, state.conf_id, state.ready, state.connected) == (
        "non-Primary",
        None,
        False,
        True,
    )


ONE = [synced("node1", size=1)]
TWO = [synced("node1", size=2), synced("node2", size=2)]
THREE = [synced("node1"), synced("node2"), synced("node3")]


@pytest.mark.parametrize(
    ("states", "expected", "level", "serving", "reason"),
    [
        pytest.param(ONE, None, "healthy", "node1", "", id="a cluster of one"),
        pytest.param([silent("node1")], None, "down", "", "no node answers", id="a cluster of one, silent"),
        pytest.param([cut_off("node1")], None, "down", "", "in no Primary", id="a cluster of one, cut off"),
        pytest.param([], None, "down", "", "no node answers", id="no nodes"),
        pytest.param(THREE, 3, "healthy", "node1 node2 node3", "", id="as many as expected"),
        pytest.param(TWO, 3, "degraded", "node1 node2", "is the arbitrator down?", id="an arbitrator is missing"),
        pytest.param(
            [synced("node1"), synced("node2")], 3, "healthy", "node1 node2", "", id="with an arbitrator"
        ),
        pytest.param(
            [synced("node1"), synced("node2")], None, "degraded", "node1 node2",
            "the cluster has 3 members, expected are 2; one is not in the inventory", id="a stranger is a member",
        ),
        pytest.param(
            THREE, 2, "degraded", "node1 node2 node3", "the cluster has 3 members, expected are 2",
            id="more than expected",
        ),
        pytest.param(
            [silent("node1"), synced("node2"), synced("node3")], None, "degraded", "node2 node3",
            "still counts node1", id="the writer is gone",
        ),
        pytest.param(
            [synced("node1", 6, 1), silent("node2"), silent("node3")], None, "degraded", "node1",
            "node2 (192.0.2.1:3306) does not answer: refused", id="the last one, after clean stops",
        ),
        pytest.param(
            [synced("node1", 12, 2), silent("node2"), synced("node3", 11, 3)], None, "degraded", "node1",
            "node3 calls itself Synced", id="thawed, and its better is out of sight",
        ),
        pytest.param(
            [synced("node1", 12, 3), synced("node2", 11, 3)], 3, "degraded", "node1", "node2 calls itself Synced",
            id="thawed beside an arbitrator",
        ),
        pytest.param(
            [synced("node1", 11, 3), synced("node2", 12, 2), silent("node3")], None, "degraded", "node2",
            "node1 calls itself Synced", id="node2 has heard of the new view, node1 not yet",
        ),
        pytest.param(
            [cut_off("node1"), cut_off("node2"), synced("node3")], None, "down", "",
            "no node serves, though node1, node2 and node3 answered", id="thawed alone, and the others lost quorum",
        ),
        pytest.param(
            [synced("node1"), synced("node2"), cut_off("node3")], None, "degraded", "node1 node2",
            "node3 is non-Primary", id="just cut off, and the others have not noticed",
        ),
        pytest.param(
            [cut_off("node1"), cut_off("node2"), cut_off("node3"), cut_off("node4")], None, "down", "",
            "no node is in a Primary component", id="an even split",
        ),
        pytest.param(
            [synced("node1", 5, 2), synced("node2", 5, 2), synced("node3", 5, 2), synced("node4", 5, 2)],
            None, "unsafe", "", "are 4 nodes, but each counts 2 members", id="both halves were forced, alike",
        ),
        pytest.param(
            [synced("node1", 5, 2), synced("node2", 5, 2), synced("node3", 6, 2), synced("node4", 6, 2)],
            None, "unsafe", "", "two Primary components", id="both halves were forced",
        ),
        pytest.param(
            [synced("node1", 5, 2), synced("node2", 5, 2), synced("node3", 6, 1)], None, "unsafe", "node1 node2",
            "two Primary components", id="a minority was forced; the majority goes on serving",
        ),
        pytest.param(
            [synced("node1", 5, 2), silent("node2"), synced("node3", 6, 1)], None, "unsafe", "",
            "two Primary components", id="a minority was forced, and nobody sees a majority",
        ),
        pytest.param(
            [synced("node1", 5, 2), synced("node2", 5, 2), synced("node3", 1, 1, uuid=OTHER_HISTORY)], None,
            "unsafe", "node1 node2", f"node3 of cluster {OTHER_HISTORY}", id="a node of another history",
        ),
        pytest.param(
            [*TWO, replace(cut_off("node3"), cluster_state_uuid=OTHER_HISTORY)],
            None, "degraded", "node1 node2", "of another history", id="another history, and no component of its own",
        ),
        pytest.param(
            [synced("node1"), synced("node2"), synced("node3", local_state=3)], None, "degraded", "node1 node2",
            "node3 is Joined and not yet Synced", id="joined",
        ),
        pytest.param(
            [synced("node1", 7, 3), synced("node2", 7, 3), synced("node3", 6, 2, local_state=1)], None, "degraded",
            "node1 node2", "node3 is Joining and not yet a member", id="a joiner still has its old view",
        ),
        pytest.param(
            [replace(state, read_only=True) for state in THREE], None, "down", "", "node2 is read only",
            id="all are read only",
        ),
        pytest.param(
            [synced("node1", local_state=2), replace(THREE[1], read_only=True), synced("node3", local_state=3)],
            None, "degraded", "node1", "it serves because no Synced node does", id="the donor is all there is",
        ),
        pytest.param(
            [replace(synced("node1"), ready=False), *THREE[1:]], None, "degraded", "node2 node3", "wsrep_ready",
            id="not ready",
        ),
        pytest.param(
            [NodeState("node1", "192.0.2.1", 3306, True, NOW), *TWO], None, "degraded", "node1 node2",
            "node1 is not a Galera node", id="no answer about wsrep at all",
        ),
    ],
)  # fmt: skip
def test_verdict(
    states: list[NodeState], expected: int | None, level: str, serving: str, reason: str
) -> None:
    verdict = assess(states, expected=expected)
    assert (verdict.level, " ".join(verdict.serving)) == (level, serving), verdict.reasons
    assert reason in "\n".join(verdict.reasons)
    assert bool(verdict.reasons) == (level != "healthy")


@st.composite
def clusters(draw: st.DrawFn) -> list[NodeState]:
    """Return up to five nodes, each in any state and with any of a few views."""
    size = draw(st.integers(1, 5))
    return [_any_node(draw, f"node{number}") for number in range(1, size + 1)]


def _any_node(draw: st.DrawFn, name: str) -> NodeState:
    kind = draw(st.sampled_from(["silent", "cut off", "member", "member", "member"]))
    if kind != "member":
        return silent(name) if kind == "silent" else cut_off(name)
    return synced(
        name, draw(st.integers(5, 7)), draw(st.integers(1, 5)),
        uuid=draw(st.sampled_from([HISTORY, HISTORY, OTHER_HISTORY])),
        local_state=draw(st.sampled_from([1, 2, 3, 4, 4])),
    )  # fmt: skip


@given(states=clusters())
def test_only_nodes_with_one_and_the_same_view_ever_serve(states: Sequence[NodeState]) -> None:
    verdict = assess(states)
    views = {
        (state.cluster_state_uuid, state.conf_id, state.cluster_size)
        for state, node in zip(states, verdict.nodes, strict=True)
        if node.serves
    }
    assert len(views) <= 1
    assert all(node.view_agrees for node in verdict.nodes if node.serves)


@given(states=clusters())
def test_what_does_not_serve_says_why(states: Sequence[NodeState]) -> None:
    verdict = assess(states)
    assert all(node.why for node in verdict.nodes if not node.serves)
    assert (verdict.level == "healthy") == (not verdict.reasons)
    assert verdict.may_write == (verdict.writer is not None and verdict.level != "unsafe")
    assert verdict == assess(states)


@given(states=clusters(), gone=st.integers(0, 4))
def test_seeing_less_never_makes_a_cluster_healthy(states: list[NodeState], gone: int) -> None:
    seen = [silent(state.name) if number == gone else state for number, state in enumerate(states)]
    if seen != states:
        assert assess(seen).level != "healthy"


def test_the_writer_is_the_first_in_inventory_order() -> None:
    assert assess(THREE).writer == "node1"
    assert assess(THREE[::-1]).writer == "node3"


def test_a_node_verdict_reads_like_a_sentence() -> None:
    verdict = assess([*TWO, silent("node3")])
    assert verdict.reasons == ("node3 (192.0.2.1:3306) does not answer: refused",)
    assert verdict.nodes[0] == NodeVerdict("node1", "Synced", True, True, True, "")


def test_views_that_differ_for_a_moment_are_looked_at_twice() -> None:
    cluster = Scripted({"node1": [(5, 3), (6, 2)], "node2": [(6, 2), (6, 2)]})
    assert [(state.conf_id, state.cluster_size) for state in observe(cluster, 5)] == [(6, 2), (6, 2)]


def test_views_that_agree_are_looked_at_once() -> None:
    cluster = Scripted({"node1": [(5, 2)], "node2": [(5, 2)]})
    assert assess(observe(cluster, 5)).level == "healthy"


class Scripted(Cluster):
    """A cluster whose nodes answer with given views, (conf_id, size), one for each look; fails on one look more."""

    def __init__(self, views: Mapping[str, Sequence[tuple[int, int]]]) -> None:
        nodes = tuple(Node(name, "192.0.2.1", 3306, f"/{name}") for name in views)
        super().__init__("scripted", nodes, Account("nobody", Secret("")))
        self._views = {name: list(script) for name, script in views.items()}

    def session(self, node: Node, *, read_timeout_s: float | None = None) -> AbstractContextManager[Session]:
        return nullcontext(ScriptedSession(node, *self._views[node.name].pop(0)))


class ScriptedSession(Session):
    """Answers the two queries of the probe, and nothing else."""

    def __init__(self, node: Node, conf_id: int, size: int) -> None:
        self.node = node
        status = {
            "wsrep_cluster_status": "Primary", "wsrep_local_state": 4, "wsrep_ready": "ON",
            "wsrep_connected": "ON", "wsrep_cluster_state_uuid": HISTORY, "wsrep_cluster_conf_id": conf_id,
            "wsrep_cluster_size": size,
        }  # fmt: skip
        self._answers: dict[str, list[Row]] = {
            STATUS_QUERY: [{"Variable_name": name, "Value": value} for name, value in status.items()],
            VARIABLES_QUERY: [],
        }

    def rows(self, sql: str, parameters: Parameters = None) -> list[Row]:
        return self._answers[sql]

    def execute(self, sql: str, parameters: Parameters = None) -> int:
        assert sql == "SET SESSION wsrep_sync_wait = 0"
        return 0
