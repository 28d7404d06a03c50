"""The lease on a real cluster: never two holders, whatever races, fails or stalls."""

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

import pytest

from dbha.cluster.handle import Cluster
from dbha.cluster.lease import Lease, LeaseRow, read_lease
from dbha.cluster.outlived import wait_for_outlived
from dbha.database import Account, NodeUnreachableError, Session
from dbha.errors import BusyError, DbhaError, InterruptedRunError, LeaseLostError
from dbha.inventory import Node
from tests.real.test_observe import frozen, wait_until

pytestmark = pytest.mark.real

TTL_S = 3.0
RACERS = 6
TURNS = 3
SLOW = "LENGTH(REGEXP_REPLACE(REPEAT('ab', 60000), '(a)(b)', '\\\\2\\\\1'))"  # 1 to 2 s of work for each row


@pytest.fixture
def cluster(sandbox: Any) -> Iterator[Cluster]:
    """The cluster with a lease that nobody holds."""
    found: Cluster = sandbox.cluster
    acquire(found, "clean", has_ended=lambda run_id: True).release()
    yield found
    wait_until(found, lambda verdict: verdict.level == "healthy")


def acquire(cluster: Cluster, run_id: str, **options: Any) -> Lease:
    """Take the lease for a run of this process."""
    settings: dict[str, Any] = {
        "workflow": "upgrade",
        "holder": f"here:{os.getpid()}",
        "ttl_s": TTL_S,
    } | options
    return Lease.acquire(cluster, run_id=run_id, **settings)


def row_on(cluster: Cluster, node: Node) -> LeaseRow:
    """Return the lease as this node knows it, once it knows all."""
    with cluster.session(node) as session:
        session.execute("SET SESSION wsrep_sync_wait = 1")
        row = read_lease(session)
    assert row is not None
    return row


def test_statements_that_outlive_their_controller_are_waited_for(cluster: Cluster) -> None:
    dead, heir = (replica(cluster) for _ in range(2))
    dead.sign_as("run-1")
    with ThreadPoolExecutor() as threads, dead.session(cluster.nodes[1]) as session:
        sleeping = threads.submit(session.execute, "DO SLEEP(2)")
        time.sleep(0.5)
        with pytest.raises(DbhaError, match=r"still executes a statement of run run-1 .* DO SLEEP"):
            wait_for_outlived(heir, "run-1", within_s=0.1)
        wait_for_outlived(heir, "run-2", within_s=0.1)
        wait_for_outlived(heir, "run-1")
        sleeping.result(timeout=0.5)


def replica(cluster: Cluster) -> Cluster:
    """Return a handle like the one another process has."""
    return Cluster(cluster.name, cluster.nodes, cluster.account)


def starting_with(cluster: Cluster, number: int) -> Cluster:
    """Return a handle that prefers another node."""
    first = number % len(cluster.nodes)
    return Cluster(cluster.name, cluster.nodes[first:] + cluster.nodes[:first], cluster.account)


def test_taken_renewed_and_given_back(cluster: Cluster) -> None:
    lease = acquire(cluster, "r1")
    before = row_on(cluster, cluster.nodes[-1])
    assert (before.run_id, before.token, before.expired) == ("r1", lease.token, False)
    time.sleep(TTL_S * 1.5)
    lease.check()
    after = row_on(cluster, cluster.nodes[-1])
    assert before.expires_at is not None
    assert after.expires_at is not None
    assert (after.token, after.expires_at > before.expires_at, after.expired) == (lease.token, True, False)
    lease.release()
    assert row_on(cluster, cluster.nodes[-1]).run_id is None
    again = acquire(cluster, "r2")
    assert again.token == lease.token + 1
    again.release()


def test_a_second_controller_is_told_who_has_it(cluster: Cluster) -> None:
    lease = acquire(cluster, "r1")
    with pytest.raises(
        BusyError, match=rf"run r1 \(upgrade\) of controller here:{os.getpid()}, since"
    ) as refused:
        acquire(starting_with(cluster, 1), "r2", holder="there:1")
    assert refused.value.hint.startswith("dbha runs show r1")
    lease.check()
    lease.release()


def test_a_lease_that_ran_out_passes_to_the_same_run_only(cluster: Cluster) -> None:
    lost = acquire(cluster, "r1")
    lost.close()
    with pytest.raises(BusyError):
        acquire(cluster, "r1", holder="there:1", take_over_run="r1", proven_dead=True)
    time.sleep(TTL_S + 0.2)
    with pytest.raises(InterruptedRunError) as refused:
        acquire(cluster, "r2")
    assert refused.value.hint.startswith("dbha runs resume r1")
    taken = acquire(starting_with(cluster, 2), "r1", holder="there:1", take_over_run="r1")
    assert taken.token == lost.token + 1
    with pytest.raises(LeaseLostError):
        lost.check()
    lost.release()
    taken.check()
    taken.release()


def test_the_same_host_may_prove_the_holder_dead(cluster: Cluster) -> None:
    lost = acquire(cluster, "r1", holder="here:1")
    lost.close()
    taken = acquire(cluster, "r1", take_over_run="r1", proven_dead=True)
    with pytest.raises(LeaseLostError, match="run r1"):
        lost.check()
    taken.release()


