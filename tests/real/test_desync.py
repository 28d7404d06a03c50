"""A donor that dbha keeps out of flow control is let in again, whatever becomes of dbha; others' desyncs stay."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.real.cloud import Cloud

pytest_plugins = ("tests.real.cloud_fixtures",)
pytestmark = pytest.mark.real


@pytest.fixture
def always(cloud: Cloud) -> Iterator[Path]:
    """A configuration that desyncs every donor; afterwards no node is desynced."""
    configuration = cloud.directory / "desync.yml"
    policy = yaml.safe_load(cloud.configuration.read_text())
    policy["backup"]["desync"] = "always"
    configuration.write_text(yaml.safe_dump(policy))
    yield configuration
    configuration.unlink()
    for number in range(3):
        with cloud.session(number) as session:
            session.execute("SET GLOBAL wsrep_desync = OFF")
    cloud.execute("DELETE FROM dbha.desync")


def desynced(cloud: Cloud) -> list[str]:
    found = []
    for number, node in enumerate(cloud.cluster.nodes):
        with cloud.session(number) as session:
            found += [node.name] if session.value("SELECT @@GLOBAL.wsrep_desync") else []
    return found


def rows(cloud: Cloud) -> list[str]:
    with cloud.session() as session:
        return session.column("SELECT run_id FROM dbha.desync")


def test_a_desync_is_always_undone_and_never_one_of_somebody_else(cloud: Cloud, always: Path) -> None:
    with cloud.writers("keystone"):
        said = cloud.run("backup", "create", configuration=always)
    assert "keep node2 out of flow control ... ok" in said.stderr
    assert "the configuration says so" in said.stderr
    assert (desynced(cloud), rows(cloud)) == ([], [])

    # killed in the middle: the next command undoes it, though it must not do anything else
    cloud.run("backup", "create", configuration=always, fault="after:intend:backup")
    (run,) = rows(cloud)
    assert desynced(cloud) == ["node2"]
    status = cloud.run("status", expect=None)
    assert f"node2 is desynced by run {run}, which is gone" in status.stdout
    assert cloud.run("status", "--json", expect=None).json["left_desynced"] == [{"node": "node2", "run": run}]
    assert f"desync: FAILED: node2 by run {run}" in cloud.run("check", expect=1).stdout
    said = cloud.run("backup", "create", expect=10)
    assert f"node2 takes part in flow control again: run {run} had desynced it, and is gone" in said.stderr
    assert (desynced(cloud), rows(cloud)) == ([], [])
    cloud.run("runs", "resume", configuration=always)

    # killed in the middle: taking it up undoes it at its end
    cloud.run("backup", "create", configuration=always, fault="after:intend:backup")
    assert desynced(cloud) == ["node2"]
    cloud.run("runs", "resume", configuration=always)
    assert (desynced(cloud), rows(cloud)) == ([], [])

    # a backup that fails: by its undo
    policy = yaml.safe_load(always.read_text())
    hasty = cloud.directory / "hasty.yml"
    hasty.write_text(yaml.safe_dump({**policy, "limits": {"backup_timeout_s": 0.2}}))
    said = cloud.run("backup", "create", configuration=hasty, expect=6)
    hasty.unlink()
    assert "let node2 take part in flow control again ... ok" in said.stderr
    assert (desynced(cloud), rows(cloud)) == ([], [])

    # somebody else's stays, and that node is no donor
    with cloud.session(1) as session:
        session.execute("SET GLOBAL wsrep_desync = ON")
    assert "keep node3 out of flow control" in cloud.run("backup", "create", configuration=always).stderr
    assert desynced(cloud) == ["node2"]
    assert cloud.run("status", "--json", expect=None).json["left_desynced"] == []


def test_a_server_that_was_started_again_is_not_desynced_by_anybody(cloud: Cloud, always: Path) -> None:
    """Its row is old news, and whoever desynced it since did so for a reason of their own."""
    cloud.run("backup", "create", configuration=always, fault="after:intend:backup")
    cloud.execute("UPDATE dbha.desync SET member = 'another server of before'")
    cloud.run("runs", "abandon", "--yes")
    assert (desynced(cloud), rows(cloud)) == (["node2"], [])
