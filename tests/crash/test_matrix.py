"""Kill -9 at every point, take the run up, and the end is the same as without the kill.

A process of its own runs the real journal, controller, engine and plan on a simulated world (`driver.py`). Each
scenario is run once without a fault, and tells which points it reaches. Then, for every one of these points, a new
world is made, the process is killed there, and the run is taken up until it ends. At every fifth point the taking
up is killed, too. That makes about 710 kills and 140 double kills.
"""

import json
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dbha.journal import RunState
from tests.crash import driver, simulated_databases
from tests.crash.simulated_files import Files

SHARDS = 2
TWICE_EVERY = 5  # at every fifth point the taking up is killed as well, at one of its points
ROOT = Path(__file__).parents[2]
SHARED_MEMORY = Path("/dev/shm")
MOST_RESUMES = 4
EXIT_NEEDS_HUMAN = 8
EXIT_HAS_ENDED = 2  # UsageError: the run ended, and the process was killed before it could say so


@dataclass(frozen=True, slots=True)
class Scenario:
    """What goes wrong in a world, the exit codes until the run has ended, and what the journal says of its end.

    After exit code 8 the cause of the failed restore is removed. Of several failures the journal names the first
    in the plan's order, and after a kill the first that had been met.
    """

    name: str
    fails: tuple[str, ...]
    exit_codes: tuple[int, ...]
    outcomes: tuple[str, ...]
    killed_from: str = ""  # the first point to be killed at; up to there all is as in a scenario above

    @property
    def state(self) -> RunState:
        """How the run ends."""
        return RunState.DONE if self.exit_codes == (0,) else RunState.ROLLED_BACK


NOVA_FAILS, KEYSTONE_FAILS = "`sync nova` exited 255", "`sync keystone` exited 255"
NO_WRITER = (
    "no node can take writes"  # met first by a sync that was cut off, and is put back to be tried again
)
SCENARIOS = (
    Scenario("success", (), (0,), ("done",)),
    Scenario("the sync of nova fails with cell0 changed", ("sync:nova",), (7,), (NOVA_FAILS,)),
    Scenario("the backup fails", ("backup",), (6,), ("the stream was cut off",)),
    Scenario("the backup is not good", ("verify",), (6,), ("the stream was changed since it was taken",)),
    Scenario(
        "the proof fails",
        ("prove",),
        (7,),
        ("the structure differs between nodes",),
        killed_from="before:intend:prove",
    ),
    Scenario(
        "two services fail, and a node cannot import",
        ("sync:keystone", "sync:nova", "import:n2"),
        (7,),
        (KEYSTONE_FAILS, NOVA_FAILS),
        killed_from="after:done:verify",
    ),
    Scenario(
        "the restore fails at first",
        ("sync:nova", "restore:nova"),
        (8, 7),
        (NOVA_FAILS, NO_WRITER),
        killed_from="before:intend:restore:nova:aside",
    ),
)


class Driver:
    """A process that forks a child for each start or resume."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", driver.__name__, "--serve"],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def run(self, directory: Path, **environment: str) -> int:
        """Start or resume the run in the directory; return its exit code, negative for a signal."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(
            json.dumps({"directory": str(directory), "environment": environment}) + "\n"
        )
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(10)


@dataclass(frozen=True, slots=True)
class Point:
    """A fault point as `DBHA_FAULT` names it, in the process after so many that ended in need of a human."""

    failures: int
    name: str

    @property
    def number(self) -> int:
        """A number that is the same in every run; points come in another order when siblings race."""
        return zlib.crc32(str(self).encode())


@dataclass(frozen=True, slots=True)
class End:
    """How a run ended: all that anybody can see of it afterwards."""

    exit_codes: tuple[int, ...]
    state: RunState
    outcome: str
    world: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Trial:
    """One world, and what becomes of it."""

    driver: Driver
    scenario: Scenario
    directory: Path

    def begin(self) -> None:
        """Make the world."""
        (self.directory / "world").mkdir(parents=True)
        simulated_databases.create(self.directory / "world", self.scenario.fails)

    def copy(self) -> "Trial":
        """Return another trial that stands where this one stands now."""
        directory = self.directory.with_name(f"{self.directory.name}-copy")
        shutil.copytree(self.directory, directory)
        return Trial(self.driver, self.scenario, directory)

    def kill_at(self, point: Point) -> None:
        """Start or resume, to be killed at this point."""
        for _ in range(point.failures):
            assert self.driver.run(self.directory) == EXIT_NEEDS_HUMAN
            self._repair()
        code = self.driver.run(self.directory, DBHA_FAULT=point.name)
        assert code == -signal.SIGKILL, f"{point} was not reached: exit code {code}\n{self._said()}"

    def to_the_end(self) -> tuple[End, list[Point]]:
        """Start or resume until the run has ended; return how, and the points on the way."""
        codes: list[int] = []
        points: list[Point] = []
        while not codes or (codes[-1] == EXIT_NEEDS_HUMAN and len(codes) < MOST_RESUMES):
            if codes:
                self._repair()
            trace = self.directory / f"trace-{len(codes)}"
            trace.touch()
            codes.append(self.driver.run(self.directory, DBHA_FAULT_TRACE=str(trace)))
            points += _counted(trace, failures=len(codes) - 1)
        with closing(sqlite3.connect(self.directory / driver.JOURNAL)) as connection:
            ((state, outcome),) = connection.execute("SELECT state, outcome FROM runs").fetchall()
        world = simulated_databases.visible(self.directory / "world")
        return End(tuple(codes), RunState(state), outcome, world), points

    def drop(self) -> None:
        """Remove the world."""
        shutil.rmtree(self.directory)

    def _repair(self) -> None:
        files = Files(self.directory / "world")
        with files.changing("fails.json") as fails:
            fails[:] = [each for each in fails if not each.startswith("restore:")]

    def _said(self) -> str:
        return (self.directory / "stderr").read_text()


