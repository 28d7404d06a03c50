"""Whether a new cluster may be made, and when nodes are one cluster."""

import uuid
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from dbha.cluster.bootstrap import DatadirState, first_view, may_bootstrap, what_is_missing
from dbha.cluster.state import NodeState
from dbha.errors import UnsafeError
from dbha.inventory import Node

SYNCED = NodeState(
    "node1", "127.0.0.1", 3306, reachable=True, observed_at=datetime(2026, 1, 1, tzinfo=UTC),
    cluster_status="Primary", local_state=4, local_state_comment="Synced", ready=True, connected=True,
    cluster_state_uuid="u", conf_id=2, cluster_size=2,
)  # fmt: skip
OTHER = replace(SYNCED, name="node2")
EMPTY = DatadirState("node1", (), answers=False)


@pytest.mark.parametrize(
    "states",
    [
        pytest.param([EMPTY, replace(EMPTY, node="node2")], id="no data anywhere"),
        pytest.param(
            [replace(EMPTY, entries=("lost+found",))], id="the data directory is a file system of its own"
        ),
    ],
)
def test_a_new_cluster_may_be_made(states: list[DatadirState]) -> None:
    may_bootstrap(states)


@pytest.mark.parametrize(
    ("states", "reason"),
    [
        pytest.param(
            [EMPTY, DatadirState("node2", ("ibdata1",), False)], r"node2 has data \(ibdata1\)", id="data"
        ),
        pytest.param([EMPTY, DatadirState("node2", (), True)], "node2 answers", id="a server without data"),
        pytest.param(
            [DatadirState("node1", ("a", "b", "c", "d"), False)], r"\(a, b, c, \.\.\.\)", id="much data"
        ),
        pytest.param([], "there are no nodes", id="no nodes"),
    ],
)
def test_a_new_cluster_is_refused(states: list[DatadirState], reason: str) -> None:
    with pytest.raises(UnsafeError, match=reason):
        may_bootstrap(states)


def test_every_node_gets_a_uuid_of_its_own_of_galeras_kind() -> None:
    view = first_view([Node(f"node{number}", "127.0.0.1", number, f"/{number}") for number in range(1, 10)])
    assert len(set(view.values())) == 9
    assert {uuid.UUID(each).version for each in view.values()} == {1}
    assert len({uuid.UUID(each).node for each in view.values()}) == 9


def test_two_synced_nodes_are_a_cluster() -> None:
    assert what_is_missing([SYNCED, OTHER]) == ()


@pytest.mark.parametrize(
    ("other", "missing"),
    [
        pytest.param(
            replace(OTHER, reachable=False, error="refused"), "node2 does not answer (refused)", id="silent"
        ),
        pytest.param(replace(OTHER, cluster_status="non-Primary"), "node2 is non-Primary", id="no quorum"),
        pytest.param(
            replace(OTHER, local_state=1, local_state_comment="Joining"), "node2 is Joining", id="joining"
        ),
        pytest.param(
            replace(OTHER, conf_id=3), "the nodes do not agree on who belongs to the cluster", id="views"
        ),
    ],
)
def test_what_keeps_nodes_from_being_a_cluster(other: NodeState, missing: str) -> None:
    assert what_is_missing([SYNCED, other]) == (missing,)


def test_nodes_that_agree_on_a_smaller_cluster_are_not_one() -> None:
    alone = [replace(state, cluster_size=1) for state in (SYNCED, OTHER)]
    assert what_is_missing(alone) == ("the cluster has 1 of 2 nodes",)
