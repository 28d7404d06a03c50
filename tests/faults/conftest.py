"""The one cluster of the fault matrix."""

from collections.abc import Iterator

import pytest

from tests.faults.scene import Scene
from tests.real.cloud import Cloud
from tests.real.conftest import running_sandbox


@pytest.fixture(scope="session")
def scene() -> Iterator[Scene]:
    """A cluster of three nodes with a little of placement, and a good backup of it."""
    with running_sandbox(nodes=3) as running:
        made = Scene(Cloud(running, running.directory / "dbha.yml"))
        made.build()
        yield made
