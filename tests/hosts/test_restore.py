"""Backups from hosts over SSH, and the restore of the whole cluster on them: systemd stops and starts the servers."""

import pytest

from dbha.sandbox.ledger import LedgerReport
from tests.hosts.site import LEDGER, HostedCluster

pytestmark = [pytest.mark.real, pytest.mark.hosts]


def rows_on(hosted: HostedCluster) -> list[int]:
    """Return how many rows each node has."""
    counts = []
    for node in hosted.cluster.nodes:
        with hosted.cluster.session(node) as session:
            counts.append(int(session.value(f"SELECT COUNT(*) FROM {LEDGER.qualified}")))
    return counts


def test_the_whole_cluster_is_restored(hosted: HostedCluster) -> None:
    hosted.run("backup", "create", "--verify")
    before = rows_on(hosted)
    assert len(set(before)) == 1
    reports: list[LedgerReport] = []
    with hosted.writing(reports):
        pass
    with hosted.cluster.session(hosted.cluster.nodes[0]) as session:
        session.execute("CREATE TABLE keystone.later (id INT PRIMARY KEY)")
    timeline = hosted.run("status", "--json").json["timeline"]
    said = hosted.run("restore", "latest", "--yes")
    assert "the cluster is as it was in backup" in said.stdout
    hosted.wait_until_synced()
    assert rows_on(hosted) == before
    status = hosted.run("status", "--json").json
    assert status["verdict"] == "healthy" and status["timeline"] != timeline
    with hosted.writing(reports):  # the services are let in, with their passwords
        pass
    hosted.run("restore", "--forget", hosted.run("runs", "show", "--json").json["id"], "--yes")
    for machine in hosted.lab.machines:
        assert machine.run("sh", "-c", "ls -d /var/lib/mysql.dbha 2>/dev/null || true") == ""
        assert machine.run("systemctl", "is-active", "mariadb").strip() == "active"


def test_a_restored_host_comes_back_after_a_power_cut(hosted: HostedCluster) -> None:
    machine = hosted.lab["node2"]
    machine.power_off()
    hosted.lab.boot(machine)
    hosted.wait_until_synced()
    assert len(set(rows_on(hosted))) == 1
