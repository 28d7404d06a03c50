"""A whole cluster comes back from one backup: on all nodes at once, provably the same, and nobody's past slips in."""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from dbha.backup.encryption import Identities
from dbha.backup.proof import checksums_everywhere
from dbha.cluster.saved_state import STATE_FILE, parse_state
from dbha.database import connect
from dbha.sandbox import kill_node, up
from dbha.secrets import Secret
from tests.real.cloud import Cloud
from tests.real.commands import Said
from tests.real.conftest import running_sandbox
from tests.real.sealing import configured, identity_text, require_nowhere

pytestmark = pytest.mark.real

PLACEMENT = """
CREATE TABLE placement.alembic_version (version_num VARCHAR(32) PRIMARY KEY);
INSERT INTO placement.alembic_version VALUES ('a082b8bb98d0');
CREATE TABLE placement.allocations (id INT PRIMARY KEY AUTO_INCREMENT, consumer VARCHAR(36));
INSERT INTO placement.allocations (consumer) SELECT seq FROM placement.seq_1_to_500
"""
STRANGER = "INSERT INTO placement.allocations (consumer) VALUES ('after the backup')"


@pytest.fixture(scope="module")
def whole() -> Iterator[Cloud]:
    """A cluster of three nodes with a little of placement, and a backup of it."""
    with running_sandbox(nodes=3) as running:
        made = Cloud(running, running.directory / "dbha.yml")
        made.run("database", "create")
        made.execute(*PLACEMENT.strip().split(";"))
        made.backup = made.json("backup", "create", "--verify")["backup"]["id"]
        yield made


@pytest.fixture
def cloud(whole: Cloud) -> Iterator[Cloud]:
    """The cluster with something in it that is not in the backup; old data of earlier tests is gone."""
    up(whole.directory)
    whole.execute(STRANGER)
    yield whole
    for node in whole.cluster.nodes:
        shutil.rmtree(f"{node.datadir}.dbha", ignore_errors=True)


def restore(cloud: Cloud, *options: str, expect: int = 0, fault: str = "") -> Said:
    return cloud.run("restore", cloud.backup, "--yes", *options, expect=expect, fault=fault)


def strangers(cloud: Cloud, number: int = 0) -> int:
    """Return how many rows a node has that were written after the backup."""
    with cloud.session(number) as session:
        found = session.value(
            "SELECT COUNT(*) FROM placement.allocations WHERE consumer = 'after the backup'"
        )
    return int(found)


def timeline(cloud: Cloud) -> str:
    return str(cloud.json("status")["timeline"])


def require_restored(cloud: Cloud) -> None:
    """Require one healthy cluster, with the rows of the backup on every node, that services can write to."""
    status = cloud.json("status")
    assert (status["verdict"], status["reasons"], status["interrupted_run"]) == ("healthy", [], None)
    assert [strangers(cloud, number) for number in range(3)] == [0, 0, 0]
    first, *others = checksums_everywhere(
        cloud.cluster, ("keystone", "placement"), cloud.cluster.nodes
    ).values()
    assert first["placement.allocations"]
    assert all(other == first for other in others)
    assert cloud.locked_accounts() == []
    assert logs_in(cloud, "placement")
    with cloud.session() as session:
        assert session.value("SELECT COUNT(*) FROM dbha.lease WHERE run_id IS NOT NULL") == 0


def require_as_before(cloud: Cloud, expected_timeline: str) -> None:
    """Require the cluster that was there before, with all that was written after the backup."""
    status = cloud.json("status")
    assert (status["verdict"], status["reasons"], status["interrupted_run"]) == ("healthy", [], None)
    assert timeline(cloud) == expected_timeline
    assert len({strangers(cloud, number) for number in range(3)}) == 1
    assert strangers(cloud) > 0
    assert [Path(f"{node.datadir}.dbha").exists() for node in cloud.cluster.nodes] == [False] * 3
    assert cloud.locked_accounts() == []


def logs_in(cloud: Cloud, service: str) -> bool:
    """Return whether the service's account gets in everywhere with its present password."""
    account = cloud.running.sandbox.account(service, os.environ)
    for node in cloud.cluster.nodes:
        with connect(node, account) as session:
            assert session.value("SELECT 1") == 1
    return True


def words_in_logs(cloud: Cloud, word: str) -> int:
    logs = cloud.directory.glob("nodes/*/error.log")
    return sum(len(re.findall(word, log.read_text(errors="replace"))) for log in logs)


