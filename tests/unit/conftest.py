"""Fixtures that several files of unit tests share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.memory_objects import Memory
from tests.unit.workflow_bench import Bench


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "journal.sqlite")
    yield made
    made.journal.close()


@pytest.fixture
def memory() -> Memory:
    return Memory()
