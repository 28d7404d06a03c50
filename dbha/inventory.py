"""The nodes of the cluster, as the Ansible inventory describes them."""

import difflib
import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dbha.errors import ConfigurationError, UnreachableError

GROUP = "galera"
_CONFIGURATION_FILE = "/etc/mysql/my.cnf"


@dataclass(frozen=True, slots=True)
class SshSettings:
    """How to reach a host over SSH; None leaves the choice to SSH's own defaults."""

    host: str
    port: int = 22
    user: str | None = None
    private_key_file: Path | None = None
    known_hosts_file: Path | None = None


@dataclass(frozen=True, slots=True)
class Node:
    """What the inventory says of one database server."""

    name: str
    address: str
    port: int
    datadir: str
    ssh: SshSettings | None = None  # None: the server runs on this machine
    configuration_file: str = _CONFIGURATION_FILE  # the server's

    def __str__(self) -> str:
        return self.name


def parse_inventory(listing: Mapping[str, Any], source: str) -> tuple[Node, ...]:
    """Return the nodes of group `galera`, in the inventory's order, from `ansible-inventory --list`.

    Raises ConfigurationError with every mistake: no such group, a missing variable, two nodes that would be
    the same server.
    """
    hosts = _hosts_of(listing, GROUP)
    variables = listing.get("_meta", {}).get("hostvars", {})
    if not hosts:
        groups = [name for name in listing if name not in ("_meta", "all", "ungrouped")]
        close = difflib.get_close_matches(GROUP, groups, n=1)
        raise ConfigurationError(
            source, [f"group `{GROUP}` has no hosts" + (f"; did you mean `{close[0]}`?" if close else "")]
        )
    problems: list[str] = []
    nodes = [_node(name, variables.get(name, {}), problems) for name in hosts]
    problems += _twins(nodes)
    if problems:
        raise ConfigurationError(source, problems)
    return tuple(nodes)


def load_inventory(path: Path) -> tuple[Node, ...]:
    """Return the nodes that the inventory at `path` names, read through Ansible itself."""
    if not path.exists():
        raise ConfigurationError(str(path), ["no such inventory"])
    tool = Path(sys.executable).with_name("ansible-inventory")
    try:
        done = subprocess.run([tool, "-i", path, "--list"], capture_output=True, check=False, timeout=60)
    except (FileNotFoundError, subprocess.TimeoutExpired) as error:
        raise UnreachableError(f"ansible-inventory did not answer: {error}") from error
    if done.returncode != 0:
        raise ConfigurationError(str(path), [done.stderr.decode(errors="replace").strip()[-500:]])
    return parse_inventory(json.loads(done.stdout), str(path))


def _hosts_of(listing: Mapping[str, Any], group: str) -> list[str]:
    entry = listing.get(group, {})
    hosts = list(entry.get("hosts", []))
    for child in entry.get("children", []):
        hosts += [host for host in _hosts_of(listing, child) if host not in hosts]
    return hosts


def _node(name: str, variables: Mapping[str, Any], problems: list[str]) -> Node:
    address = variables.get("galera_address") or variables.get("ansible_host") or name
    port = variables.get("mariadb_port", 3306)
    if not isinstance(port, int) or not 0 < port < 65536:
        problems.append(f"{name}.mariadb_port: must be a port number, found {port!r}")
        port = 0
    ssh = None
    if variables.get("ansible_connection", "ssh") != "local":
        ssh = SshSettings(
            host=variables.get("ansible_host", name),
            port=int(variables.get("ansible_port", 22)),
            user=variables.get("ansible_user"),
            private_key_file=_path(variables.get("ansible_ssh_private_key_file")),
            known_hosts_file=_path(variables.get("dbha_known_hosts_file")),
        )
    datadir = str(variables.get("mariadb_datadir", "/var/lib/mysql"))
    configuration_file = str(variables.get("mariadb_configuration_file", _CONFIGURATION_FILE))
    return Node(name, str(address), port, datadir, ssh, configuration_file)


def _path(text: str | None) -> Path | None:
    return Path(text).expanduser() if text else None


def _twins(nodes: Sequence[Node]) -> list[str]:
    places: dict[str, list[str]] = defaultdict(list)
    for node in nodes:
        places[f"address {node.address}:{node.port}"].append(node.name)
        places[f"datadir {node.datadir} on {node.ssh.host if node.ssh else 'this machine'}"].append(node.name)
    return [f"{' and '.join(names)}: the same {place}" for place, names in places.items() if len(names) > 1]
