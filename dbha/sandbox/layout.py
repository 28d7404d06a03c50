"""Where the parts of a sandbox are, and how one is told from any other directory."""

import hashlib
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from dbha.cluster.handle import Cluster
from dbha.config import SecretSource, load_configuration
from dbha.database import Account
from dbha.errors import UnsafeError, UsageError
from dbha.inventory import Node

MARK = "dbha_sandbox"  # the inventory variable that makes a directory a sandbox
ADDRESS = "127.0.0.1"
MAX_NODES = 9


@dataclass(frozen=True, slots=True)
class Layout:
    """The paths of a sandbox; nothing here looks at the disk."""

    directory: Path

    @property
    def configuration(self) -> Path:
        """The policy, `dbha.yml`."""
        return self.directory / "dbha.yml"

    @property
    def inventory(self) -> Path:
        """The nodes; written last, so a directory that has it has everything."""
        return self.directory / "inventory.yml"

    @property
    def secrets(self) -> Path:
        """The passwords, of mode 0600."""
        return self.directory / "secrets.yml"

    @property
    def lock(self) -> Path:
        """What one `up` or `down` at a time holds."""
        return self.directory / "sandbox.lock"

    @property
    def bootstrapped(self) -> Path:
        """What is there once the cluster was made; until then there is no data to take care of."""
        return self.directory / "bootstrapped"

    @property
    def ansible(self) -> Path:
        """What Ansible recorded of its runs."""
        return self.directory / "state" / "ansible"

    def node(self, name: str) -> Path:
        """Return a node's directory: configuration, process id, error log and data."""
        return self.directory / "nodes" / name


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A sandbox on the disk: its paths, its nodes, and the directory of its sockets."""

    layout: Layout
    nodes: tuple[Node, ...]
    sockets: Path

    def node(self, name: str) -> Node:
        """Return the node called `name`. Raises UsageError that lists the nodes there are."""
        for node in self.nodes:
            if node.name == name:
                return node
        raise UsageError(f"no node is called {name}; there are {', '.join(map(str, self.nodes))}")

    def cluster(self, environment: Mapping[str, str]) -> Cluster:
        """Return the cluster with its administrator's account; the caller closes it."""
        configuration = load_configuration(self.layout.configuration)
        password = SecretSource(configuration.secrets, environment).get("admin_password")
        return Cluster(configuration.cluster, self.nodes, Account(configuration.admin_account, password))

    def account(self, service: str, environment: Mapping[str, str]) -> Account:
        """Return the account of a service, with its password."""
        configuration = load_configuration(self.layout.configuration)
        return Account(service, SecretSource(configuration.secrets, environment).get(f"{service}_password"))


def read_sandbox(directory: Path) -> Sandbox:
    """Return the sandbox in `directory`. Raises UnsafeError when there is none or it is something else."""
    layout = Layout(directory.resolve())
    if directory.is_symlink() or not layout.inventory.is_file():
        raise UnsafeError(f"{directory} is not a sandbox", hint="dbha sandbox up     makes one")
    inventory = yaml.safe_load(layout.inventory.read_text(encoding="utf-8"))
    variables = inventory.get("all", {}).get("vars", {}) if isinstance(inventory, dict) else {}
    if variables.get(MARK) is not True:
        raise UnsafeError(f"{layout.inventory} is not the inventory of a sandbox")
    hosts = inventory["galera"]["hosts"]
    nodes = tuple(
        Node(
            name,
            host["galera_address"],
            host["mariadb_port"],
            host["mariadb_datadir"],
            configuration_file=host["mariadb_configuration_file"],
        )
        for name, host in hosts.items()
    )
    return Sandbox(layout, nodes, Path(variables["dbha_sandbox_sockets"]))


def socket_directory(directory: Path, environment: Mapping[str, str]) -> Path:
    """Return where the sockets of the sandbox in `directory` go.

    A socket's path has at most 107 characters, a sandbox may be deeper down than that.
    """
    digest = hashlib.sha256(os.fsencode(directory.resolve())).hexdigest()[:12]
    return runtime_root(environment) / digest


def runtime_root(environment: Mapping[str, str]) -> Path:
    """Return the directory of this user's sockets, made if need be. Raises UnsafeError when it is not ours."""
    session = Path(environment.get("XDG_RUNTIME_DIR") or "/nonexistent")
    root = session / "dbha" if _is_ours(session) else Path(f"/tmp/dbha-{os.geteuid()}")  # noqa: S108
    root.mkdir(mode=0o700, exist_ok=True)
    if not _is_ours(root):
        raise UnsafeError(f"{root} belongs to somebody else, or others may write to it")
    return root


def _is_ours(directory: Path) -> bool:
    try:
        found = directory.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o022
