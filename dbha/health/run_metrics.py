"""Metrics of the runs in this controller's journal."""

from collections.abc import Iterator
from datetime import datetime

from dbha.health.metric import Metric, Sample
from dbha.health.observation import RunsSeen
from dbha.journal import RunRecord, RunState, StepState

_WORKFLOW = ("workflow",)
_STEP = ("workflow", "step")
_MOST_STEPS = 200  # of one run; no plan comes near, and a journal must not make any number of series

RUNS = Metric("dbha_runs", "Runs in the journal.", ("workflow", "state"))
ACTIVE = Metric("dbha_run_active", "Whether a live process is at a run of this workflow.", _WORKFLOW)
UNFINISHED = Metric(
    "dbha_run_unfinished",
    "Runs that were cut off or failed, and that somebody must resume or abandon.",
    _WORKFLOW,
)
LAST_STATE = Metric(
    "dbha_run_last_state", "How the newest run stands, 1 for the present state.", ("workflow", "state")
)
LAST_STARTED = Metric("dbha_run_last_started_timestamp_seconds", "When the newest run began.", _WORKFLOW)
LAST_ENDED = Metric(
    "dbha_run_last_ended_timestamp_seconds", "When the newest run ended; absent while it has not.", _WORKFLOW
)
LAST_DURATION = Metric(
    "dbha_run_last_duration_seconds",
    "How long the newest run took; absent while it has not ended.",
    _WORKFLOW,
)
STEP_STARTED = Metric(
    "dbha_run_step_started_timestamp_seconds",
    "When a step of the newest run began that has not ended.",
    _STEP,
)
STEP_DURATION = Metric("dbha_run_step_duration_seconds", "How long a step of the newest run took.", _STEP)
STEP_FAILED = Metric("dbha_run_step_failed", "Whether a step of the newest run that ended had failed.", _STEP)

METRICS = (
    RUNS, ACTIVE, UNFINISHED, LAST_STATE, LAST_STARTED, LAST_ENDED, LAST_DURATION, STEP_STARTED, STEP_DURATION,
    STEP_FAILED,
)  # fmt: skip


def samples_of_runs(seen: RunsSeen) -> Iterator[Sample]:
    """Yield what the journal has of each workflow that ever ran, and the steps of its newest run."""
    for (workflow, state), count in sorted(seen.counts.items()):
        yield from RUNS.of(count, workflow, state)
    for run in seen.last:
        yield from ACTIVE.of(seen.active is not None and seen.active.workflow == run.workflow, run.workflow)
        stopped = [each for each in seen.unfinished if each.workflow == run.workflow and each != seen.active]
        yield from UNFINISHED.of(len(stopped), run.workflow)
        yield from _of_last(run)


def _of_last(run: RunRecord) -> Iterator[Sample]:
    yield from LAST_STATE.each(list(RunState), run.state, run.workflow)
    yield from LAST_STARTED.of(datetime.fromisoformat(run.started), run.workflow)
    if run.ended:
        yield from LAST_ENDED.of(datetime.fromisoformat(run.ended), run.workflow)
        yield from LAST_DURATION.of(run.seconds, run.workflow)
    for step in [step for step in run.steps if "@" not in step.name][:_MOST_STEPS]:  # @: an earlier attempt
        if step.state is StepState.INTENDED:
            yield from STEP_STARTED.of(datetime.fromisoformat(step.started), run.workflow, step.name)
        else:
            yield from STEP_DURATION.of(step.seconds, run.workflow, step.name)
            yield from STEP_FAILED.of(step.state is StepState.FAILED, run.workflow, step.name)
