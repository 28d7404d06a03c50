"""Hosts that lose their power or their network while a client writes."""

import re
import time
from typing import Any

import pytest

from dbha.sandbox.ledger import LedgerReport
from tests.hosts.site import HostedCluster
from tests.real.processes import eventually

pytestmark = [pytest.mark.real, pytest.mark.hosts]

WHOLE_TRANSFER = re.compile(r"State transfer required:.*\n.*\n\tLocal state: 0{8}-[0-:-]*-1")


def size_seen(hosted: HostedCluster, number: int) -> int | None:
    """Return how many members a node sees; None while it does not answer."""
    return hosted.states()[number].cluster_size


def degraded(hosted: HostedCluster) -> dict[str, Any] | None:
    """Return what `dbha status` says once it says that the cluster is degraded."""
    status: dict[str, Any] = hosted.run("status", "--json", expect=None).json
    return status if status["verdict"] == "degraded" else None


def test_a_host_that_lost_its_power_joins_again_by_itself(hosted: HostedCluster) -> None:
    reports: list[LedgerReport] = []
    machine = hosted.lab["node2"]
    with hosted.writing(reports):
        time.sleep(1)
        machine.power_off()
        eventually(lambda: size_seen(hosted, 0) == 2 or None, "the others never noticed", within_s=60)
        eventually(lambda: degraded(hosted), "it never was degraded", within_s=60)
        hosted.lab.boot(machine)  # and nobody tells it to start anything
        hosted.wait_until_synced()
    assert len(reports[0].acknowledged) > 50
    assert hosted.compare(reports[0]).is_intact
    log = machine.run("cat", "/var/log/mysql/error.log")
    assert not WHOLE_TRANSFER.search(log)  # it fetched what it missed, not everything
    assert hosted.run("status", "--json").json["verdict"] == "healthy"


def test_the_writers_host_loses_its_power(hosted: HostedCluster) -> None:
    reports: list[LedgerReport] = []
    machine = hosted.lab["node1"]
    with hosted.writing(reports):
        time.sleep(1)
        machine.power_off()
        eventually(lambda: size_seen(hosted, 1) == 2 or None, "the others never noticed", within_s=60)
        hosted.lab.boot(machine)
        hosted.wait_until_synced()
    assert hosted.compare(reports[0]).is_intact


def test_a_host_that_is_cut_off_serves_nobody_until_the_link_is_mended(hosted: HostedCluster) -> None:
    machine, others = hosted.lab["node3"], (hosted.lab["node1"], hosted.lab["node2"])
    with machine.cut_from(*others):
        eventually(lambda: size_seen(hosted, 0) == 2 or None, "the others never noticed", within_s=60)
        status = eventually(lambda: degraded(hosted), "it never was degraded", within_s=60)
        assert not next(node for node in status["nodes"] if node["name"] == "node3")["synced"]
    hosted.wait_until_synced()
