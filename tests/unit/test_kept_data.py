"""May the old data of a restore go? A table."""

from datetime import UTC, datetime, timedelta

import pytest

from dbha.backup.manifest import Verification
from dbha.backup.store import Status, StoredBackup
from dbha.cluster.assess import Verdict, assess
from dbha.upgrade.kept_data import KeptData, KeptOn, why_it_stays
from tests.unit.test_backup_manifest import MANIFEST
from tests.unit.test_whole_restore_decide import HEALTHY, states

ENDED = datetime(2026, 11, 23, 4, 0, tzinfo=UTC)  # half an hour before the backup was taken
HEALTHY_NOW, DEGRADED = assess(states(*HEALTHY), expected=3), assess(states("node1", "node2"), expected=3)
OLD = tuple(KeptOn(name, "old") for name in HEALTHY)
SILENT = (KeptOn("node1", "old"), KeptOn("node2", problem="no SSH server answered"))
VERIFIED = StoredBackup(
    MANIFEST.id, Status.COMPLETE, "", 10, MANIFEST,
    Verification(
        backup=MANIFEST.id, outcome="good", when=ENDED, stream_sha256=MANIFEST.stream.sha256, tool_version="",
        dbha_version="",
    ),
)  # fmt: skip
UNPROVEN = StoredBackup(MANIFEST.id, Status.COMPLETE, "", 10, MANIFEST)
NONE_SINCE = "no backup was taken and verified since (dbha backup create --verify)"


@pytest.mark.parametrize(
    ("verdict", "on", "backups", "since", "why_not"),
    [
        pytest.param(HEALTHY_NOW, OLD, [VERIFIED], ENDED, (), id="it may go"),
        pytest.param(HEALTHY_NOW, OLD, [UNPROVEN], ENDED, (NONE_SINCE,), id="not by an unproven backup"),
        pytest.param(
            HEALTHY_NOW,
            OLD,
            [VERIFIED],
            ENDED + timedelta(hours=1),
            (NONE_SINCE,),
            id="nor by an earlier one",
        ),
        pytest.param(HEALTHY_NOW, OLD, [], ENDED, (NONE_SINCE,), id="nor without any"),
        pytest.param(
            HEALTHY_NOW, OLD, None, ENDED, ("the backup store cannot be asked",), id="a store that is away"
        ),
        pytest.param(DEGRADED, OLD, [VERIFIED], ENDED, ("the cluster is degraded",), id="a node is away"),
        pytest.param(HEALTHY_NOW, SILENT, [VERIFIED], ENDED, ("node2 cannot be asked",), id="a host is away"),
    ],
)
def test_why_old_data_stays(
    verdict: Verdict,
    on: tuple[KeptOn, ...],
    backups: list[StoredBackup] | None,
    since: datetime,
    why_not: tuple[str, ...],
) -> None:
    assert why_it_stays(verdict, on, backups, since) == why_not


def test_what_an_operator_is_told() -> None:
    assert KeptData("RUN", OLD, ()).lines == (
        "node1, node2, node3: the data of before this run is kept",
        "  go back to it: dbha restore --undo RUN",
        "  it may go: dbha restore --forget RUN",
    )
    assert KeptData("RUN", (KeptOn("node1", "restored"),), ("a reason",)).lines == (
        "node1: what was restored is kept; the data of before is in use again",
        "  it should stay for now: a reason",
    )
    assert KeptData("RUN", (KeptOn("node1"),), ("a reason",)).lines == (
        "nothing of this run is kept on the nodes any more",
    )
    assert KeptData("RUN", SILENT, ()).lines[0] == (
        "it is not known what is kept on node2: no SSH server answered"
    )
