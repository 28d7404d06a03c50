"""Which desync outlived its run."""

from datetime import datetime

import pytest

from dbha.cluster.desync import Desynced, is_left
from dbha.cluster.lease import LeaseRow

FOUND = Desynced("db2", "run-1", "member")
HELD = LeaseRow(7, "host:1", "run-1", "backup", datetime(2026, 11, 24), datetime(2026, 11, 24), expired=False)
EXPIRED = LeaseRow(
    7, "host:1", "run-1", "backup", datetime(2026, 11, 24), datetime(2026, 11, 24), expired=True
)
OTHERS = LeaseRow(
    8, "host:2", "run-2", "backup", datetime(2026, 11, 24), datetime(2026, 11, 24), expired=False
)
FREE = LeaseRow(8, "", None, "", None, None, expired=True)


@pytest.mark.parametrize(
    ("lease", "is_ours_and_dead", "left"),
    [
        pytest.param(HELD, False, False, id="its run holds the cluster, on another controller"),
        pytest.param(HELD, True, True, id="its process is gone, whatever the lease says"),
        pytest.param(EXPIRED, False, True, id="its run renews the lease no more"),
        pytest.param(OTHERS, False, True, id="another run holds the cluster"),
        pytest.param(FREE, False, True, id="nobody holds the cluster"),
        pytest.param(None, False, True, id="nobody ever held it: this is restored data"),
    ],
)
def test_which_desync_is_left(lease: LeaseRow | None, *, is_ours_and_dead: bool, left: bool) -> None:
    assert is_left(FOUND, lease, is_ours_and_dead=is_ours_and_dead) is left
