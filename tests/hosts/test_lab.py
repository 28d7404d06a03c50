"""The lab itself: what it does to hosts, and that nothing is left of one whose owner died."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.hosts.ground import processes_with, tried
from tests.hosts.lab import Lab, all_labs, remove_orphans

pytestmark = [pytest.mark.real, pytest.mark.hosts]

ORPHAN = """
import sys, time
from tests.hosts.ground import Owner
from tests.hosts.lab import make_lab
print(make_lab(1, database=True, owner=Owner.here()).directory, flush=True)
time.sleep(600)
"""


def pings(lab: Lab, source: str, target: str) -> bool:
    """Return whether one host can open a connection to another's sshd."""
    address = lab[target].address
    line = f"import socket; socket.create_connection(('{address}', 22), timeout=1).close()"
    try:
        lab[source].run("python3", "-c", line)
    except AssertionError:
        return False
    return True


def test_a_link_is_cut_and_mended(lab: Lab) -> None:
    assert pings(lab, "node3", "node1")
    with lab["node3"].cut_from(lab["node1"]):
        assert not pings(lab, "node3", "node1") and not pings(lab, "node1", "node3")
        assert pings(lab, "node3", "node2")
    assert pings(lab, "node3", "node1") and pings(lab, "node1", "node3")


def test_a_frozen_host_says_nothing_until_it_is_thawed(lab: Lab) -> None:
    machine = lab["node3"]
    with machine.frozen():
        stopped = [
            Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] for pid in machine.processes()
        ]
        assert set(stopped) == {"T"}
        assert not machine.answers()
    machine.wait_until_up()


def test_a_disk_is_full_for_a_while(lab: Lab) -> None:
    machine = lab["node3"]
    with machine.full_disk():
        assert machine.run("df", "--output=avail", "/var/lib").split()[1] == "0"
        with pytest.raises(AssertionError, match="No space left"):
            machine.run("dd", "if=/dev/zero", "of=/var/lib/more", "bs=64k", "count=4")
    machine.run("rm", "-f", "/var/lib/more")
    assert int(machine.run("df", "--output=avail", "/var/lib").split()[1]) > 100_000


def test_a_lab_whose_owner_was_killed_is_removed_by_the_next(lab: Lab) -> None:
    with subprocess.Popen([sys.executable, "-c", ORPHAN], stdout=subprocess.PIPE, text=True) as owner:
        try:
            assert owner.stdout is not None
            directory = Path(owner.stdout.readline().strip())
        finally:
            owner.kill()
    record = json.loads((directory / "lab.json").read_text())
    monitor = f"--machine={directory.name}-node1"
    with all_labs() as labs:
        assert remove_orphans(labs) == [directory.name]
    assert not directory.exists() and lab.directory.exists()
    assert not processes_with(monitor)
    assert str(directory) not in Path("/proc/mounts").read_text()
    assert not tried("ip", "link", "show", record["network"]["bridge"])
    assert not list(Path("/sys/fs/cgroup").glob(f"**/dbha-lab-{directory.name}-*"))
