"""A running sandbox for tests that need a cluster."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from dbha.cluster.handle import Cluster
from dbha.config import Configuration, load_configuration
from dbha.sandbox import Sandbox, down, read_sandbox, stop_sandbox, up


@dataclass(frozen=True)
class RunningSandbox:
    """A sandbox with all its nodes Synced."""

    directory: Path
    sandbox: Sandbox
    configuration: Configuration
    cluster: Cluster


@pytest.fixture(scope="session")
def sandbox() -> Iterator[RunningSandbox]:
    """A three-node cluster of this test process alone; tests leave all nodes Synced and their own data behind."""
    with running_sandbox(nodes=3) as running:
        yield running


class running_sandbox:  # noqa: N801 - used like a function
    """Bring a sandbox up in a directory of its own, and take it down whatever happens."""

    def __init__(self, *, nodes: int) -> None:
        self._nodes = nodes
        self._directory = Path(tempfile.mkdtemp(prefix="dbha-test-"))
        self._cluster: Cluster | None = None

    def __enter__(self) -> RunningSandbox:
        directory = self._directory / "sandbox"
        try:
            found = up(directory, nodes=self._nodes).sandbox
        except BaseException:  # an interrupted test leaves no server running
            self._take_down()
            raise
        self._cluster = found.cluster(os.environ)
        return RunningSandbox(directory, found, load_configuration(found.layout.configuration), self._cluster)

    def __exit__(self, *_: object) -> None:
        self._take_down()

    def _take_down(self) -> None:
        if self._cluster is not None:
            self._cluster.close()
        directory = self._directory / "sandbox"
        if (directory / "inventory.yml").exists():
            stop_sandbox(read_sandbox(directory))
            down(directory)
        shutil.rmtree(self._directory, ignore_errors=True)
