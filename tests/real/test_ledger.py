"""Writers on a real cluster: what they were told is what every node has."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import pytest

from dbha.cluster.handle import Cluster
from dbha.database import Session
from dbha.sandbox.ledger import TABLES, LedgerTable, WriterProcess, WriterSettings, check, erase

pytest_plugins = ("tests.real.cloud_fixtures",)
pytestmark = [pytest.mark.real, pytest.mark.releases]


@contextmanager
def _sessions(cluster: Cluster) -> Iterator[list[Session]]:
    with ExitStack() as stack:
        yield [stack.enter_context(cluster.session(node)) for node in cluster.nodes]


def _settings(cluster: Cluster, table: LedgerTable, run: str) -> WriterSettings:
    return WriterSettings(table, cluster.nodes[:1], cluster.account, run)


@pytest.mark.parametrize("service", sorted(TABLES))
def test_every_acknowledged_row_is_on_every_node_once(synced: Cluster, service: str) -> None:
    table = TABLES[service]
    with WriterProcess(_settings(synced, table, f"test{service[:4]}")) as writer:
        time.sleep(1)
    report = writer.report
    with _sessions(synced) as sessions:
        assert check(report, table, sessions).is_intact
        assert erase(sessions[0], table, report.run) == len(report.acknowledged)
    assert (report.refused, report.unknown, report.error_count) == ((), (), 0)
    assert len(report.acknowledged) > 20
    assert 0 < report.ninety_ninth_percentile_s <= report.longest_wait_s < 5


def test_goes_on_after_its_connection_was_killed(synced: Cluster) -> None:
    table = TABLES["keystone"]
    with _sessions(synced) as sessions:
        with WriterProcess(_settings(synced, table, "testkill")) as writer:
            for _ in range(3):
                time.sleep(0.5)
                _kill_writers(sessions[0])
            time.sleep(0.5)
        report = writer.report
        assert check(report, table, sessions).is_intact
        erase(sessions[0], table, report.run)
    assert 1 <= report.error_count <= 3
    assert set(report.unknown).isdisjoint(report.acknowledged)


def test_finds_what_is_missing(synced: Cluster) -> None:
    table = TABLES["keystone"]
    with WriterProcess(_settings(synced, table, "testlost")) as writer:
        time.sleep(0.3)
    with _sessions(synced) as sessions:
        sessions[0].execute(f"DELETE FROM {table.qualified} WHERE {table.key} = 'ledger-testlost-000000002'")
        found = check(writer.report, table, sessions)
        erase(sessions[0], table, "testlost")
    assert found.missing == {node.name: (2,) for node in synced.nodes}
    assert not found.is_intact


def test_waits_out_a_node_that_does_not_answer_by_using_the_next(synced: Cluster) -> None:
    table = TABLES["keystone"]
    nobody = replace(synced.nodes[0], name="nobody", port=1)
    settings = replace(_settings(synced, table, "testnext"), nodes=(nobody, *synced.nodes[1:]))
    with WriterProcess(settings) as writer:
        time.sleep(0.5)
    with _sessions(synced) as sessions:
        assert check(writer.report, table, sessions).is_intact
        erase(sessions[0], table, "testnext")
    assert writer.report.errors == {"NodeUnreachableError": 1}
    assert writer.report.acknowledged[0] == 1


def _kill_writers(session: Session) -> None:
    """End the other connections of the writer's account that are between statements or in one of ours."""
    mine = session.value("SELECT CONNECTION_ID()")
    user = session.value("SELECT USER()").partition("@")[0]
    for number in session.column(
        "SELECT id FROM information_schema.processlist WHERE user = %s AND id <> %s AND db IS NULL",
        (user, mine),
    ):
        session.execute(f"KILL {number}")
