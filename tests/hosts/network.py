"""The network of a lab: one bridge on this machine, an address for each host, links that can be cut.

A link is cut one way by telling the sender a neighbour's address that nobody has: what it sends goes nowhere, without
an error, as on a broken wire. No packet filter is needed for that.
"""

import json
from dataclasses import dataclass

from tests.hosts.ground import NoLabError, run, tried

PREFIX_BITS = 24
_DEVICE = "host0"  # as systemd-nspawn calls it
_NOBODY = "02:00:00:00:00:01"
_NETWORKS = tuple(f"10.213.{number}" for number in range(256))


@dataclass(frozen=True)
class Network:
    """The bridge of one lab; this machine, the controller, has its first address."""

    bridge: str
    network: str  # the first three numbers of its addresses

    @property
    def controller(self) -> str:
        """The address of this machine."""
        return f"{self.network}.1"

    def address(self, number: int) -> str:
        """Return the address of the host with this number, counted from 1."""
        return f"{self.network}.{10 + number}"

    def make(self) -> None:
        """Make the bridge."""
        run("ip", "link", "add", self.bridge, "type", "bridge")
        run("ip", "address", "add", f"{self.controller}/{PREFIX_BITS}", "dev", self.bridge)
        run("ip", "link", "set", self.bridge, "up")

    def remove(self) -> None:
        """Remove the bridge; the hosts' ends go with the hosts."""
        tried("ip", "link", "del", self.bridge)


def free_network() -> str:
    """Return a network that no interface of this machine has. Call it with the lock of all labs."""
    listed = json.loads(run("ip", "-json", "address"))
    taken = {entry["local"].rpartition(".")[0] for link in listed for entry in link.get("addr_info", ())}
    for network in _NETWORKS:
        if network not in taken:
            return network
    raise NoLabError("all networks of labs are taken")


def interface_file(address: str) -> str:
    """Return the file for systemd-networkd that gives a host its address."""
    return f"[Match]\nName={_DEVICE}\n[Network]\nAddress={address}/{PREFIX_BITS}\nLinkLocalAddressing=no\n"


def cut(to_address: str, inside: int) -> None:
    """Send everything for an address nowhere, from the network of a process."""
    nobody = ("lladdr", _NOBODY, "dev", _DEVICE, "nud", "permanent")
    run(*_entering(inside), "ip", "neigh", "replace", to_address, *nobody)


def mend(to_address: str, inside: int) -> None:
    """Undo `cut`, if there was one."""
    tried(*_entering(inside), "ip", "neigh", "del", to_address, "dev", _DEVICE)


def _entering(pid: int) -> tuple[str, ...]:
    return ("nsenter", "-t", str(pid), "-n")