def test_a_holder_that_slept_takes_the_time_anew_if_nobody_came(cluster: Cluster) -> None:
    lease = acquire(cluster, "r1")
    lease.close()
    time.sleep(TTL_S + 0.2)
    assert row_on(cluster, cluster.nodes[0]).expired
    lease.check()
    assert not row_on(cluster, cluster.nodes[0]).expired
    lease.release()


def test_a_holder_that_reaches_nobody_has_lost_it(cluster: Cluster) -> None:
    unplugged = Unpluggable(cluster.name, cluster.nodes, cluster.account)
    lease = acquire(unplugged, "r1")
    unplugged.plugged = False
    started_s = time.monotonic()
    with pytest.raises(LeaseLostError, match="could not be confirmed in time"):
        lease.check()
    assert time.monotonic() - started_s < TTL_S
    unplugged.plugged = True
    with pytest.raises(LeaseLostError):
        lease.check()
    lease.release()
    assert row_on(cluster, cluster.nodes[0]).run_id == "r1", "what was lost is not given back"


def test_it_works_while_the_first_node_hangs(cluster: Cluster) -> None:
    held = acquire(cluster, "r1", ttl_s=9.0)
    with frozen(cluster, cluster.nodes[0]):
        held.check()
        held.release()
        again = acquire(cluster, "r2", ttl_s=9.0)
        assert again.token == held.token + 1
        time.sleep(9.0)
        again.check()
        again.release()


def test_a_long_schema_change_does_not_lose_it(cluster: Cluster) -> None:
    with cluster.session(cluster.nodes[0]) as session:
        session.execute("CREATE DATABASE lease_test")
        session.execute("CREATE TABLE lease_test.slow (a INT PRIMARY KEY)")
        session.execute("INSERT INTO lease_test.slow VALUES (1), (2), (3), (4)")
        lease = acquire(cluster, "r1")
        started_s = time.monotonic()
        change = threading.Thread(
            target=session.execute,
            args=[f"ALTER TABLE lease_test.slow ADD COLUMN b INT DEFAULT ({SLOW}), ALGORITHM=COPY"],
        )
        change.start()
        time.sleep(0.5)
        lease.check()
        change.join()
        assert time.monotonic() - started_s > TTL_S, "the change was too quick to prove anything"
        lease.check()
        lease.release()
        session.execute("DROP DATABASE lease_test")


def test_processes_that_race_on_all_nodes_never_hold_it_together(cluster: Cluster, tmp_path: Path) -> None:
    processes = multiprocessing.get_context("spawn")
    racers = [
        processes.Process(target=race, args=(cluster.nodes, cluster.account, number, tmp_path))
        for number in range(RACERS)
    ]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    assert [racer.exitcode for racer in racers] == [0] * RACERS
    tokens = [int(line) for line in (tmp_path / "tokens").read_text(encoding="utf-8").split()]
    assert tokens == list(range(tokens[0], tokens[0] + RACERS * TURNS))


def test_of_all_who_have_seen_it_free_one_gets_it(cluster: Cluster) -> None:
    for round_number in range(5):
        ended = acquire(cluster, f"ended-{round_number}")
        ended.close()
        all_have_read = threading.Barrier(RACERS, timeout=60)

        def has_ended(
            run_id: str, name: str = f"ended-{round_number}", gate: threading.Barrier = all_have_read
        ) -> bool:
            if run_id == name:
                gate.wait()
            return run_id == name

        with ThreadPoolExecutor(RACERS) as pool:
            tried = pool.map(lambda number: attempt(cluster, number, has_ended), range(RACERS))
        (won,) = [lease for lease in tried if lease]
        won.check()
        assert won.token == ended.token + 1
        won.release()


def attempt(cluster: Cluster, number: int, has_ended: Callable[[str], bool]) -> Lease | None:
    """Try once, on a node of its own."""
    with suppress(BusyError):
        return acquire(starting_with(cluster, number), f"r{number}", ttl_s=30.0, has_ended=has_ended)
    return None


def race(nodes: tuple[Node, ...], account: Account, number: int, directory: Path) -> None:
    """Take the lease some times; while it is held, nobody else may be in here."""
    cluster = starting_with(Cluster("race", nodes, account), number)
    for turn in range(TURNS):
        lease = patiently(cluster, f"r{number}-{turn}")
        (directory / "inside").touch(exist_ok=False)
        with (directory / "tokens").open("a", encoding="utf-8") as tokens:
            tokens.write(f"{lease.token}\n")
        time.sleep(0.05)
        lease.check()
        (directory / "inside").unlink()
        lease.release()


def patiently(cluster: Cluster, run_id: str) -> Lease:
    """Try until it is our turn."""
    while True:
        with suppress(BusyError):
            return acquire(cluster, run_id, ttl_s=30.0)
        time.sleep(0.1)


class Unpluggable(Cluster):
    """A cluster whose nodes this controller can lose sight of, all at once."""

    plugged = True

    def session(self, node: Node, *, read_timeout_s: float | None = None) -> AbstractContextManager[Session]:
        if not self.plugged:
            raise NodeUnreachableError(f"{node} does not answer: unplugged")
        return super().session(node, read_timeout_s=read_timeout_s)
