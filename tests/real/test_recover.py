"""A cluster comes back from whatever it went through, with every row that was acknowledged, or nobody touches it."""

import os
import re
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from dbha.backup.proof import checksums_everywhere
from dbha.cluster.bootstrap import start_nodes, wait_until_synced
from dbha.cluster.evidence import Evidence, ask, gather
from dbha.cluster.handle import Cluster
from dbha.cluster.plans import settle_in
from dbha.cluster.recover_decide import decide
from dbha.inventory import Node, SshSettings, load_inventory
from dbha.sandbox import kill_node, up
from dbha.sandbox.ledger import LedgerReport, LedgerTable, WriterProcess, WriterSettings, check
from dbha.sandbox.processes import processes_of, server_pid
from tests.real.cloud import Cloud
from tests.real.commands import Said
from tests.real.conftest import running_sandbox
from tests.real.processes import eventually
from tests.real.sshd import running_sshd

pytestmark = pytest.mark.real

TABLE = LedgerTable("placement", "placement", "projects", "external_id", {"created_at": "UTC_TIMESTAMP()"})


@pytest.fixture(scope="module")
def whole() -> Iterator[Cloud]:
    """A cluster of three nodes with a table that a writer knows."""
    with running_sandbox(nodes=3) as running:
        made = Cloud(running, running.directory / "dbha.yml")
        settle_in(running.cluster, "test")
        made.run("database", "create")
        made.execute(
            "CREATE TABLE placement.projects (id INT PRIMARY KEY AUTO_INCREMENT, created_at DATETIME,"
            " external_id VARCHAR(255) UNIQUE)"
        )
        yield made


@pytest.fixture
def cloud(whole: Cloud) -> Iterator[Cloud]:
    """The cluster with all its nodes Synced."""
    up(whole.directory)
    yield whole
    for node in whole.cluster.nodes:
        shutil.rmtree(f"{node.datadir}.dbha", ignore_errors=True)


def recover(
    cloud: Cloud, *options: str, expect: int = 0, fault: str = "", configuration: Path | None = None
) -> Said:
    return cloud.run(
        "cluster", "recover", "--yes", *options, expect=expect, fault=fault, configuration=configuration
    )


def kill_all(cloud: Cloud) -> None:
    for node in cloud.cluster.nodes:
        if server_pid(node) is not None:
            kill_node(cloud.directory, node.name)


@contextmanager
def killed_while_written(cloud: Cloud) -> Iterator[LedgerReport]:
    """Kill all servers under a writer; afterwards require every row that it was told of on every node."""
    account = cloud.running.sandbox.account("placement", os.environ)
    settings = WriterSettings(TABLE, cloud.cluster.nodes[:1], account, rate_per_s=200.0)
    with WriterProcess(settings) as writer:
        time.sleep(1)
        kill_all(cloud)
        report = writer.stop()
    yield report
    with ExitStack() as stack:
        sessions = [stack.enter_context(cloud.cluster.session(node)) for node in cloud.cluster.nodes]
        found = check(report, TABLE, sessions)
    assert found.is_intact, found
    assert len(report.acknowledged) > 10


def require_back(cloud: Cloud) -> None:
    """Require one healthy cluster with the same rows everywhere, of one timeline, and no trace of the run."""
    status = cloud.json("status")
    assert (status["verdict"], status["reasons"], status["interrupted_run"]) == ("healthy", [], None)
    first, *others = checksums_everywhere(
        cloud.cluster, ("keystone", "placement"), cloud.cluster.nodes
    ).values()
    assert all(other == first for other in others)
    notes = {Path(node.datadir, "dbha-timeline").read_text().split()[-1] for node in cloud.cluster.nodes}
    assert notes == {status["timeline"]}
    assert not list(cloud.directory.glob("nodes/*/*.dbha/recovering"))
    with cloud.session() as session:
        assert session.value("SELECT COUNT(*) FROM dbha.lease WHERE run_id IS NOT NULL") == 0


