"""A lab: some hosts on one network, made and removed as a whole.

Each lab has a directory that says who owns it. Whoever makes a lab first removes those whose owner died, with their
hosts, mounts and bridges. One made by hand has no owner and stays until it is removed by hand.
"""

import contextlib
import fcntl
import json
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.hosts.ground import NoLabError, Owner, require_ground, run
from tests.hosts.image import ready_image
from tests.hosts.machine import Machine
from tests.hosts.network import Network, free_network

LABS = Path("/run/dbha-labs")
MOST_HOSTS = 7
_RECORD = "lab.json"


@dataclass(frozen=True)
class Lab:
    """Hosts that run, their network, and the controller's key for them."""

    directory: Path
    network: Network
    machines: tuple[Machine, ...]

    def __getitem__(self, name: str) -> Machine:
        return next(machine for machine in self.machines if machine.name == name)

    @property
    def key(self) -> Path:
        """The private key that opens every host."""
        return self.directory / "id_ed25519"

    @property
    def known_hosts(self) -> Path:
        """The hosts' keys."""
        return self.directory / "known_hosts"

    def boot(self, *machines: Machine, dies_with_us: bool = True) -> None:
        """Switch hosts on, all when none is named, and return when they can be reached."""
        for machine in machines or self.machines:
            machine.start(dies_with_us=dies_with_us)
        for machine in machines or self.machines:
            machine.wait_until_up()

    def remove(self) -> None:
        """Remove the hosts and all that belongs to them."""
        for machine in self.machines:
            machine.remove()
        self.network.remove()
        shutil.rmtree(self.directory, ignore_errors=True)


def make_lab(hosts: int, *, database: bool, owner: Owner | None) -> Lab:
    """Return a lab of hosts that can be reached; `database`: with the database's packages installed.

    Raises NoLabError with the reason when hosts cannot be had here; nothing is left then.
    """
    try:
        return _make_lab(hosts, database=database, owner=owner)
    except OSError as error:  # of a file or a directory that this machine does not let us have
        raise NoLabError(str(error)) from error


def _make_lab(hosts: int, *, database: bool, owner: Owner | None) -> Lab:
    if not 1 <= hosts <= MOST_HOSTS:
        raise NoLabError(f"a lab has 1 to {MOST_HOSTS} hosts, not {hosts}")
    require_ground()
    image = ready_image()
    with all_labs() as labs:
        remove_orphans(labs)
        lab = _new_lab(labs, hosts, owner)
        try:
            lab.network.make()
        except BaseException:  # whatever it was, also a signal: nothing is left, and it goes on to the caller
            lab.remove()
            raise
    try:
        for machine in lab.machines:
            machine.make(image, database=database)
        lab.boot(dies_with_us=owner is not None)
    except BaseException:  # as above
        lab.remove()
        raise
    return lab


@contextmanager
def all_labs() -> Iterator[Path]:
    """Yield the directory of all labs of this machine; nobody else makes or removes any meanwhile."""
    LABS.mkdir(mode=0o700, exist_ok=True)
    with (LABS / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield LABS


def remove_orphans(labs: Path) -> list[str]:
    """Remove the labs whose owner is gone and return their names. Call it with the lock of all labs."""
    removed = []
    for directory in sorted(entry for entry in labs.iterdir() if entry.is_dir()):
        if (found := read_lab(directory)) is None:
            shutil.rmtree(directory)  # its maker died before it had anything
            continue
        lab, owner = found
        if owner is not None and not owner.is_alive:
            lab.remove()
            removed.append(directory.name)
    return removed


def read_lab(directory: Path) -> tuple[Lab, Owner | None] | None:
    """Return a lab and its owner, from its record; None when there is no record yet."""
    with contextlib.suppress(FileNotFoundError):
        record = json.loads((directory / _RECORD).read_text(encoding="utf-8"))
        owner = Owner(**record["owner"]) if record["owner"] else None
        return _lab(directory, Network(**record["network"]), record["hosts"]), owner
    return None


def _new_lab(labs: Path, hosts: int, owner: Owner | None) -> Lab:
    name = secrets.token_hex(2)
    directory = labs / name
    network = Network(f"dbha{name}", free_network())
    directory.mkdir(mode=0o700)
    record = {"owner": asdict(owner) if owner else None, "network": asdict(network), "hosts": hosts}
    partial = directory / f"{_RECORD}.partial"
    partial.write_text(json.dumps(record), encoding="utf-8")
    partial.rename(directory / _RECORD)
    lab = _lab(directory, network, hosts)
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"dbha-lab-{name}", "-f", str(lab.key))
    return lab


def _lab(directory: Path, network: Network, hosts: int) -> Lab:
    machines = tuple(
        Machine(
            f"node{number}", network.address(number), directory / f"node{number}", network.bridge, directory,
            f"{directory.name}-node{number}",
        )
        for number in range(1, hosts + 1)
    )  # fmt: skip
    return Lab(directory, network, machines)
