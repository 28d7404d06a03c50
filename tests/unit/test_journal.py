"""The journal on real files: what is on disk, and when."""

import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from dbha.errors import ConfigurationError, UsageError
from dbha.journal import Journal, RunRecord, RunState, StepState, as_json

OPEN_AND_KEEP_OPEN = """
import sys
from pathlib import Path
from dbha.journal import Journal
Journal(Path(sys.argv[1])).start_run("upgrade", {}, version="1")
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "journal.sqlite"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    with closing(Journal(path)) as opened:
        yield opened


@pytest.fixture
def run_id(journal: Journal) -> str:
    return journal.start_run("upgrade", {"target": "2026.2"}, version="1.0")


def on_disk(path: Path, query: str) -> list[tuple[Any, ...]]:
    """Return what another process would see in the file now."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        return connection.execute(query).fetchall()


def test_a_new_run_is_running_and_knows_its_arguments(journal: Journal, run_id: str) -> None:
    record = journal.run(run_id)
    assert (record.workflow, record.arguments) == ("upgrade", {"target": "2026.2"})
    assert (record.state, record.version, record.steps) == (RunState.RUNNING, "1.0", ())
    assert record.controller.endswith(f":{os.getpid()}")
    assert (record.ended, record.seconds, record.outcome) == (None, 0.0, "")
    assert journal.knows(run_id)
    assert not journal.knows("20260101T000000Z-0000")


def test_an_unknown_run_is_a_usage_error(journal: Journal) -> None:
    with pytest.raises(UsageError, match="no run is called r0") as refused:
        journal.run("r0")
    assert refused.value.hint == "dbha runs list"


def test_every_write_is_on_disk_when_it_returns(journal: Journal, run_id: str, path: Path) -> None:
    query = "SELECT state, facts, error FROM steps WHERE name = 'fence'"
    assert on_disk(path, query) == []
    journal.intend(run_id, "fence", "fence nova", {"accounts": ["nova"]})
    assert on_disk(path, query) == [("intended", '{"accounts": ["nova"]}', "")]
    journal.done(run_id, "fence", {"ended": 3})
    assert on_disk(path, query) == [("done", '{"ended": 3}', "")]
    journal.end_run(run_id, RunState.DONE, "done")
    assert on_disk(path, "SELECT state, outcome FROM runs") == [("done", "done")]


def test_a_write_survives_a_process_that_never_closes(path: Path) -> None:
    subprocess.run([sys.executable, "-c", OPEN_AND_KEEP_OPEN, str(path)], check=True)
    with closing(Journal(path)) as journal:
        assert [run.workflow for run in journal.unfinished()] == ["upgrade"]


def test_every_connection_is_set_to_survive_a_power_cut(journal: Journal) -> None:
    def settings() -> dict[str, Any]:
        with journal._engine.connect() as connection:
            names = ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
            return {name: connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in names}

    full = 2  # https://www.sqlite.org/pragma.html#pragma_synchronous
    expected = {"journal_mode": "wal", "synchronous": full, "foreign_keys": 1, "busy_timeout": 30000}
    assert settings() == expected
    with ThreadPoolExecutor(max_workers=3) as pool:  # the engine keeps one connection for each thread
        assert list(pool.map(lambda _: settings(), range(6))) == [expected] * 6


def test_steps_are_in_the_order_of_their_intents(journal: Journal, run_id: str) -> None:
    for name in ("fence", "backup", "a-later-one"):
        journal.intend(run_id, name, name, {})
    journal.intend(run_id, "backup", "backup", {})
    assert [step.name for step in journal.run(run_id).steps] == ["fence", "backup", "a-later-one"]


def test_a_second_attempt_counts_and_forgets_the_outcome_of_the_first(journal: Journal, run_id: str) -> None:
    journal.intend(run_id, "sync", "sync nova", {})
    journal.failed(run_id, "sync", {"exit_code": 1}, "the tool exited 255")
    (failed,) = journal.run(run_id).steps
    assert (failed.state, failed.error, failed.facts) == (
        StepState.FAILED,
        "the tool exited 255",
        {"exit_code": 1},
    )
    assert failed.ended is not None
    journal.intend(run_id, "sync", "sync nova", {"again": True})
    (again,) = journal.run(run_id).steps
    assert (again.state, again.attempts, again.error) == (StepState.INTENDED, 2, "")
    assert (again.facts, again.ended, again.seconds) == ({"again": True}, None, 0.0)
    assert again.started >= failed.started


def test_put_away_keeps_both_attempts(journal: Journal, run_id: str) -> None:
    for name in ("sync", "undo", "sync_other"):
        journal.intend(run_id, name, name, {"attempt": 1})
    journal.done(run_id, "undo", {})
    journal.put_away(run_id, ["undo", "never-begun", "sync"])
    journal.intend(run_id, "sync", "sync", {"attempt": 2})
    journal.put_away(run_id, ["undo", "sync"])
    journal.intend(run_id, "sync", "sync", {"attempt": 3})
    assert [(step.name, step.facts) for step in journal.run(run_id).steps] == [
        ("sync@1", {"attempt": 1}),
        ("undo@1", {}),
        ("sync_other", {"attempt": 1}),
        ("sync@2", {"attempt": 2}),
        ("sync", {"attempt": 3}),
    ]