def timeline(cloud: Cloud) -> str:
    return str(cloud.run("status", "--json", expect=None).json["timeline"])


def transfers(cloud: Cloud) -> int:
    logs = cloud.directory.glob("nodes/*/error.log")
    return sum(len(re.findall("Prepared SST request", log.read_text(errors="replace"))) for log in logs)


def planned(cloud: Cloud, *options: str) -> Any:
    """Return what `--dry-run` says, which changes nothing."""
    return cloud.json("cluster", "recover", "--dry-run", *options)


def write(cloud: Cloud, number: int, rows: int = 3) -> None:
    """Write rows on one node alone."""
    with cloud.session(number) as session:
        for _ in range(rows):
            session.execute(
                f"INSERT INTO placement.projects (external_id) VALUES (CONCAT('node{number}-', UUID()))"
            )


def by_hand(cloud: Cloud, node: Node, *, forms: bool) -> None:
    """Do what an operator does in the wrong night: start a node, as a new cluster or as it is."""
    layout = cloud.running.sandbox.layout
    if forms:
        ask(cloud.cluster, node, "arm", forms=True)
    start_nodes(
        [node],
        inventory=layout.inventory,
        run_directory=cloud.directory / "by-hand",
        new_cluster_node=node if forms else None,
    )
    if forms:
        wait_until_synced(cloud.cluster, [node], 60)


def test_all_killed_come_back_by_themselves_and_a_second_run_changes_nothing(cloud: Cloud) -> None:
    before, copied = timeline(cloud), transfers(cloud)
    cloud.run("database", "create", fault="before:done:provision")
    with killed_while_written(cloud):
        plan = planned(cloud)
        assert (plan["way"], plan["first"]) == ("reform", ["node1", "node2", "node3"])
        assert all(server_pid(node) is None for node in cloud.cluster.nodes)
        said = recover(cloud)
        assert "Galera restored it by itself" in said.stderr
    assert (timeline(cloud), transfers(cloud)) == (before, copied)
    pids = [server_pid(node) for node in cloud.cluster.nodes]
    cloud.run("runs", "resume")  # what the outage had cut off can be taken up now
    require_back(cloud)
    assert recover(cloud, "--json").json == {"schema": 1, "way": "nothing", "run": None}
    assert [server_pid(node) for node in cloud.cluster.nodes] == pids


def test_a_survivor_without_quorum_goes_on_and_then_only_what_is_missing_is_started(cloud: Cloud) -> None:
    before, copied, survivor = timeline(cloud), transfers(cloud), server_pid(cloud.cluster.nodes[0])
    for name in ("node2", "node3"):
        kill_node(cloud.directory, name)
    eventually(lambda: planned(cloud) if planned_way(cloud) == "promote" else None, "node1 kept its quorum")
    recover(cloud, fault="after:done:timeline")
    assert cloud.run("status", "--json", expect=1).json["verdict"] == "degraded"
    cloud.run("runs", "resume")
    require_back(cloud)
    assert server_pid(cloud.cluster.nodes[0]) == survivor
    assert timeline(cloud) != before
    kill_node(cloud.directory, "node3")
    eventually(lambda: planned(cloud) if cloud_size(cloud) == 2 else None, "node3 is still counted")
    plan = planned(cloud)
    assert (plan["way"], [join["node"] for join in plan["joins"]]) == ("join", ["node3"])
    now = timeline(cloud)
    recover(cloud)
    require_back(cloud)
    assert (timeline(cloud), transfers(cloud), server_pid(cloud.cluster.nodes[0])) == (now, copied, survivor)


def planned_way(cloud: Cloud) -> str | None:
    said = cloud.run("cluster", "recover", "--dry-run", "--json", expect=None)
    return str(said.json["way"]) if said.code == 0 else None


def cloud_size(cloud: Cloud) -> int:
    with cloud.session() as session:
        return int(session.rows("SHOW STATUS LIKE 'wsrep_cluster_size'")[0]["Value"])


