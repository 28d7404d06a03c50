"""The fixtures `cloud`, `shared_cloud` and `synced`. A test file asks for them by `pytest_plugins`."""

import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dbha.cluster.handle import Cluster
from dbha.config import load_configuration
from dbha.sandbox import up
from tests.real.cloud import Cloud
from tests.real.conftest import RunningSandbox, running_sandbox


@contextmanager
def _kept_cloud(directory: Path) -> Iterator[Cloud]:
    """Use the cloud in `directory` again, built there the first time; it stays for the next time."""
    sandbox = up(directory, nodes=3).sandbox
    cluster = sandbox.cluster(os.environ)
    running = RunningSandbox(directory, sandbox, load_configuration(sandbox.layout.configuration), cluster)
    found, memory = Cloud(running, directory / "dbha.yml"), directory / "cloud.pickle"
    if memory.exists():
        found.backup, found.before = pickle.loads(memory.read_bytes())
    else:
        found.build()
        memory.write_bytes(pickle.dumps((found.backup, found.before)))
    try:
        yield found
    finally:
        cluster.close()


@contextmanager
def _new_cloud() -> Iterator[Cloud]:
    with running_sandbox(nodes=3) as running:
        found = Cloud(running, running.directory / "dbha.yml")
        found.build()
        yield found


@pytest.fixture(scope="session")
def shared_cloud() -> Iterator[Cloud]:
    """The one cloud of this test process.

    `DBHA_TEST_CLOUD=DIRECTORY` keeps it there for the next time, which saves its maker a minute.
    """
    kept = os.environ.get("DBHA_TEST_CLOUD")
    with _kept_cloud(Path(kept)) if kept else _new_cloud() as found:
        yield found


@pytest.fixture
def cloud(shared_cloud: Cloud) -> Cloud:
    """The cloud, as new."""
    shared_cloud.reset()
    return shared_cloud


@pytest.fixture(scope="module")
def synced(shared_cloud: Cloud) -> Cluster:
    """The cloud's cluster, as new for the first test of a file, for tests that leave it as they find it."""
    shared_cloud.reset()
    return shared_cloud.cluster
