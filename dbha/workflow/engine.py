"""Executes a plan and can take it up again after any crash.

Rules, each relied upon elsewhere:
 - a step's intent is on disk before the step acts, its outcome before the next stage begins;
 - a stage's steps all end before a failure among them is acted upon: no sibling is cut off;
 - once a forward step has failed, the run only goes back, also when it is taken up again;
 - a step that undoes is not itself undone: when it fails the run stops there, and a human is needed.
"""

import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import NoReturn, Protocol

from dbha.errors import BugError, DbhaError, LeaseLostError, RestoreFailedError
from dbha.journal import Facts, Journal, RunRecord, RunState, StepRecord, StepState
from dbha.workflow.plan import (
    EXIT_CODE,
    STOP,
    Plan,
    Stage,
    Step,
    StepContext,
    UndoFirstError,
    begun_steps,
    first_failure,
    is_decided,
    undo_stages,
)

log = logging.getLogger(__name__)


class Observer(Protocol):
    """Who is told what happens; calls come from several threads."""

    def step_started(self, step: Step, *, undoing: bool) -> None: ...
    def step_said(self, step: Step, text: str) -> None: ...
    def step_measured(self, step: Step, done: int, total: int | None) -> None: ...
    def step_counted(self, step: Step, what: str, done: int, total: int) -> None: ...
    def step_done(self, step: Step, facts: Facts, seconds: float) -> None: ...
    def step_failed(self, step: Step, error: BaseException, seconds: float) -> None: ...
    def going_back(self, error: BaseException, steps: int) -> None: ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended well: the facts of all its steps."""

    run_id: str
    facts: dict[str, Facts]


class StopRequestedError(DbhaError):
    """The operator asked to stop: the step in progress was finished, and what was begun is put back."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(slots=True)
class StopRequest:
    """Set from a signal handler: `exit_code` is 130 for SIGINT and 143 for SIGTERM once somebody asked."""

    exit_code: int | None = None