def test_hosts_that_cannot_be_asked_stop_everything_until_they_are_accepted(cloud: Cloud) -> None:
    before = timeline(cloud)
    partly = without_hosts(cloud, "node2", "node3")
    with killed_while_written(cloud):
        said = recover(cloud, expect=5, configuration=partly)
        assert "dbha cluster recover --accept-missing node2 --accept-missing node3" in said.stderr
        assert "nothing was changed" in said.stderr
        assert recover(cloud, "--accept-missing", "node2", expect=5, configuration=partly)
        both = ("--accept-missing", "node2", "--accept-missing", "node3")
        assert "can be asked" in recover(cloud, *both, expect=4).stderr
        recover(cloud, *both, configuration=partly)
        assert cloud.last_run()["arguments"]["missing"] == ["node2", "node3"]
        assert timeline(cloud) != before
        write(cloud, 0)
        plan = planned(cloud)
        assert [(join["node"], "older timeline" in join["afresh"]) for join in plan["joins"]] == [
            ("node2", True), ("node3", True),
        ]  # fmt: skip
        said = recover(cloud)
        for node in cloud.cluster.nodes[1:]:
            kept = Path(f"{node.datadir}.dbha", cloud.last_run()["id"], "old")
            assert str(kept) in said.stdout
            assert (kept / "ibdata1").exists()
    require_back(cloud)


def without_hosts(cloud: Cloud, *names: str) -> Path:
    """Return a configuration in which the hosts of these nodes cannot be reached."""
    inventory = yaml.safe_load((cloud.directory / "inventory.yml").read_text())
    for name in names:
        host = inventory["galera"]["hosts"][name]
        host |= {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 9}
    path = cloud.directory / "partly.yml"
    path.write_text(yaml.safe_dump(inventory))
    configuration = yaml.safe_load((cloud.directory / "dbha.yml").read_text()) | {"inventory": str(path)}
    made = cloud.directory / "dbha-partly.yml"
    made.write_text(yaml.safe_dump(configuration))
    return made


def test_half_a_copy_that_claims_the_most_is_never_begun_from(cloud: Cloud) -> None:
    node1, node2, node3 = cloud.cluster.nodes
    kill_node(cloud.directory, "node3")
    shutil.rmtree(node3.datadir)
    Path(node3.datadir).mkdir(mode=0o700)
    write(cloud, 0)
    by_hand(cloud, node3, forms=False)
    eventually(lambda: True if half_copied(node3) else None, "no transfer was seen", every_s=0.005)
    for pid in processes_of(node3):
        os.kill(pid, signal.SIGKILL)
    claimed = Path(node3.datadir, "grastate.dat")
    claimed.write_text(claimed_state(cloud))  # as far as its donor, and further than anybody
    kill_all(cloud)
    plan = planned(cloud)
    assert plan["chosen"] in ("node1", "node2")
    assert [join["node"] for join in plan["joins"] if "half a copy" in join["afresh"]] == ["node3"]
    recover(cloud)
    require_back(cloud)
    assert server_pid(node1) and server_pid(node2)


def half_copied(node: Node) -> bool:
    return Path(node.datadir, "sst_in_progress").exists() and server_pid(node) is not None


def claimed_state(cloud: Cloud) -> str:
    with cloud.session() as session:
        uuid = session.rows("SHOW STATUS LIKE 'wsrep_cluster_state_uuid'")[0]["Value"]
    return f"# GALERA saved state\nversion: 2.1\nuuid:    {uuid}\nseqno:   999999\nsafe_to_bootstrap: 0\n"


def test_a_forked_history_is_refused_and_never_merged(cloud: Cloud) -> None:
    node1, node2, _ = cloud.cluster.nodes
    kill_all(cloud)
    for number, node in ((0, node1), (1, node2)):
        by_hand(cloud, node, forms=True)
        write(cloud, number)
        kill_node(cloud.directory, node.name)
    said = recover(cloud, expect=4)
    assert "the history is forked" in said.stderr
    assert "docs/runbooks/recover-refused.md#the-history-is-forked" in said.stderr
    assert "nothing was changed" in said.stderr
    by_hand(cloud, node1, forms=True)  # one side serves, and the other one's rows are still not in it
    assert "the history is forked" in recover(cloud, expect=4).stderr
    assert server_pid(node2) is None
    Path(node2.datadir).rename(f"{node2.datadir}.second")  # what the runbook says
    Path(node2.datadir).mkdir(mode=0o700)
    recover(cloud)
    require_back(cloud)
    shutil.rmtree(f"{node2.datadir}.second")


