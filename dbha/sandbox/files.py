"""The files that make a directory a sandbox: policy, nodes and passwords."""

import os
import pwd
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from dbha.errors import UnsafeError
from dbha.sandbox.layout import ADDRESS, MARK, Layout
from dbha.sandbox.ports import NodePorts

SERVICES = ("placement", "keystone", "glance", "nova")

_CONFIGURATION = """\
# The policy of this sandbox. Paths are relative to this file.
cluster: sandbox
inventory: inventory.yml
state: state
admin_account: dbha
secrets:
  file: secrets.yml
services:
{services}
backup:
  stores:
    local:
      directory: backups
upgrade:
  # OpenStack tests upgrades to the next release, and from one SLURP release to the next. It does not test
  # this jump over three releases; the sandbox accepts it by name.
  allow_hops: ["2025.1 -> 2026.2"]
"""


def write_files(layout: Layout, *, release: str, ports: Sequence[NodePorts], sockets: Path) -> None:
    """Write the files of a new sandbox; the inventory, which makes it one, comes last."""
    layout.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_atomically(layout.secrets, _dump("The passwords of this sandbox.", random_secrets()), mode=0o600)
    write_atomically(layout.configuration, configuration_text(release))
    inventory = inventory_data(layout, ports, sockets, user=operating_system_account())
    write_atomically(layout.inventory, _dump("The nodes of this sandbox.", inventory))


def configuration_text(release: str) -> str:
    """Return the text of `dbha.yml`, with every service at `release`."""
    services = "\n".join(f'  {service}: {{release: "{release}"}}' for service in SERVICES)
    return _CONFIGURATION.format(services=services)


def random_secrets() -> dict[str, str]:
    """Return new passwords for the administrator and for each service's account."""
    names = ["admin_password", *(f"{service}_password" for service in SERVICES)]
    return {name: secrets.token_urlsafe(24) for name in names}


def inventory_data(
    layout: Layout, ports: Sequence[NodePorts], sockets: Path, *, user: str
) -> dict[str, object]:
    """Return the inventory: the same variables as a production cluster's, with this machine's values."""
    variables = {
        MARK: True,
        "dbha_sandbox_sockets": str(sockets),
        "ansible_connection": "local",
        "ansible_python_interpreter": "{{ ansible_playbook_python }}",
        "ansible_remote_tmp": str(layout.directory / "tmp"),
        "mariadb_cluster_name": "sandbox",
        "mariadb_user": user,
        "mariadb_buffer_pool_size": "256M",
        "mariadb_redo_log_size": "96M",
        "mariadb_gcache_size": "128M",
        "mariadb_max_connections": 300,
        "mariadb_applier_threads": 2,
        "mariadb_performance_schema": False,
    }
    hosts = {
        f"node{number}": _host(layout.node(f"node{number}"), each, sockets / f"node{number}.sock", number)
        for number, each in enumerate(ports, start=1)
    }
    return {"all": {"vars": variables}, "galera": {"hosts": hosts}}


def operating_system_account() -> str:
    """Return the name of the account that runs dbha. Raises UnsafeError when it has none.

    The servers run as it, and let its name in by the unix socket.
    """
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError as error:
        raise UnsafeError(f"user id {os.geteuid()} has no name, which MariaDB needs") from error


def write_atomically(path: Path, text: str, *, mode: int = 0o644) -> None:
    """Write a file that is there complete or not at all, and nobody else's to read before its mode is set."""
    partial = path.with_name(f".{path.name}.partial")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.rename(path)


def _host(directory: Path, ports: NodePorts, socket: Path, number: int) -> dict[str, object]:
    return {
        "galera_address": ADDRESS,
        "mariadb_port": ports.sql,
        "mariadb_galera_port": ports.galera,
        "mariadb_ist_port": ports.ist,
        "mariadb_sst_port": ports.sst,
        "mariadb_node_gtid_domain_id": 100 + number,
        "mariadb_datadir": str(directory / "data"),
        "mariadb_configuration_file": str(directory / "my.cnf"),
        "mariadb_pid_file": str(directory / "mariadb.pid"),
        "mariadb_error_log": str(directory / "error.log"),
        "mariadb_tmpdir": str(directory / "tmp"),
        "mariadb_socket": str(socket),
    }


def _dump(title: str, data: Mapping[str, object]) -> str:
    return f"# {title}\n" + yaml.safe_dump(data, sort_keys=False)
