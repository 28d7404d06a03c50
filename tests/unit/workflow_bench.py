"""A journal with a run in it, and steps that note what they did; for tests of the engine.

A crash is `Killed`, which no step and no engine catches: what is in the journal then is what SIGKILL would leave.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dbha.errors import DbhaError, LeaseLostError
from dbha.journal import Facts, Journal, RunState
from dbha.workflow import Engine, Outcome, Plan, Stage, Step, StepContext, StopRequest
from dbha.workflow.plan import stage


class Killed(BaseException):
    """The process ends here, with no chance to say anything."""


class BrokenError(DbhaError):
    """A step that fails for a reason an operator understands."""

    exit_code = 42


@dataclass
class Told:
    """An observer that remembers."""

    lines: list[str] = field(default_factory=list)

    def step_started(self, step: Step, *, undoing: bool) -> None:
        self.lines.append(f"{'undo ' if undoing else ''}{step.name}")

    def step_said(self, step: Step, text: str) -> None:
        self.lines.append(f"{step.name}: {text}")

    def step_measured(self, step: Step, done: int, total: int | None) -> None:
        self.lines.append(f"{step.name}: {done} of {total}")

    def step_counted(self, step: Step, what: str, done: int, total: int) -> None:
        self.lines.append(f"{step.name}: {done} of {total} {what}")

    def step_done(self, step: Step, facts: Facts, seconds: float) -> None:
        self.lines.append(f"{step.name} done")

    def step_failed(self, step: Step, error: BaseException, seconds: float) -> None:
        self.lines.append(f"{step.name} failed")

    def going_back(self, error: BaseException, steps: int) -> None:
        self.lines.append("going back")


class Bench:
    """A journal, a run in it, and what its steps did, in order."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.journal = Journal(path)
        self.run_id = self.journal.start_run("test", {}, version="1")
        self.did: list[str] = []
        self.contexts: dict[str, StepContext] = {}
        self.observer = Told()
        self.stop = StopRequest()
        self.lease_lost = False

    def step(
        self,
        name: str,
        effect: Callable[[], object] = lambda: None,
        *,
        undo: tuple[Stage, ...] = (),
        intent: Callable[[Mapping[str, Facts]], Facts] = lambda facts: {},
    ) -> Step:
        """Return a step that notes that it ran, then has this effect."""

        def run(context: StepContext) -> Facts:
            self.did.append(name)
            self.contexts[name] = context
            effect()
            return {"by": name}

        return Step(name, f"do {name}", run, intent, undo)

    def undoable(self, name: str, effect: Callable[[], object] = lambda: None) -> Step:
        """Return a step with one step that undoes it."""
        return self.step(name, effect, undo=(stage(self.step(f"{name}-undo")),))

    def execute(self, plan: Plan) -> Outcome:
        """Run the plan in this process's engine, as a start and a resume both do."""
        engine = Engine(self.journal, self.observer, guard=self.guard, stop=self.stop)
        return engine.execute(plan, self.run_id)

    def guard(self) -> None:
        """Raise when another controller has the cluster."""
        if self.lease_lost:
            raise LeaseLostError("another controller has it")

    def states(self) -> dict[str, str]:
        """Return the state of every step in the journal."""
        return {step.name: step.state.value for step in self.journal.run(self.run_id).steps}

    @property
    def state(self) -> RunState:
        """The state of the run."""
        return self.journal.run(self.run_id).state


def fails(text: str = "it broke") -> Callable[[], object]:
    """Return an effect that fails."""

    def fail() -> None:
        raise BrokenError(text)

    return fail


def killed() -> None:
    """An effect during which the process dies."""
    raise Killed


def plan_of(*forward: Stage, finish: tuple[Stage, ...] = ()) -> Plan:
    """Return a plan that tells which steps were begun when it was undone."""
    return Plan("a test", forward, finish)


class OnlyOnce:
    """An effect that happens the first time only."""

    def __init__(self, effect: Callable[[], object]) -> None:
        self._effect, self._again = effect, False

    def __call__(self) -> None:
        again, self._again = self._again, True
        if not again:
            self._effect()