def test_killed_again_and_again_it_ends_the_same_with_nonsense_in_a_state_file(cloud: Cloud) -> None:
    node1, node2, node3 = cloud.cluster.nodes
    with killed_while_written(cloud):
        Path(node2.datadir, "grastate.dat").write_bytes(b"\xff\x00seqno: 12345678901234567890\nuuid: none\n")
        by_hand(
            cloud, node3, forms=False
        )  # as a service manager does after a power cut: it waits for the others
        plan = planned(cloud)
        assert (plan["way"], [join["node"] for join in plan["joins"]][-1]) == ("force", "node2")
        recover(cloud, fault="after:done:claim")
        assert "recovers" in other_controller(cloud, node1)
        cloud.run("runs", "resume", fault="after:intend:force")
        cloud.run("runs", "resume", fault="before:done:force")
        cloud.run("runs", "resume", fault="before:done:timeline")
        cloud.run("runs", "resume", fault="before:done:join:node2")
        cloud.run("runs", "resume")
        record = cloud.last_run()
        assert record["arguments"]["why"]
        assert {each["name"]: each["saved"] for each in record["arguments"]["seen"]}["node2"] is None
    require_back(cloud)


def other_controller(cloud: Cloud, node: Node) -> str:
    """Return what another controller is told that begins to recover the same cluster."""
    answer = ask(cloud.cluster, node, "claim", claim='{"run": "another", "controller": "elsewhere"}')
    return f"{answer['taken_by']} recovers"


def test_a_host_is_asked_over_ssh_as_here(cloud: Cloud, tmp_path: Path) -> None:
    kill_all(cloud)
    with running_sshd(tmp_path) as server:
        there = server.endpoint
        ssh = SshSettings(there.host, there.port, there.user, there.private_key_file, there.known_hosts_file)
        remote = Cluster(
            "remote", tuple(replace(node, ssh=ssh) for node in nodes(cloud)), cloud.cluster.account
        )
        try:
            seen = gather(remote)
        finally:
            remote.close()
    assert seen == gather_now(cloud, seen)
    assert decide(seen).way == "reform"


def nodes(cloud: Cloud) -> tuple[Node, ...]:
    """Return the nodes as the command line knows them: with their configuration files."""
    return load_inventory(cloud.directory / "inventory.yml")


def gather_now(cloud: Cloud, model: Evidence) -> Evidence:
    """Return the evidence of here, as if it had been looked at in the same moments."""
    found = gather(Cluster("here", nodes(cloud), cloud.cluster.account))
    moments = [member.state.observed_at for member in model.members]
    return Evidence(
        tuple(
            replace(member, state=replace(member.state, observed_at=at))
            for member, at in zip(found.members, moments, strict=True)
        )
    )


def test_a_claim_of_another_controller_keeps_this_one_out(cloud: Cloud) -> None:
    kill_node(cloud.directory, "node3")
    claim = '{"run": "20261124T030000Z-beef", "controller": "elsewhere"}'
    ask(cloud.cluster, cloud.cluster.nodes[1], "claim", claim=claim)
    eventually(lambda: True if cloud_size(cloud) == 2 else None, "node3 is still counted")
    said = recover(cloud, expect=9)
    assert (
        "node2: run 20261124T030000Z-beef of controller elsewhere recovers the cluster already" in said.stderr
    )
    assert cloud.last_run()["state"] == "refused"
    ask(cloud.cluster, cloud.cluster.nodes[1], "unclaim", claim=claim)
    recover(cloud)
    require_back(cloud)
