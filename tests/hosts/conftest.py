"""The lab and the cluster on it that all tests of the hosts share, or the reason why there can be none here."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hosts.ground import NoLabError, Owner
from tests.hosts.lab import Lab, make_lab
from tests.hosts.site import HostedCluster, write_site

HOSTS = 3


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """Three hosts with nothing but a Debian on them.

    Where this machine cannot have any, the tests are skipped with the reason; `DBHA_LAB=required` fails them.
    """
    try:
        found = make_lab(HOSTS, database=False, owner=Owner.here())
    except NoLabError as error:
        if os.environ.get("DBHA_LAB") == "required":
            raise
        pytest.skip(f"no hosts can be had here: {error}")
    try:
        yield found
    finally:
        found.remove()


@pytest.fixture(scope="session")
def new_site(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The configuration of an operator who looks after the hosts; nothing was done yet."""
    return write_site(lab, tmp_path_factory.mktemp("site") / "site", {"mariadb_install_packages": True})


@pytest.fixture(scope="session")
def hosted(lab: Lab, new_site: Path) -> Iterator[HostedCluster]:
    """A cluster that `dbha cluster bootstrap` made on the hosts. Tests leave all nodes Synced."""
    found = HostedCluster(lab, new_site)
    try:
        found.run("cluster", "bootstrap", "--yes")
        found.run("database", "create")
        found.make_ledger()
        yield found
    finally:
        found.close()
