"""The files of an operator who looks after the hosts of a lab: policy, inventory and passwords."""

import os
import secrets
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from dbha.cluster.bootstrap import wait_until_synced
from dbha.cluster.certificates import Certificates
from dbha.cluster.handle import Cluster
from dbha.cluster.observe import observe
from dbha.cluster.state import NodeState
from dbha.config import load_configuration
from dbha.database import Account
from dbha.inventory import load_inventory
from dbha.sandbox.ledger import LedgerReport, WriterProcess, WriterSettings
from dbha.sandbox.ledger.check import LedgerCheck, check
from dbha.sandbox.ledger.tables import LedgerTable
from dbha.secrets import Secret
from tests.hosts.lab import Lab
from tests.real.commands import DBHA, Said
from tests.real.processes import PATIENCE_S

RELEASE = "2025.1"
SERVICES = ("placement", "keystone", "glance", "nova")
# Small, as several of these hosts share one machine.
SMALL: Mapping[str, Any] = {
    "mariadb_cluster_name": "lab",
    "mariadb_buffer_pool_size": "128M",
    "mariadb_redo_log_size": "96M",
    "mariadb_gcache_size": "64M",
    "mariadb_max_connections": 200,
    "mariadb_applier_threads": 2,
}


def write_site(lab: Lab, directory: Path, variables: Mapping[str, Any]) -> Path:
    """Write the files into a new directory and return the configuration's path; `variables` are of all hosts."""
    directory.mkdir(parents=True, mode=0o700)
    names = ["admin_password", *(f"{service}_password" for service in SERVICES)]
    passwords = directory / "secrets.yml"
    passwords.touch(mode=0o600)
    passwords.write_text(yaml.safe_dump({name: secrets.token_urlsafe(24) for name in names}))
    (directory / "inventory.yml").write_text(yaml.safe_dump(inventory(lab, variables), sort_keys=False))
    configuration = directory / "dbha.yml"
    configuration.write_text(yaml.safe_dump(policy(), sort_keys=False))
    return configuration


def inventory(lab: Lab, variables: Mapping[str, Any]) -> dict[str, Any]:
    """Return the inventory, as one writes it for hosts that are reached over SSH."""
    shared = {
        "ansible_user": "root",
        "ansible_ssh_private_key_file": str(lab.key),
        "ansible_ssh_common_args": f"-o UserKnownHostsFile={lab.known_hosts}",
        "dbha_known_hosts_file": str(lab.known_hosts),
        "mariadb_service_manager": "systemd",
        **SMALL,
        **variables,
    }
    hosts = {machine.name: {"ansible_host": machine.address} for machine in lab.machines}
    return {"galera": {"vars": shared, "hosts": hosts}}


def policy() -> dict[str, Any]:
    """Return the configuration."""
    return {
        "cluster": "lab",
        "inventory": "inventory.yml",
        "state": "state",
        "secrets": {"file": "secrets.yml"},
        "tls": {"directory": "tls"},
        "services": {service: {"release": RELEASE} for service in SERVICES},
        "backup": {"stores": {"local": {"directory": "backups"}}},
    }


LEDGER = LedgerTable("keystone", "keystone", "ledger", "id", {})


@dataclass
class HostedCluster:
    """A cluster on the hosts of a lab, and the command line of who looks after it."""

    lab: Lab
    configuration: Path

    @cached_property
    def cluster(self) -> Cluster:
        """The nodes as the inventory has them."""
        nodes = load_inventory(load_configuration(self.configuration).inventory)
        account = Account("dbha", Secret(self.passwords()["admin_password"]))
        return Cluster("lab", nodes, account, tls_ca_file=self.certificates.ca_file)

    @property
    def certificates(self) -> Certificates:
        """The certificates of the nodes."""
        return Certificates(self.directory / "tls", makes_missing=True)

    @property
    def directory(self) -> Path:
        """Where everything of the controller is."""
        return self.configuration.parent

    def passwords(self) -> dict[str, str]:
        """Return every password by its name."""
        found: dict[str, str] = yaml.safe_load((self.directory / "secrets.yml").read_text())
        return found

    def run(self, *arguments: str, expect: int | None = 0, configuration: Path | None = None) -> Said:
        """Run `dbha` to its end and require its exit code; None takes any."""
        argv = [str(DBHA), "-c", str(configuration or self.configuration), *arguments]
        began = time.monotonic()
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=PATIENCE_S,
            env={**os.environ, "NO_COLOR": "1", "COLUMNS": "200"},
        )  # fmt: skip
        said = Said(arguments, done.returncode, done.stdout, done.stderr, time.monotonic() - began)
        assert expect in (None, said.code), f"expected exit {expect}\n{said}"
        return said

    def states(self) -> tuple[NodeState, ...]:
        """Return what every node says of itself now."""
        return observe(self.cluster, 3)

    def wait_until_synced(self) -> tuple[NodeState, ...]:
        """Return once all nodes are Synced in one cluster."""
        return wait_until_synced(self.cluster, self.cluster.nodes, 120)

    def make_ledger(self) -> None:
        """Make the table that writers write to."""
        with self.cluster.session(self.cluster.nodes[0]) as session:
            session.execute(f"CREATE TABLE {LEDGER.qualified} (id CHAR(36) PRIMARY KEY)")

    @contextmanager
    def writing(self, reports: list[LedgerReport]) -> Iterator[WriterProcess]:
        """Write numbered rows as keystone while the block runs; its report comes into the list."""
        account = Account("keystone", Secret(self.passwords()["keystone_password"]))
        nodes = tuple(
            replace(node, ssh=None) for node in self.cluster.nodes
        )  # it writes, and goes to no host
        settings = WriterSettings(LEDGER, nodes, account, rate_per_s=50.0)
        with WriterProcess(settings) as writer:
            yield writer
            reports.append(writer.stop())

    def compare(self, report: LedgerReport) -> LedgerCheck:
        """Compare what a writer was told with what every node has."""
        found = []
        for node in self.cluster.nodes:
            with self.cluster.session(node) as session:
                found.append(check(report, LEDGER, [session]))
        return next((each for each in found if not each.is_intact), found[0])

    def close(self) -> None:
        """End the connections."""
        self.cluster.close()
