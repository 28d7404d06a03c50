"""What goes wrong while a backup is restored, and what comes back afterwards."""

import os
import re
import shutil
from pathlib import Path

from dbha.sandbox import kill_node, start_node
from tests.faults.scene import DONOR, THIRD, Scene
from tests.faults.stored import FLIPPED_AT
from tests.real.commands import Said
from tests.real.test_observe import wait_until


def no_room_to_prepare(scene: Scene) -> Said:
    """The place where the backup is prepared is a file system of its own, and too small."""
    staging = scene.cloud.state / "staging"
    return scene.run(
        "restore", scene.older, "--service", "placement", "--yes", wrapper=scene.mounted(staging, 16)
    )


def full_disk_on_a_node(scene: Scene) -> Said:
    """The file system beside the data of one node fills up while the backup is unpacked there."""
    place = Path(f"{scene.donor.datadir}.dbha")
    place.mkdir()
    try:
        return scene.run("restore", scene.older, "--yes", wrapper=scene.mounted(place, 16))
    finally:
        shutil.rmtree(place)


def old_nodes_come_back(scene: Scene) -> Said:
    """Two nodes miss a restore of the whole cluster: one with less than what was restored, one with more.

    Each has rows that the others do not have, and would catch up without a word if it were of the same history.
    """
    cloud, nodes = scene.cloud, scene.cloud.cluster.nodes
    stranger = "INSERT INTO placement.allocations (consumer) VALUES ('of the old history')"
    cloud.execute(stranger)
    kill_node(cloud.directory, nodes[DONOR].name)
    cloud.execute(*[stranger] * 50)
    kill_node(cloud.directory, nodes[THIRD].name)
    wait_until(cloud.cluster, lambda verdict: not verdict.may_write)  # the last one alone is no cluster
    missing = [word for node in nodes[1:] for word in ("--accept-missing", node.name)]
    away = [Path(node.datadir).rename(f"{node.datadir}.away") for node in nodes[1:]]
    refused = scene.run("restore", scene.older, "--yes")
    scene.cloud.run("restore", scene.older, "--yes", *missing)
    cloud.execute(*["UPDATE placement.allocations SET consumer = 'of the new history' WHERE id = 1"] * 30)
    for node, place in zip(nodes[1:], away, strict=True):
        place.rename(node.datadir)
        start_node(cloud.directory, node.name, environment=os.environ, on_line=lambda line: None)
        log = (cloud.directory / "nodes" / node.name / "error.log").read_text(errors="replace")
        assert re.findall("SST", log), f"{node} did not come back by a full transfer"
    for number in range(3):
        with cloud.session(number) as session:
            session.execute("SET SESSION wsrep_sync_wait = 1")
            rows = session.rows("SELECT consumer, COUNT(*) AS n FROM placement.allocations GROUP BY consumer")
            found = {row["consumer"]: row["n"] for row in rows}
            assert "of the old history" not in found
            assert found["of the new history"] == 1
    return refused


def page_flipped_on_a_node(scene: Scene) -> Said:
    """The disk of one node loses a bit of the prepared data: the first start beside the old data sees it."""
    with scene.ordered(tool="prepare", below="node2", file="placement/filling.ibd", flip=FLIPPED_AT):
        return scene.run("restore", scene.older, "--yes")