class Engine:
    """Executes plans against one journal. `guard` raises LeaseLostError when this controller may not act."""

    def __init__(
        self,
        journal: Journal,
        observer: Observer,
        *,
        guard: Callable[[], None],
        stop: StopRequest | None = None,
    ) -> None:
        self._journal = journal
        self._observer = observer
        self._guard = guard
        self._stop = stop or StopRequest()

    def execute(self, plan: Plan, run_id: str) -> Outcome:
        """Run the plan from where the journal says it stands, to its end.

        Raises what `plan.on_undone` makes of the failure when everything was put back; RestoreFailedError
        when it could not be; LeaseLostError at once, with nothing recorded, when another controller took over.
        """
        record = self._journal.run(run_id)
        if not is_decided(plan, record):
            failure = first_failure(plan, record) or self._go_forward(plan, run_id)
            if failure is not None:
                self._go_back(plan, run_id, failure)
        return self._finish(plan, run_id)

    def ask_to_go_back(self, run_id: str, reason: str, exit_code: int) -> DbhaError:
        """Record that the operator wants everything put back; it holds for whoever takes the run up."""
        error = StopRequestedError(reason, exit_code)
        self._journal.intend(run_id, STOP, reason, {EXIT_CODE: error.exit_code})
        self._journal.failed(run_id, STOP, {EXIT_CODE: error.exit_code}, reason)
        return error

    def _go_forward(self, plan: Plan, run_id: str) -> DbhaError | None:
        for each in plan.forward:
            if self._stop.exit_code is not None:
                return self.ask_to_go_back(run_id, "stopped on request", self._stop.exit_code)
            error = self._run_stage(each, run_id, undoing=False)
            if error is not None:
                return error
        return None

    def _go_back(self, plan: Plan, run_id: str, failure: DbhaError) -> NoReturn:
        """Put back what was begun, record the end, and raise; never returns."""
        begun = begun_steps(plan, self._journal.run(run_id))
        stages = undo_stages(plan, begun)
        if stages:
            self._observer.going_back(failure, sum(len(self._todo(each, run_id)) for each in stages))
        for each in stages:
            error = self._run_stage(each, run_id, undoing=True)
            if error is not None:
                self._journal.end_run(run_id, RunState.FAILED, str(error))
                raise self._needs_human(run_id, error, failure)
        told = plan.on_undone(failure, begun)
        self._journal.end_run(run_id, plan.ends_as(begun), str(failure))
        raise told

    def _finish(self, plan: Plan, run_id: str) -> Outcome:
        for each in plan.finish:
            error = self._run_stage(each, run_id, undoing=False)
            if error is not None:
                raise RestoreFailedError(
                    f"the work of run {run_id} is done and proven, but tidying up failed: {error}",
                    hint=f"dbha runs resume {run_id}     once the cause is gone",
                ) from error
        self._guard()
        self._journal.end_run(run_id, RunState.DONE, "done")
        steps = self._journal.run(run_id).steps
        return Outcome(run_id, {step.name: step.facts for step in steps})

    def _needs_human(self, run_id: str, error: DbhaError, failure: DbhaError) -> DbhaError:
        return RestoreFailedError(
            f"{failure}\nand putting it back failed: {error}",
            hint=error.hint or f"docs/runbooks/restore-failed.md, then: dbha runs resume {run_id}",
        )

    def _run_stage(self, each: Stage, run_id: str, *, undoing: bool) -> DbhaError | None:
        """Run the stage's steps side by side; return the first error in the stage's order, or None."""
        todo = self._todo(each, run_id)
        if len(todo) == 1:
            return self._run_step(todo[0], run_id, undoing=undoing)
        with ThreadPoolExecutor(max_workers=max(1, len(todo))) as pool:
            results = list(pool.map(lambda step: self._run_step(step, run_id, undoing=undoing), todo))
        return next((error for error in results if error is not None), None)

    def _todo(self, each: Stage, run_id: str) -> list[Step]:
        done = {step.name for step in self._journal.run(run_id).steps if step.state is StepState.DONE}
        return [step for step in each.steps if step.name not in done]

    def _run_step(self, step: Step, run_id: str, *, undoing: bool) -> DbhaError | None:
        """Run one step to its recorded end; return why it failed, or None."""
        recorded = {record.name: record for record in self._journal.run(run_id).steps}
        earlier = recorded.get(step.name)
        if any(name in recorded for name in _undo_names(step)):  # it was being undone for a retry
            return self._undo_and_retry(step, run_id)
        known = {name: record.facts for name, record in recorded.items() if record.state is StepState.DONE}
        intent = _intent_of(earlier)
        started = time.monotonic()
        try:
            intent = intent or step.intent(known)
            self._guard()
            self._journal.intend(run_id, step.name, step.title, intent)
            self._observer.step_started(step, undoing=undoing)
            context = StepContext(
                run_id=run_id,
                facts=known,
                begun={name: record.facts for name, record in recorded.items()},
                intent=intent,
                interrupted=earlier is not None,
                say=partial(self._observer.step_said, step),
                measure=partial(self._observer.step_measured, step),
                count=partial(self._observer.step_counted, step),
                guard=self._guard,
            )
            facts = step.run(context)
            self._guard()
        except LeaseLostError:
            raise
        except UndoFirstError as error:
            self._observer.step_said(step, str(error))
            return self._undo_and_retry(step, run_id)
        except Exception as error:
            self._guard()  # who has lost the lease has failed because of that, and says nothing more
            failure = error if isinstance(error, DbhaError) else _as_bug(error)
            log.error("run %s: step %s failed", run_id, step.name, exc_info=error)
            if _recorded(self._journal.run(run_id), step) is None:  # it could not even say what it intends
                self._journal.intend(run_id, step.name, step.title, intent)
            self._journal.failed(run_id, step.name, {**intent, EXIT_CODE: failure.exit_code}, str(failure))
            self._observer.step_failed(step, failure, time.monotonic() - started)
            return failure
        self._journal.done(run_id, step.name, facts)
        self._observer.step_done(step, facts, time.monotonic() - started)
        return None

    def _undo_and_retry(self, step: Step, run_id: str) -> DbhaError | None:
        """Undo a step that was cut off half done, put the records of both away, and run it anew."""
        for each in step.undo:
            error = self._run_stage(each, run_id, undoing=True)
            if error is not None:
                intent = _intent_of(_recorded(self._journal.run(run_id), step))
                self._journal.failed(run_id, step.name, {**intent, EXIT_CODE: error.exit_code}, str(error))
                return error
        self._journal.put_away(run_id, [*_undo_names(step), step.name])
        return self._run_step(step, run_id, undoing=False)


def _recorded(record: RunRecord, step: Step) -> StepRecord | None:
    return next((each for each in record.steps if each.name == step.name), None)


def _intent_of(earlier: StepRecord | None) -> Facts:
    """Return what an attempt that did not end well intended: what it found before anything was changed."""
    if earlier is None or earlier.state is StepState.DONE:
        return {}
    return {name: value for name, value in earlier.facts.items() if name != EXIT_CODE}


def _undo_names(step: Step) -> list[str]:
    return [undo.name for each in step.undo for undo in each.steps]


def _as_bug(error: Exception) -> DbhaError:
    bug = BugError(f"a bug in dbha: {type(error).__name__}: {error}")
    bug.__cause__ = error
    return bug
