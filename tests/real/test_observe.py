"""Observing a real cluster: in order, in time, and not fooled by a node that comes back from a freeze."""

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dbha.cluster.assess import Verdict, assess
from dbha.cluster.handle import Cluster
from dbha.cluster.home import (
    begin_timeline,
    current_timeline,
    ensure_home,
    record_release,
    recorded_releases,
)
from dbha.cluster.observe import observe
from dbha.inventory import Node

pytestmark = pytest.mark.real

TIMEOUT_S = 2.0
SETTLED_WITHIN_S = 60.0


@pytest.fixture
def cluster(sandbox: Any) -> Iterator[Cluster]:
    found: Cluster = sandbox.cluster
    yield found
    wait_until(found, lambda verdict: verdict.level == "healthy")


def test_a_healthy_cluster(cluster: Cluster) -> None:
    states = observe(cluster, TIMEOUT_S)
    assert [state.name for state in states] == [node.name for node in cluster.nodes]
    assert {state.local_state_comment for state in states} == {"Synced"}
    assert len({(state.cluster_state_uuid, state.conf_id, state.cluster_size) for state in states}) == 1
    assert all(state.round_trip_s is not None and state.round_trip_s < TIMEOUT_S for state in states)
    assert assess(states).level == "healthy"


def test_nodes_that_refuse_deny_or_keep_silent_are_states_and_keep_their_place(cluster: Cluster) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute, socket.create_server(("127.0.0.1", 0)) as closed:
        ports = mute.getsockname()[1], closed.getsockname()[1]
        closed.close()
        strange = Cluster(
            cluster.name,
            (Node("mute", "127.0.0.1", ports[0], "/1"), Node("closed", "127.0.0.1", ports[1], "/2"), *cluster.nodes),
            cluster.account,
        )  # fmt: skip
        started_s = time.monotonic()
        states = observe(strange, TIMEOUT_S)
        assert time.monotonic() - started_s < TIMEOUT_S + 0.5
    assert [state.name for state in states][:2] == ["mute", "closed"]
    assert [state.reachable for state in states] == [False, False, *(True for _ in cluster.nodes)]
    assert "does not answer" in states[0].error
    assert "refused" in states[1].error


def test_a_frozen_node_delays_nobody_and_is_not_believed_when_it_comes_back(cluster: Cluster) -> None:
    last = cluster.nodes[-1]
    with causal_reads_by_default(cluster, last):  # the probe must not wait for what the node has missed
        with frozen(cluster, last):
            started_s = time.monotonic()
            states = observe(cluster, TIMEOUT_S)
            assert time.monotonic() - started_s < TIMEOUT_S + 0.5
            assert [state.name for state in states if not state.reachable] == [last.name]
            wait_until(cluster, lambda _: evicted(cluster))
        states = observe(cluster, TIMEOUT_S)
        assert (states[-1].cluster_status, states[-1].local_state_comment) == ("Primary", "Synced")
        verdict = assess(states)
        assert (verdict.level, verdict.nodes[-1].view_agrees) == ("degraded", False)
        assert last.name not in verdict.serving
        wait_until(cluster, lambda found: found.level == "healthy")


def test_a_node_that_is_cut_off_is_seen_as_such(cluster: Cluster) -> None:
    last = cluster.nodes[-1]
    isolate(cluster, last, on=True)
    try:
        verdict = wait_until(cluster, lambda found: found.nodes[-1].state == "non-Primary")
        assert (verdict.level, verdict.writer, verdict.may_write) == ("degraded", cluster.nodes[0].name, True)
    finally:
        isolate(cluster, last, on=False)


def test_home_is_made_once_and_remembers(cluster: Cluster) -> None:
    first, *_, last = cluster.nodes
    with cluster.session(first) as session:
        ensure_home(session)
        committed = last_committed(cluster)
        ensure_home(session)
        assert last_committed(cluster) == committed, "the second time replicates nothing"
        before = begin_timeline(session, "first start")
        identity = begin_timeline(session, "restored")
        record_release(session, "glance", "2025.1", "r1")
        record_release(session, "glance", "2026.2", "r2")
    with cluster.session(last) as session:
        session.execute("SET SESSION wsrep_sync_wait = 1")
        assert current_timeline(session) == identity != before
        assert recorded_releases(session)["glance"] == "2026.2"
        assert session.value("SELECT COUNT(*) FROM dbha.timeline") == 1


def evicted(cluster: Cluster) -> bool:
    """Return whether the first node counts one member less than there are."""
    return observe(cluster, TIMEOUT_S)[0].cluster_size == len(cluster.nodes) - 1


def last_committed(cluster: Cluster) -> int | None:
    """Return the position of the first node."""
    return observe(cluster, TIMEOUT_S)[0].last_committed


def isolate(cluster: Cluster, node: Node, *, on: bool) -> None:
    """Cut the node off from the others, or undo that."""
    with cluster.session(node, read_timeout_s=30) as session:
        session.execute(f"SET GLOBAL wsrep_provider_options = 'gmcast.isolate={int(on)}'")


def wait_until(cluster: Cluster, wanted: Callable[[Verdict], bool]) -> Verdict:
    """Return the first verdict that is wanted."""
    deadline_s = time.monotonic() + SETTLED_WITHIN_S
    while True:
        verdict = assess(observe(cluster, TIMEOUT_S))
        if wanted(verdict):
            return verdict
        assert time.monotonic() < deadline_s, verdict
        time.sleep(0.2)


@contextmanager
def frozen(cluster: Cluster, node: Node) -> Iterator[None]:
    """Stop the node's process where it is, and let it go on at the end."""
    with cluster.session(node) as session:
        pid_file = Path(str(session.value("SELECT @@pid_file")))
    pid = int((Path(node.datadir) / pid_file).read_text(encoding="utf-8"))
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@contextmanager
def causal_reads_by_default(cluster: Cluster, node: Node) -> Iterator[None]:
    """Let every statement of new sessions on the node wait until it has caught up."""
    with cluster.session(node) as session:
        session.execute("SET GLOBAL wsrep_sync_wait = 15")
    try:
        yield
    finally:
        with cluster.session(node) as session:
            session.execute("SET GLOBAL wsrep_sync_wait = 0")