def test_all_nodes_come_back_without_a_transfer(cloud: Cloud) -> None:
    before, transfers = timeline(cloud), words_in_logs(cloud, "SST")
    said = restore(cloud)
    require_restored(cloud)
    assert timeline(cloud) != before
    assert words_in_logs(cloud, "SST") == transfers
    for node in cloud.cluster.nodes:
        old = Path(f"{node.datadir}.dbha", cloud.last_run()["id"], "old")
        assert str(old) in said.stdout
        kept = parse_state((old / STATE_FILE).read_text())
        assert kept is not None
        assert kept.is_clean


def test_a_cluster_that_is_all_down_comes_back_from_an_encrypted_backup(cloud: Cloud) -> None:
    identity = identity_text()
    recipients = Identities(Secret(identity)).recipients
    sealed = configured(cloud, "sealed", identity=identity_text(), recipients=recipients, compression="lz4")
    cloud.execute("DELETE FROM placement.allocations WHERE consumer = 'after the backup'")
    made = cloud.run("backup", "create", "--json", configuration=sealed).json["backup"]
    assert (made["compression"], made["recipients"]) == ("lz4", list(recipients))
    cloud.execute(STRANGER)
    said = cloud.run("restore", made["id"], "--yes", configuration=sealed, expect=5)
    assert recipients[0] in said.stderr, "the key that is configured is another one"
    for node in cloud.cluster.nodes:
        kill_node(cloud.directory, node.name)
    said = cloud.run(
        "restore", made["id"], "--yes", configuration=sealed, DBHA_SECRET_BACKUP_IDENTITY=identity
    )
    require_restored(cloud)
    assert "AGE-SECRET-KEY" not in said.stdout + said.stderr
    require_nowhere("AGE-SECRET-KEY", cloud.state, cloud.directory / "nodes")


def test_a_cluster_that_lost_its_quorum_a_moment_ago_comes_back(cloud: Cloud) -> None:
    """For some seconds the survivor still counts the others; who took its word waited for it, and gave up."""
    for node in cloud.cluster.nodes[1:]:
        kill_node(cloud.directory, node.name)
    restore(cloud)
    require_restored(cloud)


def test_passwords_that_were_changed_since_are_the_present_ones(cloud: Cloud) -> None:
    passwords = cloud.directory / "secrets.yml"
    kept = passwords.read_text()
    new = yaml.safe_load(kept) | {"placement_password": "changed since", "admin_password": "changed, too"}
    cloud.execute(
        "ALTER USER 'placement'@'%' IDENTIFIED BY 'changed since'",
        "ALTER USER 'dbha'@'%' IDENTIFIED BY 'changed, too'",
    )
    try:
        passwords.write_text(yaml.safe_dump(new))
        said = restore(cloud)
        assert "placement: the present passwords, not those of the backup" in said.stderr
        assert cloud.json("status")["verdict"] == "healthy"
        assert "changed" not in said.stdout + said.stderr.replace("nothing was changed", "")
        old = yaml.safe_load(kept)
        for user, name in (("placement", "placement_password"), ("dbha", "admin_password")):
            statement = f"ALTER USER '{user}'@'%' IDENTIFIED BY '{old[name]}'"
            cloud.run("sql", "-e", statement)
            if user == "dbha":
                passwords.write_text(kept)
    finally:
        passwords.write_text(kept)
    require_restored(cloud)


def test_a_flipped_byte_is_found_before_anything_stops(cloud: Cloud) -> None:
    before = timeline(cloud)
    stream = cloud.backups / cloud.backup / "stream.mbs.zst"
    content = stream.read_bytes()
    stream.write_bytes(content[:5000] + bytes([content[5000] ^ 1]) + content[5001:])
    try:
        said = restore(cloud, expect=1)
    finally:
        stream.write_bytes(content)
    assert "the stream was changed since it was taken" in said.stderr
    assert "nothing was changed" in said.stderr
    require_as_before(cloud, before)


def test_a_server_that_cannot_start_is_found_before_anything_stops(cloud: Cloud) -> None:
    before = timeline(cloud)
    with wrong_setting(cloud):
        said = restore(cloud, expect=1)
    assert "node3: the first start on the backup failed" in said.stderr
    assert "nonsense" in said.stderr
    assert "nothing was changed" in said.stderr
    require_as_before(cloud, before)


