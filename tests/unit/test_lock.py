"""The controller's lock, on real processes and files, and who may take a lease over."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dbha.cluster.lease import Claim, LeaseRow, refuse_unless_free
from dbha.cluster.lock import ControllerLock, holder, is_free
from dbha.errors import BusyError, ConfigurationError, InterruptedRunError

HOLD_WITH_A_CHILD = """
import subprocess, sys, time
from pathlib import Path
from dbha.cluster.lock import ControllerLock
lock = ControllerLock.acquire(Path(sys.argv[1]), workflow="upgrade", run_id="r1")
child = subprocess.Popen(["sleep", "60"], close_fds=False)
print(child.pid, flush=True)
time.sleep(60)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "locks" / "prod.lock"


def test_it_is_free_until_taken_and_after_release(path: Path) -> None:
    assert is_free(path)
    with ControllerLock.acquire(path, workflow="backup") as lock:
        assert not is_free(path)
        lock.release()
        assert is_free(path)
    assert holder(path) is None


def test_the_second_is_refused_and_told_who_is_first(path: Path) -> None:
    with ControllerLock.acquire(path, workflow="upgrade") as lock:
        lock.note_run("20261123T050000Z-ab12")
        found = holder(path)
        assert found is not None
        assert (found.workflow, found.run_id, found.pid) == ("upgrade", "20261123T050000Z-ab12", os.getpid())
        with pytest.raises(
            BusyError, match=r"run 20261123T050000Z-ab12 \(upgrade\), process \d+, since"
        ) as refused:
            ControllerLock.acquire(path, workflow="backup")
        assert refused.value.hint.startswith("dbha runs show 20261123T050000Z-ab12")
    ControllerLock.acquire(path, workflow="backup").release()


def test_a_holder_without_a_run_yet_is_named_by_its_workflow(path: Path) -> None:
    with (
        ControllerLock.acquire(path, workflow="upgrade"),
        pytest.raises(BusyError, match=r"a run that just starts \(upgrade\)"),
    ):
        ControllerLock.acquire(path, workflow="backup")


def test_what_a_dead_holder_wrote_is_not_believed(path: Path) -> None:
    path.parent.mkdir()
    path.write_text(json.dumps({"workflow": "upgrade", "run_id": "r1", "pid": 1, "started": "x"}))
    assert holder(path) is None


def test_a_holder_that_is_writing_its_name_is_nobody_yet(path: Path) -> None:
    with ControllerLock.acquire(path, workflow="upgrade"):
        path.write_text('{"workflow": "up')
        assert not is_free(path)
        assert holder(path) is None
        with pytest.raises(BusyError, match="another process"):
            ControllerLock.acquire(path, workflow="backup")


def test_the_kernel_frees_it_when_the_process_is_killed_though_its_child_lives_on(path: Path) -> None:
    with a_process_that_holds(path) as (process, child_pid):
        found = holder(path)
        assert found is not None
        assert found.pid == process.pid
        process.kill()
        process.wait()
        os.kill(child_pid, 0)
        assert is_free(path)
        ControllerLock.acquire(path, workflow="backup").release()


def test_looking_does_not_get_in_the_way_of_taking(path: Path) -> None:
    looker = subprocess.Popen(
        [sys.executable, "-c", "import sys; from pathlib import Path; from dbha.cluster.lock import is_free\n"
         "print(flush=True)\nwhile True: is_free(Path(sys.argv[1]))", str(path)], stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert looker.stdout is not None
        looker.stdout.readline()
        deadline_s = time.monotonic() + 1
        while time.monotonic() < deadline_s:
            ControllerLock.acquire(path, workflow="backup").release()
    finally:
        looker.kill()
        looker.communicate()


def test_a_state_directory_that_cannot_be_is_a_mistake_in_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError) as wrong:
        ControllerLock.acquire(tmp_path / "file" / "prod.lock", workflow="backup")
    assert "file/prod.lock" in wrong.value.problems[0]


@contextmanager
def a_process_that_holds(path: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Yield a process that holds the lock, and the id of its child, which ignores close_fds."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD_WITH_A_CHILD, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    child_pid = int(process.stdout.readline())
    try:
        yield process, child_pid
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        os.kill(child_pid, 9)


CLAIM = Claim("r2", "backup", "ctl1:200", 30)
FREE = LeaseRow(4, "ctl1:100", None, "upgrade", datetime(2026, 11, 23, 3, 0, tzinfo=UTC), None, True)
HELD = replace(FREE, run_id="r1", expired=False)
EXPIRED = replace(HELD, expired=True)
ELSEWHERE = replace(HELD, holder="ctl2:100")


@pytest.mark.parametrize(
    ("row", "take_over_run", "proven_dead", "ended", "outcome"),
    [
        pytest.param(FREE, None, False, False, None, id="free"),
        pytest.param(HELD, None, False, False, BusyError, id="in use"),
        pytest.param(HELD, "r1", False, False, BusyError, id="in use, by the run to be resumed"),
        pytest.param(HELD, "r1", True, False, None, id="the same run, its process proven dead"),
        pytest.param(HELD, None, True, False, InterruptedRunError, id="another run, its process proven dead"),
        pytest.param(HELD, None, False, True, None, id="its run has ended"),
        pytest.param(EXPIRED, None, False, False, InterruptedRunError, id="ran out"),
        pytest.param(EXPIRED, "r3", False, False, InterruptedRunError, id="ran out, another run is resumed"),
        pytest.param(EXPIRED, "r1", False, False, None, id="ran out, the same run is resumed"),
        pytest.param(ELSEWHERE, "r1", True, False, BusyError, id="nobody here can prove a death over there"),
    ],
)
def test_who_may_take_the_lease(
    row: LeaseRow, take_over_run: str | None, proven_dead: bool, ended: bool, outcome: type[Exception] | None
) -> None:
    def take() -> None:
        refuse_unless_free(
            row, CLAIM, take_over_run=take_over_run, proven_dead=proven_dead, has_ended=lambda run_id: ended
        )

    if outcome is None:
        take()
        return
    with pytest.raises(
        outcome, match=rf"run r1 \(upgrade\) of controller {row.holder}, since 2026-11-23 03:00:00"
    ):
        take()
