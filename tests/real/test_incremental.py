"""Incremental backups by the command line, on a real cluster: taken, proven, restored from, and refused for cause."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from dbha.backup.store import Status
from dbha.sandbox import kill_node, up
from tests.real.cloud import DATABASES, Cloud
from tests.real.commands import Said
from tests.real.processes import eventually

pytest_plugins = ("tests.real.cloud_fixtures",)
pytestmark = pytest.mark.real

CHANGES = (
    "CREATE DATABASE scratch",
    "CREATE TABLE scratch.a (id INT PRIMARY KEY)",
    "INSERT INTO scratch.a VALUES (1)",
    "UPDATE glance.images SET name = CONCAT('changed ', id)",
    "CREATE TABLE glance.additional LIKE glance.image_members",
    "RENAME TABLE glance.additional TO glance.renamed",
    "CREATE INDEX additional ON glance.images (name(100))",
)
FURTHER = (
    "DROP TABLE scratch.a",
    "CREATE TABLE scratch.b (id INT PRIMARY KEY)",
    "TRUNCATE glance.image_locations",
    "DROP TABLE glance.renamed",
    "DELETE FROM glance.image_properties",
)


@pytest.fixture
def policy(cloud: Cloud, tmp_path: Path) -> Iterator[Cloud]:
    """The cloud with a store of its own, so that nothing but this test's backups is in it."""
    known = yaml.safe_load(cloud.configuration.read_text())
    known["backup"] = {"stores": {"local": {"directory": str(tmp_path / "store")}}}
    known["inventory"], known["state"] = str(cloud.directory / "inventory.yml"), str(cloud.state)
    known["secrets"]["file"] = str(cloud.directory / "secrets.yml")
    file = tmp_path / "dbha.yml"
    file.write_text(yaml.safe_dump(known))
    before, cloud.configuration = cloud.configuration, file
    try:
        yield cloud
    finally:
        cloud.configuration = before
        cloud.execute("DROP DATABASE IF EXISTS scratch")


def create(cloud: Cloud, *options: str) -> dict[str, Any]:
    answer: dict[str, Any] = cloud.json("backup", "create", *options)
    return answer


def refused(cloud: Cloud, *options: str) -> str:
    """Return why no incremental backup is taken; nothing may be taken instead."""
    before = cloud.json("backup", "list")
    said = cloud.run("backup", "create", "--incremental", *options, expect=4)
    assert cloud.json("backup", "list") == before
    assert "--or-full" in said.stderr
    return said.stderr


def stored(cloud: Cloud) -> list[tuple[str, str | None, str]]:
    return [(each["id"], each["base"], each["status"]) for each in cloud.json("backup", "list")]


def restore(cloud: Cloud, backup_id: str) -> Said:
    return cloud.run("restore", backup_id, "--service", "glance", "--yes")


def glance_of(cloud: Cloud) -> dict[str, int]:
    """Return the checksums of glance's tables, which are the same on all nodes."""
    first, *others = (
        {name: sum_ for name, sum_ in tables.items() if name.partition(".")[0] in DATABASES["glance"]}
        for tables in cloud.snapshot().checksums.values()
    )
    assert all(other == first for other in others)
    return first


