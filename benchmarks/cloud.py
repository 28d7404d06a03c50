"""A sandbox with a cloud in it, made for a benchmark and removed after it."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dbha.cluster.handle import Cluster
from dbha.inventory import Node
from dbha.sandbox import down
from dbha.sandbox.layout import Sandbox, read_sandbox

DBHA = Path(sys.executable).with_name("dbha")
NOVA = ("nova_api", "nova_cell0", "nova")
ALL = (*NOVA, "keystone", "glance", "placement")
RELEASE, TARGET = "2025.1", "2026.2"


@dataclass(frozen=True, slots=True)
class Cloud:
    """A running sandbox for measuring on."""

    sandbox: Sandbox
    cluster: Cluster
    directory: Path

    @property
    def writer(self) -> Node:
        """The node that takes the writes."""
        return self.cluster.nodes[0]

    def dbha(self, *arguments: str, expect: int = 0) -> float:
        """Run a `dbha` command and return its wall time in seconds."""
        environment = {**os.environ, "DBHA_CONFIG": str(self.sandbox.layout.configuration)}
        argv = (str(DBHA), *arguments)
        os.sync()
        started = time.monotonic()
        done = subprocess.run(argv, env=environment, capture_output=True, check=False)
        if done.returncode != expect:
            raise RuntimeError(
                f"dbha {' '.join(arguments)} exited {done.returncode}: {done.stderr.decode()[-800:]}"
            )
        return time.monotonic() - started

    def runs(self) -> list[dict[str, Any]]:
        """Return the runs in the journal, as `dbha runs list --json` tells them."""
        environment = {**os.environ, "DBHA_CONFIG": str(self.sandbox.layout.configuration)}
        done = subprocess.run(
            (str(DBHA), "runs", "list", "--json"), env=environment, capture_output=True, check=True
        )
        found: list[dict[str, Any]] = json.loads(done.stdout)
        return found

    def options_file(self) -> Path:
        """Return a file, for its owner only, with which the MariaDB tools reach the writer."""
        path = self.directory / "client.cnf"
        path.touch(mode=0o600)
        path.write_text(
            f"[client]\nprotocol=tcp\nhost={self.writer.address}\nport={self.writer.port}\n"
            f"user={self.cluster.account.user}\npassword={self.cluster.account.password.reveal()}\n"
        )
        return path

    def data_bytes(self, databases: Sequence[str]) -> int:
        """Return the size of the databases' tablespaces."""
        with self.cluster.session(self.writer) as session:
            rows = session.rows("SELECT name, file_size FROM information_schema.innodb_sys_tablespaces")
        return sum(row["file_size"] for row in rows if row["name"].partition("/")[0] in databases)


@contextmanager
def cloud(instances: int, *, services: Sequence[str] = ()) -> Iterator[Cloud]:
    """Yield a three-node sandbox with the schemas of 2025.1 and so many servers in it."""
    with tempfile.TemporaryDirectory(prefix="dbha-benchmark-") as parent:
        directory = Path(parent, "sandbox")
        subprocess.run([DBHA, "sandbox", "up", "--directory", directory], check=True, capture_output=True)
        try:
            sandbox = read_sandbox(directory)
            made = Cloud(sandbox, sandbox.cluster(os.environ), Path(parent))
            for release in (RELEASE, TARGET):
                made.dbha("release", "install", release)
            made.dbha("database", "create")
            made.dbha("sync", *services)
            made.dbha("sandbox", "load", "--instances", str(instances))
            yield made
        finally:
            down(directory)


def timed(action: Callable[[], object]) -> float:
    """Return how many seconds the action takes. It begins with nothing that an earlier one left to be written."""
    os.sync()
    started = time.monotonic()
    action()
    return time.monotonic() - started


def shell(script: str, **variables: object) -> None:
    """Run a bash script with `pipefail`, as an operator would; its variables come from the environment."""
    environment = {**os.environ, **{name: str(value) for name, value in variables.items()}}
    argv = ("bash", "-euo", "pipefail", "-c", script)
    done = subprocess.run(
        argv, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"{script} exited {done.returncode}: {done.stderr.decode()[-800:]}")