def _counted(trace: Path, *, failures: int) -> list[Point]:
    seen: Counter[str] = Counter()
    points = []
    for name in trace.read_text().splitlines():
        seen[name] += 1
        points.append(Point(failures, f"{name}#{seen[name]}"))
    return points


@pytest.fixture(scope="session")
def forking() -> Iterator[Driver]:
    made = Driver()
    yield made
    made.close()


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory in memory where there is one: SIGKILL takes nothing from it, and the journal flushes much."""
    parent = SHARED_MEMORY if SHARED_MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="dbha-crash-", dir=parent) as directory:
        yield Path(directory)


def _without_a_kill(trial: Trial) -> tuple[End, list[Point]]:
    trial.begin()
    end, points = trial.to_the_end()
    trial.drop()
    return end, points


each_scenario = pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)


@each_scenario
def test_without_a_kill_it_ends_as_it_should(forking: Driver, place: Path, scenario: Scenario) -> None:
    end, points = _without_a_kill(Trial(forking, scenario, place / "plain"))
    assert (end.exit_codes, end.state) == (scenario.exit_codes, scenario.state)
    assert end.outcome == scenario.outcomes[0]
    accounts = end.world["accounts.json"]
    assert {name: each["locked"] for name, each in accounts.items()} == {
        "keystone": False, "nova": False, "glance": False, "nova_old": True,
    }  # fmt: skip
    after = scenario.state is RunState.DONE
    expected = simulated_databases.AFTER if after else simulated_databases.BEFORE
    for databases in end.world["nodes.json"].values():
        assert databases.keys() == {"keystone", "nova_cell0", "nova", "glance"}
        heads = {name: tables["alembic_version"]["rows"] for name, tables in databases.items()}
        assert heads.pop("glance") == [simulated_databases.BEFORE]
        assert set(map(tuple, heads.values())) == {(expected,)}
        assert databases["nova"]["things"]["rows"][-1] == "nova writes again"
    assert end.world["releases.json"] == (dict.fromkeys(("keystone", "nova"), "2026.2") if after else {})
    assert not [name for name in end.world if name.startswith("prepared") or name.endswith("violation")]
    assert len(points) > 30


@each_scenario
@pytest.mark.parametrize("shard", range(SHARDS))
def test_a_kill_anywhere_changes_nothing_about_the_end(
    forking: Driver, place: Path, scenario: Scenario, shard: int
) -> None:
    expected, points = _without_a_kill(Trial(forking, scenario, place / "plain"))
    if scenario.killed_from:
        points = points[points.index(Point(0, f"{scenario.killed_from}#1")) :]
    for point in points:
        if point.number % SHARDS == shard:
            _kill(Trial(forking, scenario, place / f"{point.number}"), point, expected)


def _kill(trial: Trial, point: Point, expected: End) -> None:
    """Kill a start at the point and take it up; for some points kill the taking up, too."""
    trial.begin()
    trial.kill_at(point)
    killed = trial.copy()  # the taking up of it reaches the same points, wherever siblings happened to be
    end, points = trial.to_the_end()
    _require_same(end, expected, trial.scenario, point)
    if points and point.number // SHARDS % TWICE_EVERY == 0:
        again = sorted(points, key=str)[point.number % len(points)]
        killed.kill_at(again)
        end, _ = killed.to_the_end()
        _require_same(end, expected, trial.scenario, point, again)
    killed.drop()
    trial.drop()


def _require_same(end: End, expected: End, scenario: Scenario, *killed_at: Point) -> None:
    """Require the same end; a process killed after the last record cannot say its exit code any more."""
    codes = expected.exit_codes[sum(point.failures for point in killed_at) :]
    if killed_at[-1].name.startswith("after:end") and end.exit_codes == (EXIT_HAS_ENDED,):
        codes = end.exit_codes
    found = (end.exit_codes, end.state, end.outcome in scenario.outcomes, end.world)
    assert found == (codes, expected.state, True, expected.world), f"killed at {killed_at}, ended {end}"
