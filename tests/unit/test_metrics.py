"""Metrics as a pure function of what was observed; the real promtool judges their names and their form."""

import subprocess
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dbha.backup.binlog.windows import Restorable
from dbha.backup.directory_store import DirectoryStore
from dbha.backup.manifest import Verification, new_backup_id
from dbha.cluster.assess import assess
from dbha.cluster.lease import LeaseRow
from dbha.cluster.state import NodeState
from dbha.config.model import BackupCheckPolicy
from dbha.errors import UnreachableError
from dbha.health.board import look_again
from dbha.health.exposition import Exposition
from dbha.health.inside import Inside, ServiceStatus, is_current
from dbha.health.metrics import METRICS, samples_of
from dbha.health.node_metrics import state_of
from dbha.health.observation import (
    ArchiveSeen,
    Look,
    Moment,
    NodesSeen,
    Observation,
    RunsSeen,
    StoreSeen,
)
from dbha.inventory import Node
from dbha.journal import RunRecord, RunState, StepRecord, StepState
from dbha.services import KEYSTONE
from tests.unit.test_assess import cut_off, silent, synced
from tests.unit.test_backup_store import complete

WALL = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
NOW = Moment(WALL, 1000.0)
LEASE = LeaseRow(7, "ctl1:4711", "run-1", "upgrade", WALL.replace(tzinfo=None), None, expired=False)
SERVICE = ServiceStatus("nova", "2026.2", {"nova": ("ab",)}, fenced=True, current=False)


def seen_nodes(*states: NodeState) -> NodesSeen:
    nodes = tuple(Node(state.name, state.address, state.port, "/data") for state in states)
    return NodesSeen(nodes, states, assess(states))


def step(name: str, state: StepState, *, ended: bool = True) -> StepRecord:
    at = WALL.isoformat()
    later = (WALL + timedelta(seconds=9)).isoformat() if ended else None
    return StepRecord(name, name, state, 1, {}, "why", at, later)


def run(workflow: str, state: RunState, *steps: StepRecord, ended: bool = True) -> RunRecord:
    end = (WALL + timedelta(seconds=60)).isoformat() if ended else None
    return RunRecord(
        f"run-of-{workflow}", workflow, {}, state, "ctl1:1", "0.1.0", WALL.isoformat(), end, "", steps
    )


ACTIVE = run(
    "upgrade", RunState.RUNNING, step("fence", StepState.DONE), step("sync:nova@1", StepState.DONE),
    step("sync:nova", StepState.INTENDED, ended=False), ended=False,
)  # fmt: skip
FAILED = run("restore", RunState.FAILED, step("import", StepState.FAILED))
RUNS = RunsSeen({("upgrade", RunState.RUNNING): 1}, (FAILED, ACTIVE), (FAILED, ACTIVE), ACTIVE)


@pytest.fixture
def everything(tmp_path: Path) -> Observation:
    """Something of every part, so that every metric has a sample."""
    store = DirectoryStore(tmp_path / "store")
    manifest = complete(store, new_backup_id(WALL - timedelta(hours=30)))
    store.record_verification(
        Verification(
            backup=manifest.id, outcome="good", problem="", when=WALL, stream_sha256=manifest.stream.sha256,
            tool_version="1", dbha_version="1",
        )
    )  # fmt: skip
    seen_store = StoreSeen(tuple(store.list()), 10**9, BackupCheckPolicy(), Restorable(time=WALL))
    nodes = seen_nodes(
        replace(synced("a"), flow_control_paused_s=1.5), synced("b", local_state=2), silent("c")
    )
    return Observation(
        cluster="lab",
        nodes=Look(nodes, NOW, 0.1, ""),
        inside=Look(Inside("t-1", (SERVICE,), LEASE), NOW, 0.1, ""),
        runs=Look(RUNS, NOW, 0.1, ""),
        archive=Look(ArchiveSeen(True, 2, WALL, WALL, 5), NOW, 0.1, ""),
        stores={"local": Look(seen_store, NOW, 0.1, "")},
    )


def values(observation: Observation, now: Moment = NOW) -> dict[str, float]:
    """Return every value by its metric's name and own labels, `dbha_node_state/a/synced`."""
    return {
        "/".join((sample.metric.name, *sample.labels)): sample.value
        for sample in samples_of(observation, now)
    }


def test_what_the_nodes_said(everything: Observation) -> None:
    found = values(everything)
    assert (found["dbha_cluster_verdict/degraded"], found["dbha_cluster_verdict/healthy"]) == (1, 0)
    assert (found["dbha_cluster_nodes"], found["dbha_cluster_serving_nodes"]) == (3, 1)
    assert [found[f"dbha_node_reachable/{name}"] for name in "abc"] == [1, 1, 0]
    assert [found[f"dbha_node_writer/{name}"] for name in "abc"] == [1, 0, 0]
    assert (found["dbha_node_state/b/donor"], found["dbha_node_state/c/unreachable"]) == (1, 1)
    assert found["dbha_node_flow_control_paused_seconds_total/a"] == 1.5
    said_by_silent = {name for name in found if name.endswith("/c")}
    assert not {name for name in said_by_silent if "read_only" in name or "queue" in name}


@pytest.mark.parametrize(
    ("state", "word"),
    [
        (synced("a"), "synced"), (synced("a", local_state=1), "joining"), (synced("a", local_state=3), "joined"),
        (cut_off("a"), "non_primary"), (silent("a"), "unreachable"), (replace(synced("a"), local_state=9), "other"),
    ],
)  # fmt: skip
def test_a_node_is_in_one_state(state: NodeState, word: str) -> None:
    assert state_of(state) == word