@pytest.mark.parametrize("state", list(RunState))
def test_unfinished_are_runs_in_progress_and_those_in_need_of_a_human(
    journal: Journal, run_id: str, state: RunState
) -> None:
    if state is not RunState.RUNNING:
        journal.end_run(run_id, state, "")
    expected = [run_id] if state in (RunState.RUNNING, RunState.FAILED) else []
    assert [record.id for record in journal.unfinished()] == expected


def test_a_reopened_run_is_running_again(journal: Journal, run_id: str) -> None:
    journal.end_run(run_id, RunState.FAILED, "the restore failed")
    assert journal.run(run_id).ended is not None
    journal.reopen_run(run_id)
    record = journal.run(run_id)
    assert (record.state, record.ended) == (RunState.RUNNING, None)


def test_runs_are_newest_first_and_unfinished_ones_oldest_first(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also within one second, where ids do not tell which came first."""
    tokens = iter(["ffff", "0000", "8888", "1111"])
    times = iter(f"2026-11-23T05:00:00.{milliseconds}+00:00" for milliseconds in (100, 200, 300, 400))
    monkeypatch.setattr("dbha.journal.secrets.token_hex", lambda _: next(tokens))
    monkeypatch.setattr("dbha.journal.utc_now", lambda: next(times))
    started = [journal.start_run("backup", {}, version="1") for _ in range(4)]
    assert [record.id for record in journal.runs()] == started[::-1]
    assert [record.id for record in journal.runs(limit=2)] == started[:1:-1]
    assert [record.id for record in journal.unfinished()] == started


def test_several_threads_write_at_once_and_nothing_is_lost(journal: Journal, run_id: str) -> None:
    names = [f"step-{number}" for number in range(40)]

    def one_step(name: str) -> None:
        journal.intend(run_id, name, name, {})
        assert name in {step.name for step in journal.run(run_id).steps}
        journal.done(run_id, name, {"name": name})

    with ThreadPoolExecutor(max_workers=8) as pool:
        list(pool.map(one_step, names))
    steps = journal.run(run_id).steps
    assert sorted(step.name for step in steps) == sorted(names)
    assert all(step.state is StepState.DONE and step.facts == {"name": step.name} for step in steps)


def test_another_process_reads_while_this_one_writes(journal: Journal, run_id: str, path: Path) -> None:
    with closing(Journal(path)) as reader:
        journal.intend(run_id, "fence", "fence", {})
        (step,) = reader.run(run_id).steps
        assert step.state is StepState.INTENDED


def test_as_json_has_what_the_contract_names(journal: Journal, run_id: str) -> None:
    journal.intend(run_id, "fence", "fence nova", {})
    answer = as_json(journal.run(run_id))
    assert {"id", "workflow", "state", "started", "ended", "steps"} <= answer.keys()
    assert (answer["id"], answer["state"], answer["steps"][0]["state"]) == (run_id, "running", "intended")


def test_the_time_a_run_took_is_from_its_start_to_its_end() -> None:
    record = RunRecord(
        "r", "upgrade", {}, RunState.DONE, "c", "1",
        "2026-11-23T05:00:00.000+00:00", "2026-11-23T05:01:30.500+00:00", "done",
    )  # fmt: skip
    assert record.seconds == 90.5


def _not_a_database(path: Path) -> None:
    path.write_bytes(b"2026-11-23 something else altogether\n" * 50)


def _of_something_else(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE runs (id TEXT)")


def _damaged(path: Path) -> None:
    with closing(Journal(path)) as journal:
        run_id = journal.start_run("upgrade", {"much": "x" * 200_000}, version="1")
        journal.intend(run_id, "fence", "fence", {})
    content = bytearray(path.read_bytes())
    content[4096 : 12 * 4096] = b"\xff" * (11 * 4096)
    path.write_bytes(content)


def _directory(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        pytest.param(_not_a_database, "file is not a database", id="no database at all"),
        pytest.param(_of_something_else, "no such column", id="a database of something else"),
        pytest.param(_damaged, "(?i)page|malformed", id="damaged pages"),
        pytest.param(_directory, "unable to open", id="a directory"),
    ],
)
def test_a_file_that_cannot_be_a_journal_is_named_and_told_what_to_do(
    path: Path, spoil: Any, words: str
) -> None:
    path.parent.mkdir(parents=True)
    spoil(path)
    with pytest.raises(ConfigurationError, match=str(path)) as refused:
        Journal(path)
    assert refused.value.exit_code == 3
    (problem,) = refused.value.problems
    assert re.search(words, problem), problem
    assert "damaged" in refused.value.hint


def test_a_state_directory_that_cannot_be_made_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file where the directory should be")
    with pytest.raises(ConfigurationError) as refused:
        Journal(tmp_path / "state" / "journal.sqlite")
    assert "File exists" in refused.value.problems[0]


def test_runs_are_counted_and_the_newest_of_each_workflow_found_among_thousands(journal: Journal) -> None:
    with journal._engine.begin() as connection:
        connection.exec_driver_sql(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10000)"
            " INSERT INTO runs SELECT printf('r%05d', i), CASE WHEN i % 3 THEN 'backup' ELSE 'prune' END, '{}',"
            " 'done', 'c', '1', printf('2026-01-%02dT00:00:00+00:00', 1 + i / 400), '2026-02-01', '' FROM n"
        )
    last = journal.start_run("prune", {}, version="1")
    assert journal.counts() == {
        ("backup", RunState.DONE): 6667, ("prune", RunState.DONE): 3333, ("prune", RunState.RUNNING): 1,
    }  # fmt: skip
    assert [record.id for record in journal.last_of_each()] == ["r10000", last]
