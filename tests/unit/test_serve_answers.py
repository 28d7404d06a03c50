"""What balancers and monitors are answered, as a table over observations."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from dbha.cluster.state import NodeState
from dbha.health.observation import Look, Moment, Observation
from dbha.serve.answers import health, live, ready, writer
from tests.unit.test_assess import OTHER_HISTORY, cut_off, silent, synced
from tests.unit.test_metrics import RUNS, seen_nodes

WALL = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
NOW = Moment(WALL, 1000.0)
STALE_AFTER_S = 10.0

WELL = (synced("a"), synced("b"), synced("c"))
FIRST_LOST = (silent("a"), synced("b", 6, 2), synced("c", 6, 2))
FROZEN_AND_BACK = (synced("a"), synced("b", 6, 2), synced("c", 6, 2))
DONOR = (synced("a", local_state=2), synced("b"), synced("c"))
DOWN = (silent("a"), cut_off("b"), silent("c"))
UNSAFE = (
    synced("a", size=1, uuid=OTHER_HISTORY), synced("b", 6, 2), synced("c", 6, 2),
)  # fmt: skip


def observed(*states: NodeState, age_s: float = 1.0) -> Observation:
    return Observation("lab", nodes=Look(seen_nodes(*states), Moment(WALL, NOW.monotonic_s - age_s), 0.1, ""))


@pytest.mark.parametrize(
    ("states", "whole", "ready_nodes", "writer_node", "verdict"),
    [
        pytest.param(WELL, (200, 200, 200), "abc", "a", "healthy", id="well"),
        pytest.param(FIRST_LOST, (200, 200, 200), "bc", "b", "degraded", id="the writer is lost"),
        pytest.param(FROZEN_AND_BACK, (200, 200, 200), "bc", "b", "degraded", id="back from a freeze"),
        pytest.param(DONOR, (200, 200, 200), "bc", "b", "degraded", id="the writer is a donor"),
        pytest.param(DOWN, (503, 503, 503), "", None, "down", id="down"),
        pytest.param(UNSAFE, (503, 200, 200), "bc", "b", "unsafe", id="two histories, one has a majority"),
    ],
)
def test_answers(
    states: tuple[NodeState, ...],
    whole: tuple[int, int, int],
    ready_nodes: str,
    writer_node: str | None,
    verdict: str,
) -> None:
    found = observed(*states)
    asked = (health, ready, writer)
    assert tuple(ask(found, NOW, STALE_AFTER_S).status for ask in asked) == whole
    assert health(found, NOW, STALE_AFTER_S).body["verdict"] == verdict
    assert writer(found, NOW, STALE_AFTER_S).body["writer"] == writer_node
    for name in "abc":
        answer = ready(found, NOW, STALE_AFTER_S, name)
        assert answer.status == (200 if name in ready_nodes else 503)
        assert answer.status == 200 or answer.body["why"]
        answer = writer(found, NOW, STALE_AFTER_S, name)
        assert answer.status == (200 if name == writer_node else 503)
        assert (answer.body["why"] == "") == (name == writer_node)


def test_what_is_too_old_counts_for_nothing() -> None:
    for found, words in (
        (observed(*WELL, age_s=10.5), "the last observation is 10 s old (limit 10 s)"),
        (Observation("lab"), "the nodes were not observed: no answer yet"),
    ):
        assert [ask(found, NOW, STALE_AFTER_S).status for ask in (health, ready, writer)] == [503] * 3
        assert writer(found, NOW, STALE_AFTER_S, "a").body["why"] == words
        assert health(found, NOW, STALE_AFTER_S).body["verdict"] == "unknown"
    assert ready(observed(*WELL, age_s=9.9), NOW, STALE_AFTER_S).status == 200
    assert live().status == 200


def test_a_clock_that_jumps_makes_nothing_stale() -> None:
    jumped = Moment(WALL.replace(year=2030), NOW.monotonic_s)
    assert ready(observed(*WELL), jumped, STALE_AFTER_S).status == 200


def test_a_node_that_is_not_in_the_inventory() -> None:
    answer = ready(observed(*WELL), NOW, STALE_AFTER_S, "d")
    assert (answer.status, answer.body["why"]) == (404, "no node is called d; there are a, b, c")


def test_runs_that_need_somebody_are_told_apart_from_the_one_in_progress() -> None:
    body = health(replace(observed(*WELL), runs=Look(RUNS, NOW, 0, "")), NOW, STALE_AFTER_S).body
    assert (body["active_run"], body["unfinished_runs"]) == ("run-of-upgrade", ["run-of-restore"])
