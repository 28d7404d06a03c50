"""A data directory that is a mount point is seen as one, also where the file system is the same on both sides."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from dbha.backup.node_host import look_at
from dbha.cluster.handle import Cluster
from dbha.database import Account
from dbha.inventory import Node
from dbha.secrets import Secret

pytestmark = pytest.mark.real


@pytest.fixture(params=[("--bind", "."), ("-t", "tmpfs", "tmpfs")], ids=["bind", "file system"])
def mounted(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "mysql"
    place.mkdir()
    options = [str(place) if word == "." else word for word in request.param]
    done = subprocess.run(["mount", *options, str(place)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"mounting needs root: {done.stderr}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_mount_point_is_seen(mounted: Path) -> None:
    below = mounted / "data"
    below.mkdir()
    for place, is_mount_point in ((mounted, True), (below, False)):
        node = Node("node1", "127.0.0.1", 3306, str(place))
        found = look_at(Cluster("lab", (node,), Account("dbha", Secret(""))), node, ())
        assert (found.problem, found.is_mount_point) == ("", is_mount_point)
        assert found.free_bytes > 0