def test_what_fails_after_the_stop_brings_the_old_cluster_back(cloud: Cloud) -> None:
    before = timeline(cloud)
    restore(cloud, fault="after:done:stop-servers")
    obstacle = Path(f"{cloud.cluster.nodes[2].datadir}.dbha", cloud.last_run()["id"], "old")
    obstacle.touch()  # where the old data directory is to go
    said = cloud.run("runs", "resume", expect=7)
    assert "node3" in said.stderr
    assert "everything was put back as it was before the run" in said.stderr
    require_as_before(cloud, before)


@contextmanager
def wrong_setting(cloud: Cloud) -> Iterator[None]:
    """Give the server of node3 a configuration that it does not start with."""
    configuration = cloud.directory / "nodes" / "node3" / "my.cnf"
    kept = configuration.read_text()
    configuration.write_text(f"{kept}nonsense = 1\n")
    try:
        yield
    finally:
        configuration.write_text(kept)


@pytest.mark.parametrize(
    "faults",
    [
        (
            "after:done:hold",
            "after:done:unpack:node2",
            "before:done:begin",
            "before:done:stop-servers",
            "after:done:exchange:node1",
        ),
        (
            "after:intend:form",
            "before:done:form",
            "before:done:settle",
            "before:done:reopen",
        ),
    ],
    ids=["until-the-exchange", "after-the-exchange"],
)
def test_killed_again_and_again_it_ends_the_same(cloud: Cloud, faults: tuple[str, ...]) -> None:
    first, *others = faults
    restore(cloud, fault=first)
    for fault in others:
        cloud.run("runs", "resume", fault=fault)
    cloud.run("runs", "resume")
    require_restored(cloud)


@pytest.mark.parametrize(
    "fault", ["before:done:stop-servers", "after:done:exchange:node2", "after:done:form"]
)
def test_rolled_back_on_request_the_old_cluster_is_there(cloud: Cloud, fault: str) -> None:
    before = timeline(cloud)
    restore(cloud, fault=fault)
    said = cloud.run("runs", "resume", "--roll-back", expect=7)
    assert "everything was put back as it was before the run" in said.stderr
    require_as_before(cloud, before)


def test_the_old_data_is_there_until_it_is_forgotten(cloud: Cloud) -> None:
    before = timeline(cloud)
    run = restored_run(cloud)
    require_restored(cloud)
    shown = cloud.run("runs", "show").stdout
    assert (
        f"node1, node2, node3: the data of before this run is kept\n  go back to it: dbha restore --undo {run}"
        in shown
    )
    assert "it should stay for now: no backup was taken and verified since" in shown
    cloud.run("backup", "create", "--verify")
    assert f"it may go: dbha restore --forget {run}" in cloud.run("runs", "show", run).stdout
    assert cloud.json("runs", "show", run)["kept"]["may_go"] is True
    for wrong in (("--store", "local"), ("--service", "nova"), ("--accept-missing", "node1")):
        cloud.run("restore", "--undo", run, *wrong, expect=2)
    said = cloud.run("restore", "--undo", run, "--yes", expect=5, DBHA_SECRET_ADMIN_PASSWORD="wrong")
    assert "refused the account" in said.stderr
    cloud.run("restore", "--undo", run, "--yes", fault="after:done:return:node2")
    cloud.run("runs", "resume", "--roll-back", expect=7)
    require_restored(cloud)
    cloud.run("restore", "--undo", run, "--yes", fault="before:done:start")
    cloud.run("runs", "resume")
    assert timeline(cloud) == before
    assert [strangers(cloud, number) > 0 for number in range(3)] == [True] * 3
    assert "not there any more" in cloud.run("restore", "--undo", run, "--yes", expect=4).stderr
    cloud.run("restore", "--forget", run, "--yes")
    require_as_before(cloud, before)


def restored_run(cloud: Cloud) -> str:
    """Restore, and return the run's id."""
    run: str = restore(cloud, "--json").json["run"]["id"]
    return run


def test_what_is_refused_before_anything_is_touched(cloud: Cloud) -> None:
    before = timeline(cloud)
    assert "no node is called node9" in restore(cloud, "--accept-missing", "node9", expect=2).stderr
    assert "serves" in restore(cloud, "--accept-missing", "node3", expect=4).stderr
    said = cloud.run("restore", cloud.backup, "--service", "placement", "--accept-missing", "node3", expect=2)
    assert "for the whole cluster" in said.stderr
    assert "--yes" in cloud.run("restore", cloud.backup, expect=2).stderr
    require_as_before(cloud, before)