def test_taken_proven_and_restored_from(policy: Cloud) -> None:
    cloud = policy
    assert "there is no good full backup to go on from" in refused(cloud)
    full = create(cloud)["backup"]
    cloud.execute(*CHANGES)
    first, at_first = create(cloud, "--incremental", "--verify", "boot")["backup"], glance_of(cloud)
    cloud.execute(*FURTHER)
    with cloud.started("backup", "create", "--incremental") as command:
        place = cloud.configuration.parent / "store"
        eventually(lambda: next(place.glob("*.partial"), None), "no backup was begun")
        command.kill()
    cloud.run("backup", "create", "--incremental", expect=10)
    cloud.run("runs", "resume")
    listed = cloud.json("backup", "list")
    assert [(each["kind"], each["base"], each["depth"], each["status"]) for each in listed] == [
        ("full", None, 0, "complete"),
        ("incremental", full["id"], 1, "complete"),
        ("incremental", full["id"], 1, "complete"),
    ]
    second, at_second = listed[2], glance_of(cloud)
    assert {full["donor"], first["donor"], second["donor"]} == {full["donor"]}
    assert first["stored_bytes"] < full["stored_bytes"] / 2
    assert (first["verified_level"], full["verified_level"]) == ("boot", None)
    cloud.run("backup", "verify", second["id"], "--level", "boot")

    with cloud.started("backup", "create", "--incremental") as command:
        eventually(lambda: next(place.glob("*.partial"), None), "no backup was begun")
        command.kill()
    (place / full["id"]).rename(place / "away")  # by somebody who knows better
    said = cloud.run("runs", "resume", expect=6)
    assert f"no incremental backup upon {full['id']}, which is not there any more" in said.stderr
    (place / "away").rename(place / full["id"])
    assert [each for _, _, each in stored(cloud)][:3] == ["complete"] * 3

    assert "it is number 1 of a chain" in refused(cloud, "--base", "latest")
    said = cloud.run("backup", "delete", full["id"], "--yes", expect=4)
    assert f"is the base of {first['id']}, {second['id']}" in said.stderr

    restore(cloud, first["id"])
    assert glance_of(cloud) == at_first
    said_why = refused(cloud)
    assert "glance/image_locations" in said_why and "imported since then" in said_why
    instead = create(cloud, "--incremental", "--or-full")
    assert (instead["backup"]["kind"], "imported since then" in instead["why_full"]) == ("full", True)
    upon = create(cloud, "--incremental")["backup"]
    assert upon["base"] == instead["backup"]["id"]
    restore(cloud, second["id"])
    assert glance_of(cloud) == at_second
    cloud.assert_whole()


def test_refused_after_a_state_transfer(policy: Cloud) -> None:
    cloud = policy
    full = create(cloud)["backup"]
    donor = full["donor"]
    upon = create(cloud, "--incremental")["backup"]
    kill_node(cloud.directory, donor)
    up(cloud.directory)  # it comes back with its own data
    upon = create(cloud, "--incremental")["backup"]
    assert upon["base"] == full["id"]
    kill_node(cloud.directory, donor)
    assert f"{donor} is not synced" in refused(cloud)
    shutil.rmtree(cloud.cluster.node(donor).datadir)
    up(cloud.directory)  # it comes back with another node's
    assert f"{donor} has the data of another node since then" in refused(cloud)
    assert create(cloud, "--incremental", "--or-full")["backup"]["kind"] == "full"
    (cloud.configuration.parent / "store" / full["id"] / "manifest.json").write_bytes(b"{}")
    assert [status for _, base, status in stored(cloud) if base == full["id"]] == [Status.ORPHANED] * 2
    said = cloud.run("restore", upon["id"], "--service", "glance", "--yes", expect=4)
    assert f"its base {full['id']} is damaged" in said.stderr
    assert cloud.run("backup", "verify", upon["id"], expect=1)
    cloud.assert_whole()


def test_the_whole_cluster_comes_back_from_one(policy: Cloud) -> None:
    cloud = policy
    full = create(cloud)["backup"]
    cloud.execute(*CHANGES)
    upon, before = create(cloud, "--incremental")["backup"], cloud.snapshot()
    assert upon["base"] == full["id"]
    cloud.execute(*FURTHER)
    said = cloud.run("restore", upon["id"], "--yes", "--json").json
    after = cloud.snapshot()
    assert after.checksums == before.checksums
    assert after.structure == before.structure
    with cloud.session() as session:
        assert session.column(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = 'scratch'"
        ) == ["a"]
    assert "the cluster began a new history since then" in refused(cloud)
    cloud.run("restore", "--forget", said["run"]["id"], "--yes")
    cloud.assert_whole()
