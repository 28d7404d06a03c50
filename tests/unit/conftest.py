"""Fixtures that several files of unit tests share, and how properties are tried.

A change is judged by the same examples each time. Look for new ones with
`pytest tests/unit --hypothesis-profile explore`.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.unit.backup_site import Site
from tests.unit.memory_objects import Memory
from tests.unit.workflow_bench import Bench

settings.register_profile("same", derandomize=True, deadline=None)
settings.register_profile("explore", max_examples=5000, deadline=None)
settings.load_profile("same")


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "journal.sqlite")
    yield made
    made.journal.close()


@pytest.fixture
def memory() -> Memory:
    return Memory()


@pytest.fixture
def site(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Site:
    return Site(tmp_path, capsys)


@pytest.fixture
def five(site: Site) -> list[str]:
    """Five backups, the oldest first, of which the oldest is the only verified one."""
    return [site.backup(days=days, verified=days == 5) for days in (5, 4, 3, 2, 1)]
