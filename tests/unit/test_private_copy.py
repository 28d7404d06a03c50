"""Where a private copy of a backup may be, and that a failure leaves nothing of one."""

from pathlib import Path

import pytest

from dbha.backup.private_copy import PrivateCopies, refuse_place
from dbha.errors import UnsafeError, UsageError

ID = "20261123T043000Z-3f2a"


@pytest.fixture
def ground(tmp_path: Path) -> Path:
    """A machine with a data directory that no inventory knows, one that is known, and others."""
    for name in ("stray", "known", "empty", "full"):
        (tmp_path / name).mkdir()
    (tmp_path / "stray" / "ibdata1").touch()
    (tmp_path / "full" / "thesis.tex").touch()
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "known")
    return tmp_path


@pytest.mark.parametrize("name", ["empty", "new", "new/below", "empty/below"])
def test_where_a_copy_may_be(ground: Path, name: str) -> None:
    refuse_place(ground / name, [ground / "known"])


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("full", "is not an empty directory"),
        ("file", "is not an empty directory"),
        ("known", "which is in use"),
        ("known/below/it", "which is in use"),
        ("link/below", "which is in use"),
        ("stray", "which is a data directory"),
        ("stray/below", "which is a data directory"),
    ],
)
def test_where_it_must_not_be(ground: Path, name: str, why: str) -> None:
    with pytest.raises(UnsafeError, match=why):
        refuse_place(ground / name, [ground / "known"])


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    copies, directory = PrivateCopies(tmp_path / "register"), tmp_path / "copy"

    def fail(place: Path) -> Path:
        (place / f"{ID}.x.partial").mkdir()
        (place / f"{ID}.x.partial" / "ibdata1").touch()
        assert [(copy.backup_id, copy.ready, copy.pid) for copy in copies.list()] == [(ID, False, None)]
        raise UnsafeError("no room")

    with pytest.raises(UnsafeError, match="no room"):
        copies.make(directory, ID, [], fail)
    assert (copies.list(), directory.exists()) == ((), False)
    with pytest.raises(UsageError, match="no private copy"):
        copies.find(ID)