def test_what_the_writer_knows(everything: Observation) -> None:
    found = values(everything)
    assert found["dbha_lease_info/ctl1/upgrade"] == found["dbha_lease_held"] == 1
    assert found["dbha_lease_acquired_timestamp_seconds"] == WALL.timestamp()
    assert (found["dbha_service_fenced/nova"], found["dbha_service_schema_current/nova"]) == (1, 0)
    free = replace(LEASE, run_id=None, expired=True)
    found = values(replace(everything, inside=Look(Inside(None, (), free), NOW, 0.1, "")))
    assert (found["dbha_lease_held"], found["dbha_lease_expired"]) == (0, 0), (
        "a lease nobody has cannot run out"
    )


def test_heads_are_current_for_a_release() -> None:
    assert is_current(KEYSTONE, "2026.2", {"keystone": ("742c857f1dfb", "c88cdce8f248")}) is True
    assert is_current(KEYSTONE, "2026.2", {"keystone": ()}) is False
    assert is_current(KEYSTONE, "2031.1", {"keystone": ("742c857f1dfb",)}) is None


def test_runs_and_the_steps_of_the_newest(everything: Observation) -> None:
    found = values(everything)
    assert (found["dbha_run_active/upgrade"], found["dbha_run_unfinished/upgrade"]) == (1, 0)
    assert (found["dbha_run_active/restore"], found["dbha_run_unfinished/restore"]) == (0, 1)
    assert found["dbha_run_last_state/restore/failed"] == found["dbha_run_step_failed/restore/import"] == 1
    assert found["dbha_run_last_duration_seconds/restore"] == 60
    assert "dbha_run_last_ended_timestamp_seconds/upgrade" not in found
    assert found["dbha_run_step_duration_seconds/upgrade/fence"] == 9
    assert found["dbha_run_step_started_timestamp_seconds/upgrade/sync:nova"] == WALL.timestamp()
    assert not [name for name in found if "@" in name], "an earlier attempt is no series"


def test_backups_go_on_ageing_while_their_store_is_silent(everything: Observation) -> None:
    look = replace(everything.stores["local"], problem="no answer")
    silent_store = replace(everything, stores={"local": look})
    assert values(silent_store)["dbha_backup_check_level/local/age"] == 1
    later = Moment(WALL + timedelta(days=3), 1000.0 + 3 * 86400)
    found = values(silent_store, later)
    assert found["dbha_backup_check_level/local/age"] == 2
    assert (found["dbha_observation_success/store:local"], found["dbha_backups/local/complete"]) == (0, 1)
    assert found["dbha_observation_age_seconds/store:local"] == 3 * 86400
    assert found["dbha_observation_success/nodes"] == 1


def test_nothing_is_made_up() -> None:
    found = values(Observation("lab", stores={"local": Look()}))
    assert found.pop("dbha_build_info/0.1.0") == 1
    assert {name.partition("/")[0] for name in found} == {
        "dbha_observation_success",
        "dbha_observation_duration_seconds",
    }
    assert set(found.values()) == {0}


def test_the_age_does_not_follow_a_clock_that_jumps(everything: Observation) -> None:
    jumped = Moment(WALL - timedelta(days=400), 1002.5)
    assert values(everything, jumped)["dbha_observation_age_seconds/nodes"] == 2.5


def test_a_look_never_raises_and_says_what_was_wrong() -> None:
    def fail(error: Exception) -> str:
        raise error

    before = Look("old", NOW, 0.1, "")
    gone = look_again(lambda: fail(UnreachableError("no answer")), before)
    assert (gone.value, gone.problem) == (None, "no answer")
    kept = look_again(lambda: fail(UnreachableError("no answer")), before, keep=True)
    assert (kept.value, kept.seen, kept.problem) == ("old", NOW, "no answer")
    assert "a bug in dbha (ZeroDivisionError)" in look_again(lambda: str(1 // 0), before).problem
    assert look_again(lambda: "new", gone).value == "new"


def test_every_metric_has_a_sample_and_every_sample_a_declared_metric(everything: Observation) -> None:
    assert {sample.metric for sample in samples_of(everything, NOW)} == set(METRICS)


def test_the_number_of_series_does_not_grow_with_the_journal(everything: Observation) -> None:
    many = replace(RUNS, counts={("upgrade", RunState.DONE): 10_000}, unfinished=RUNS.unfinished * 100)
    grown = replace(everything, runs=Look(many, NOW, 0.1, ""))
    assert len(values(grown)) == len(values(everything))
    steps = tuple(step(f"s{number}", StepState.DONE) for number in range(5000))
    wild = replace(
        everything, runs=Look(replace(RUNS, last=(run("x", RunState.DONE, *steps),)), NOW, 0.1, "")
    )
    assert len(values(wild)) < 700


def test_promtool_finds_nothing_wrong(everything: Observation) -> None:
    text = Exposition("lab", lambda: samples_of(everything, NOW), process=True).text()
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    spoilt = text.replace(b"dbha_store_free_bytes", b"dbha_store_free_total")
    assert subprocess.run(
        ["promtool", "check", "metrics"], input=spoilt, capture_output=True, check=False
    ).returncode


def test_the_format_is_the_one_that_is_asked_for(everything: Observation) -> None:
    exposition = Exposition("lab", lambda: samples_of(everything, NOW))
    assert exposition.answer("")[1].startswith("text/plain")
    content, content_type = exposition.answer("application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text") and content.endswith(b"# EOF\n")
