"""Ports for the nodes of a sandbox, kept apart from every other sandbox of this user."""

import fcntl
import json
import socket
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path

from dbha.errors import UnreachableError
from dbha.sandbox.layout import ADDRESS

# Below 32768, where Linux begins to hand out ports to outgoing connections (ip-sysctl, ip_local_port_range).
FIRST_PORT, LAST_PORT = 24000, 31999
_BLOCK = 10
_RESERVATION = "ports.json"


@dataclass(frozen=True, slots=True)
class NodePorts:
    """The ports of one node."""

    sql: int
    galera: int
    ist: int
    sst: int


def choose_ports(
    count: int, *, reserved: AbstractSet[int], is_free: Callable[[int], bool], start: int = FIRST_PORT
) -> tuple[NodePorts, ...]:
    """Return ports for `count` nodes, none reserved and all free, looking from `start` on and around the end.

    Raises UnreachableError when there are not as many.
    """
    found: list[NodePorts] = []
    blocks = range(FIRST_PORT, LAST_PORT - _BLOCK + 2, _BLOCK)
    turn = next((index for index, block in enumerate(blocks) if block >= start), 0)
    for block in [*blocks[turn:], *blocks[:turn]]:
        if len(found) == count:
            break
        ports = NodePorts(block, block + 1, block + 2, block + 3)
        if not reserved & set(astuple(ports)) and all(map(is_free, astuple(ports))):
            found.append(ports)
    if len(found) < count:
        raise UnreachableError(f"no {count} groups of free ports between {FIRST_PORT} and {LAST_PORT}")
    return tuple(found)


def is_free(port: int) -> bool:
    """Return whether nobody listens on `port` of the loopback address or of all addresses."""
    with socket.socket() as probe:
        try:
            probe.bind((ADDRESS, port))
        except OSError:
            return False
    return True


@contextmanager
def reserving(root: Path) -> Iterator[frozenset[int]]:
    """Yield the ports that other sandboxes below `root` reserved, while nobody else can reserve any."""
    with (root / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield frozenset(port for sandbox in root.iterdir() for port in _reserved_by(sandbox))


def reserve(sockets: Path, directory: Path, ports: Sequence[NodePorts]) -> None:
    """Write down that the sandbox in `directory` has these ports, even while its servers are down."""
    numbers = [number for each in ports for number in astuple(each)]
    (sockets / _RESERVATION).write_text(json.dumps({"directory": str(directory), "ports": numbers}))


def _reserved_by(sockets: Path) -> list[int]:
    try:
        reservation = json.loads((sockets / _RESERVATION).read_text())
        ports: list[int] = reservation["ports"]
        return ports if Path(reservation["directory"]).exists() else []
    except (OSError, ValueError, KeyError):
        return []  # not a sandbox, or one half written: its ports are not in use yet
