"""What a run will do, as a value: the same object is printed by `--dry-run` and executed.

A plan has two halves. The `forward` stages can be undone: when one of their steps fails, the undo of every
step that was begun runs, last begun first. Once they are all done the run is decided; the `finish` stages only
tidy up, are repeated until they succeed, and are never undone, because from then on others may write again.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

from dbha.errors import DbhaError
from dbha.journal import Facts, RunRecord, RunState, StepState

STOP = "stop"  # the journal's name for the operator's wish to go back
EXIT_CODE = "exit_code"  # the fact of a failed step that says which exit code its error carries


class RecordedError(DbhaError):
    """A failure that an earlier process met, as the journal has it."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class UndoFirstError(DbhaError):
    """Raised by a step that was cut off, half done: its undo has to run before it can be tried again."""


@dataclass(frozen=True, slots=True)
class StepContext:
    """What a step is given: facts of earlier steps, its own intent, and how to tell of its progress."""

    run_id: str
    facts: Mapping[str, Facts]
    begun: Mapping[str, Facts]  # like facts, and for steps that did not end well what they intended
    intent: Facts
    interrupted: bool  # an earlier attempt was cut off, so its effect may be there in part or whole
    say: Callable[[str], None]
    measure: Callable[[int, int | None], None]  # bytes done, bytes in all if known
    count: Callable[[str, int, int], None]  # what is counted (`files`), how many are done, how many there are
    guard: Callable[[], None]  # raises LeaseLostError; to be called before each effect of a long step


Action = Callable[[StepContext], Facts]  # what a step does; it returns what later ones need to know


def _no_intent(_: Mapping[str, Facts]) -> Facts:
    return {}


@dataclass(frozen=True, slots=True)
class Step:
    """A part of a run, journaled as one. `run` must be safe to repeat after it was cut off anywhere, or say
    with UndoFirstError that it is not."""

    name: str
    title: str
    run: Action
    intent: Callable[[Mapping[str, Facts]], Facts] = _no_intent
    undo: tuple["Stage", ...] = ()


@dataclass(frozen=True, slots=True)
class Stage:
    """Steps that run side by side."""

    steps: tuple[Step, ...]


def stage(*steps: Step) -> Stage:
    """Return a stage of these steps."""
    return Stage(steps)


def once(name: str, title: str, act: Action, undo: Step | None = None) -> Stage:
    """Return a stage of one step, with a step that undoes it."""
    return stage(Step(name, title, act, undo=(stage(undo),) if undo else ()))


def _put_back(begun: frozenset[str]) -> RunState:
    return RunState.ROLLED_BACK if begun else RunState.REFUSED


@dataclass(frozen=True, slots=True)
class Plan:
    """The whole of a run. `on_undone` turns the first failure into the error that the operator gets when all
    was put back; it is given the names of the steps that had been begun. `ends_as` says what a run is then, for one
    whose steps have nothing to put back."""

    title: str
    forward: tuple[Stage, ...]
    finish: tuple[Stage, ...] = ()
    on_undone: Callable[[DbhaError, frozenset[str]], DbhaError] = field(default=lambda error, begun: error)
    ends_as: Callable[[frozenset[str]], RunState] = _put_back

    def steps(self) -> Iterator[Step]:
        """Yield every forward and finishing step in order."""
        for each in (*self.forward, *self.finish):
            yield from each.steps


def undo_stages(plan: Plan, begun: frozenset[str]) -> tuple[Stage, ...]:
    """Return what puts back the forward steps in `begun`: later stages first, siblings side by side."""
    stages: list[Stage] = []
    for forward in reversed(plan.forward):
        undone_together = zip_longest(*(step.undo for step in forward.steps if step.name in begun))
        for parts in undone_together:
            stages.append(Stage(tuple(step for part in parts if part for step in part.steps)))
    return tuple(stages)


def begun_steps(plan: Plan, record: RunRecord) -> frozenset[str]:
    """Return the names of the forward steps whose intent is in the journal."""
    forward = {step.name for each in plan.forward for step in each.steps}
    return frozenset(step.name for step in record.steps if step.name in forward)


def first_failure(plan: Plan, record: RunRecord) -> DbhaError | None:
    """Return the failure that decided, in an earlier process, that this run goes back; None if there is none.

    It is the first in the plan's order, as it is for the process that met several.
    """
    recorded = {step.name: step for step in record.steps}
    names = [step.name for each in plan.forward for step in each.steps if step.name in recorded]
    failed = [recorded[name] for name in names if recorded[name].state is StepState.FAILED]
    if STOP in recorded:  # whatever its state: the wish counts from its intent on
        failed.append(recorded[STOP])
    if not failed:
        return None
    first = failed[0]
    return RecordedError(first.error or first.title, int(first.facts.get(EXIT_CODE, DbhaError.exit_code)))


def is_decided(plan: Plan, record: RunRecord) -> bool:
    """Tell whether every forward step is done: then the run only finishes, and nothing may be undone any more."""
    done = {step.name for step in record.steps if step.state is StepState.DONE}
    return all(step.name in done for each in plan.forward for step in each.steps)


def describe(plan: Plan) -> list[dict[str, Any]]:
    """Return the plan as data: numbered steps with their titles, and what would undo them."""
    lines: list[dict[str, Any]] = []
    for part, stages in (("forward", plan.forward), ("finish", plan.finish)):
        for number, each in enumerate(stages, 1):
            lines += [
                {
                    "part": part, "stage": number, "name": step.name, "title": step.title,
                    "undo": [undo.title for undo_stage in step.undo for undo in undo_stage.steps],
                }
                for step in each.steps
            ]  # fmt: skip
    return lines
