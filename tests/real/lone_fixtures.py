"""The fixtures `server`, `remote`, `good` and `store`. A test file asks for them by `pytest_plugins`."""

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from dbha.backup.directory_store import DirectoryStore
from dbha.cluster.handle import Cluster
from dbha.inventory import SshSettings
from tests.real.lone_server import ID, Server, running_server, take
from tests.real.sshd import running_sshd


@pytest.fixture(scope="session")
def lone_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, DirectoryStore]]:
    """The lone server of this test process, and a store with a backup of it from before any test."""
    with running_server(tmp_path_factory.mktemp("server")) as server:
        store = DirectoryStore(tmp_path_factory.mktemp("good"))
        take(server, store, backup_id=ID)
        yield server, store


@pytest.fixture(scope="session")
def server(lone_server: tuple[Server, DirectoryStore]) -> Server:
    """The lone server. Tests leave it running; they may leave rows and tables of their own behind."""
    return lone_server[0]


@pytest.fixture(scope="session")
def remote(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The same server, reached as a host of its own over SSH."""
    with running_sshd(tmp_path_factory.mktemp("sshd")) as sshd:
        end = sshd.endpoint
        ssh = SshSettings(end.host, end.port, end.user, end.private_key_file, end.known_hosts_file)
        node = replace(server.node, ssh=ssh)
        cluster = Cluster("test", (node,), server.cluster.account)
        with contextlib.closing(cluster):
            yield Server(cluster, server.process)


@pytest.fixture(scope="session")
def good(lone_server: tuple[Server, DirectoryStore]) -> DirectoryStore:
    """A store with one good backup; tests work on copies of it."""
    return lone_server[1]


@pytest.fixture
def store(good: DirectoryStore, tmp_path: Path) -> DirectoryStore:
    """A copy of that store."""
    shutil.copytree(good.directory, tmp_path / "store")
    return DirectoryStore(tmp_path / "store")
