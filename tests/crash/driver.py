"""Starts or resumes the upgrade in a directory, as the command line would, and exits as it would.

    driver.py DIRECTORY      do it in this process
    driver.py --serve        read requests on stdin, do each in a child that was forked for it

Forking from a process that has everything loaded is what makes it cheap to die some thousand times.
"""

import gc
import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from traceback import print_exc
from typing import NoReturn

from dbha.cluster.control import Controller
from dbha.errors import DbhaError
from dbha.journal import Facts, Journal
from dbha.upgrade.plan import upgrade_plan
from dbha.upgrade.spec import UpgradeSpec
from dbha.workflow import Observer, Plan, Step, StopRequest
from tests.crash.simulated_databases import create
from tests.crash.simulated_world import SimulatedWorld, upgrade_spec

JOURNAL = "journal.sqlite"
EXIT_BUG = 70


class Silent:
    """An observer that says nothing."""

    def step_started(self, step: Step, *, undoing: bool) -> None: ...
    def step_said(self, step: Step, text: str) -> None: ...
    def step_measured(self, step: Step, done: int, total: int | None) -> None: ...

    def step_counted(self, step: Step, what: str, done: int, total: int) -> None: ...
    def step_done(self, step: Step, facts: Facts, seconds: float) -> None: ...
    def step_failed(self, step: Step, error: BaseException, seconds: float) -> None: ...
    def going_back(self, error: BaseException, steps: int) -> None: ...


@contextmanager
def silent(_: Plan) -> Iterator[Observer]:
    """Yield an observer that says nothing."""
    yield Silent()


def start_or_resume(directory: Path) -> int:
    """Take the upgrade in the directory to its end and return the exit code it has."""
    journal_path = directory / JOURNAL
    with closing(Journal(journal_path)) as journal:
        world = SimulatedWorld(directory / "world", journal_path)
        controller = Controller(journal, directory / "lock", None, 30, StopRequest())
        try:
            if runs := journal.runs(limit=1):
                plan = upgrade_plan(UpgradeSpec.model_validate(runs[0].arguments), world)
                controller.resume(runs[0], plan, silent)
            else:
                spec = upgrade_spec(("keystone", "nova"))
                with controller.holding("upgrade") as holding:
                    holding.start("upgrade", spec.model_dump(mode="json"), upgrade_plan(spec, world), silent)
        except DbhaError as error:
            return error.exit_code
    return 0


def serve() -> None:
    """Answer each request, `{"directory": ..., "environment": {...}}` in a line, with the exit code in a line.

    The exit code of a process that a signal ended is that signal's number, negative.
    """
    _warm_up()
    for line in sys.stdin:
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _child(Path(request["directory"]), request["environment"])
        _, status = os.waitpid(pid, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


def _warm_up() -> None:
    """Do a whole upgrade, so that children find everything imported and cached; they then share that memory."""
    with TemporaryDirectory() as directory:
        world = Path(directory, "world")
        world.mkdir()
        create(world, ("prove",))
        logging.disable()
        start_or_resume(Path(directory))
        logging.disable(logging.NOTSET)
    gc.collect()
    gc.freeze()
    gc.disable()


def _child(directory: Path, environment: dict[str, str]) -> NoReturn:
    os.environ.update(environment)
    with (directory / "stderr").open("a", encoding="utf-8") as log:
        os.dup2(log.fileno(), sys.stderr.fileno())
    code = EXIT_BUG
    try:
        code = start_or_resume(directory)
    except BaseException:  # noqa: BLE001  the child must not go on as its parent
        print_exc()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    if sys.argv[1:] == ["--serve"]:
        serve()
    else:
        sys.exit(start_or_resume(Path(sys.argv[1])))
