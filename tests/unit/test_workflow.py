"""The engine's rules, one test each, on a real journal.

A crash is `Killed`, which no step and no engine catches: what is in the journal then is what SIGKILL would leave.
"""

import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from dbha.cluster.control import Controller
from dbha.errors import (
    DbhaError,
    LeaseLostError,
    RestoreFailedError,
    UnreachableError,
    UpgradeRolledBackError,
    UsageError,
)
from dbha.journal import Facts, Journal, RunState, StepState
from dbha.workflow import Engine, Outcome, Plan, Stage, Step, StepContext, StopRequest
from dbha.workflow.plan import EXIT_CODE, STOP, UndoFirstError, describe, is_decided, stage, undo_stages


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


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "journal.sqlite")
    yield made
    made.journal.close()


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


# --- intent before effect, outcome before the next stage ---


def on_disk(bench: Bench) -> dict[str, tuple[str, str]]:
    """Return state and facts of each step as another process reads them in the file."""
    with closing(sqlite3.connect(f"file:{bench.path}?mode=ro", uri=True)) as connection:
        rows = connection.execute("SELECT name, state, facts FROM steps").fetchall()
    return {name: (state, facts) for name, state, facts in rows}


def test_the_intent_is_on_disk_before_the_effect_and_the_outcome_before_the_next_stage(bench: Bench) -> None:
    seen: list[dict[str, tuple[str, str]]] = []

    def look() -> None:
        seen.append(on_disk(bench))

    plan = plan_of(
        stage(bench.step("first", look, intent=lambda _: {"was": 1})),
        stage(bench.step("second", look)),
        finish=(stage(bench.step("last", look)),),
    )
    bench.execute(plan)
    assert seen == [
        {"first": ("intended", '{"was": 1}')},
        {"first": ("done", '{"by": "first"}'), "second": ("intended", "{}")},
        {
            "first": ("done", '{"by": "first"}'), "second": ("done", '{"by": "second"}'),
            "last": ("intended", "{}"),
        },
    ]  # fmt: skip
    assert bench.state is RunState.DONE


def test_the_undo_too_has_its_intent_on_disk_before_its_effect(bench: Bench) -> None:
    seen = []
    undo = bench.step("undo", lambda: seen.append(on_disk(bench)["undo"]))
    with pytest.raises(BrokenError):
        bench.execute(plan_of(stage(bench.step("first", fails(), undo=(stage(undo),)))))
    assert seen == [("intended", "{}")]


def test_facts_of_done_steps_are_given_to_later_ones_and_returned(bench: Bench) -> None:
    outcome = bench.execute(plan_of(stage(bench.step("a"), bench.step("b")), stage(bench.step("c"))))
    assert bench.contexts["c"].facts == {"a": {"by": "a"}, "b": {"by": "b"}}
    assert outcome.facts == {name: {"by": name} for name in "abc"}


def test_an_intent_is_asked_for_once_and_kept_over_a_crash(bench: Bench) -> None:
    asked = iter([{"locked": "no"}, {"locked": "yes"}])
    plan = plan_of(stage(bench.step("fence", OnlyOnce(killed), intent=lambda _: next(asked))))
    with pytest.raises(Killed):
        bench.execute(plan)
    bench.execute(plan)
    context = bench.contexts["fence"]
    assert (context.intent, context.interrupted) == ({"locked": "no"}, True)


def test_an_intent_is_kept_over_a_failure_too(bench: Bench) -> None:
    """An undo that failed half-way must not take the half for what was there before."""
    asked = iter([{"tables": 7}, {"tables": 3}])
    aside = bench.step("aside", OnlyOnce(fails()), intent=lambda _: next(asked))
    plan = plan_of(stage(bench.step("sync", fails(), undo=(stage(aside),))))
    with pytest.raises(RestoreFailedError):
        bench.execute(plan)
    with pytest.raises(DbhaError, match="it broke"):
        bench.execute(plan)
    assert bench.contexts["aside"].intent == {"tables": 7}


def test_begun_tells_also_of_steps_that_did_not_end_well(bench: Bench) -> None:
    undo = stage(bench.step("undo"))
    plan = plan_of(
        stage(bench.step("good", intent=lambda _: {"was": "good"}, undo=(undo,))),
        stage(bench.step("bad", fails(), intent=lambda _: {"was": "bad"})),
    )
    with pytest.raises(BrokenError):
        bench.execute(plan)
    context = bench.contexts["undo"]
    assert context.facts == {"good": {"by": "good"}}
    assert context.begun == {"good": {"by": "good"}, "bad": {"was": "bad", EXIT_CODE: 42}}


def test_a_step_that_cannot_tell_its_intent_fails_without_an_effect(bench: Bench) -> None:
    def cannot(_: Mapping[str, Facts]) -> Facts:
        raise UnreachableError("no node answers")

    with pytest.raises(UnreachableError):
        bench.execute(plan_of(stage(bench.undoable("fence")), stage(bench.step("sync", intent=cannot))))
    assert bench.did == ["fence", "fence-undo"]
    assert bench.states()["sync"] == "failed"


# --- stages ---


def test_siblings_finish_when_one_fails(bench: Bench) -> None:
    failed = threading.Event()

    def slow() -> None:
        assert failed.wait(5)

    def fail() -> None:
        failed.set()
        raise BrokenError("it broke")

    plan = plan_of(stage(bench.step("slow", slow), bench.step("bad", fail)), stage(bench.step("next")))
    with pytest.raises(BrokenError):
        bench.execute(plan)
    assert bench.states() == {"slow": "done", "bad": "failed"}


def test_the_first_failure_in_the_stages_order_is_the_one_told(bench: Bench) -> None:
    second_failed = threading.Event()

    def fail_late() -> None:
        assert second_failed.wait(5)
        raise BrokenError("the first one's")

    def fail_early() -> None:
        second_failed.set()
        raise UnreachableError("the second one's")

    with pytest.raises(BrokenError, match="the first one's"):
        bench.execute(plan_of(stage(bench.step("one", fail_late), bench.step("two", fail_early))))


def test_only_the_steps_of_a_stage_that_are_not_done_run_again(bench: Bench) -> None:
    plan = plan_of(stage(bench.step("one"), bench.step("two", OnlyOnce(killed))))
    with pytest.raises(Killed):
        bench.execute(plan)
    bench.execute(plan)
    assert sorted(bench.did) == ["one", "two", "two"]


# --- going back ---


def test_undo_runs_last_begun_first_with_siblings_zipped(bench: Bench) -> None:
    def part(name: str, parts: int) -> Step:
        return bench.step(name, undo=tuple(stage(bench.step(f"{name}-undo-{n}")) for n in range(parts)))

    plan = plan_of(stage(part("a", 1)), stage(part("b", 3), part("c", 2)), stage(bench.step("bad", fails())))
    with pytest.raises(BrokenError):
        bench.execute(plan)
    undone = [name for name in bench.did if "undo" in name]
    assert [set(undone[:2]), set(undone[2:4]), undone[4:]] == [
        {"b-undo-0", "c-undo-0"},
        {"b-undo-1", "c-undo-1"},
        ["b-undo-2", "a-undo-0"],
    ]
    assert bench.state is RunState.ROLLED_BACK


def test_only_begun_steps_are_undone_the_failed_one_included(bench: Bench) -> None:
    plan = plan_of(
        stage(bench.undoable("a")), stage(bench.undoable("bad", fails())), stage(bench.undoable("never"))
    )
    with pytest.raises(BrokenError):
        bench.execute(plan)
    assert bench.did == ["a", "bad", "bad-undo", "a-undo"]


def test_the_plan_says_what_the_operator_is_told_after_an_undo(bench: Bench) -> None:
    def explain(error: DbhaError, begun: frozenset[str]) -> DbhaError:
        return UpgradeRolledBackError(f"{error}, after {'/'.join(sorted(begun))}")

    plan = Plan(
        "a test",
        (stage(bench.step("a")), stage(bench.step("b", fails())), stage(bench.step("c"))),
        (),
        explain,
    )
    with pytest.raises(UpgradeRolledBackError, match=r"^it broke, after a/b$"):
        bench.execute(plan)
    assert bench.journal.run(bench.run_id).outcome == "it broke"


def test_a_run_that_stopped_before_its_first_step_was_refused(bench: Bench) -> None:
    bench.stop.exit_code = 130
    with pytest.raises(DbhaError):
        bench.execute(plan_of(stage(bench.undoable("a"))))
    assert (bench.did, bench.state) == ([], RunState.REFUSED)


def test_a_bug_in_a_step_is_undone_like_any_failure_and_exits_70(bench: Bench) -> None:
    def bug() -> None:
        raise KeyError("accounts")

    with pytest.raises(DbhaError, match="a bug in dbha: KeyError") as told:
        bench.execute(plan_of(stage(bench.undoable("a", bug))))
    assert told.value.exit_code == 70
    assert isinstance(told.value.__cause__, KeyError)
    assert (bench.did, bench.state) == (["a", "a-undo"], RunState.ROLLED_BACK)


def test_a_failure_in_the_undo_needs_a_human(bench: Bench) -> None:
    plan = plan_of(
        stage(bench.undoable("a")),
        stage(
            bench.step("b", fails("the sync broke"), undo=(stage(bench.step("b-undo", fails("no room"))),))
        ),
    )
    with pytest.raises(
        RestoreFailedError, match="the sync broke\nand putting it back failed: no room"
    ) as told:
        bench.execute(plan)
    assert f"dbha runs resume {bench.run_id}" in told.value.hint
    assert bench.did == ["a", "b", "b-undo"], "what comes after a failed undo must not run"
    assert bench.state is RunState.FAILED
    assert [record.id for record in bench.journal.unfinished()] == [bench.run_id]


def test_a_failed_run_goes_on_going_back_once_the_cause_is_gone(bench: Bench) -> None:
    plan = plan_of(
        stage(bench.undoable("a")),
        stage(bench.step("b", fails(), undo=(stage(bench.step("b-undo", OnlyOnce(fails()))),))),
    )
    with pytest.raises(RestoreFailedError):
        bench.execute(plan)
    bench.did.clear()
    bench.journal.reopen_run(bench.run_id)
    with pytest.raises(DbhaError, match="it broke") as told:
        bench.execute(plan)
    assert told.value.exit_code == 42
    assert (bench.did, bench.state) == (["b-undo", "a-undo"], RunState.ROLLED_BACK)


def test_a_crash_while_going_back_goes_on_going_back_with_the_same_exit_code(bench: Bench) -> None:
    undo = stage(bench.step("a-undo", OnlyOnce(killed)))
    plan = plan_of(stage(bench.step("a", undo=(undo,))), stage(bench.step("b", OnlyOnce(fails("first")))))
    with pytest.raises(Killed):
        bench.execute(plan)
    with pytest.raises(DbhaError, match=r"^first$") as told:
        bench.execute(plan)
    assert told.value.exit_code == 42
    assert bench.did == ["a", "b", "a-undo", "a-undo"]


def test_a_crash_between_the_failure_and_going_back_keeps_the_exit_code(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of(stage(bench.undoable("a", fails())))
    with monkeypatch.context() as patch:
        patch.setattr(Told, "going_back", lambda *_: killed())
        with pytest.raises(Killed):
            bench.execute(plan)
    assert bench.states() == {"a": "failed"}
    with pytest.raises(DbhaError, match="it broke") as told:
        bench.execute(plan)
    assert told.value.exit_code == 42
    assert bench.did == ["a", "a-undo"], "a step that failed must not be tried again"


def test_a_sibling_that_was_cut_off_is_undone_not_repeated_once_another_failed(bench: Bench) -> None:
    bad_failed = threading.Event()

    def die() -> None:
        assert bad_failed.wait(5)
        raise Killed

    class Wakes(Told):
        def step_failed(self, step: Step, error: BaseException, seconds: float) -> None:
            bad_failed.set()

    bench.observer = Wakes()
    plan = plan_of(stage(bench.undoable("bad", fails()), bench.undoable("cut-off", OnlyOnce(die))))
    with pytest.raises(Killed):
        bench.execute(plan)
    assert bench.states() == {"bad": "failed", "cut-off": "intended"}
    with pytest.raises(DbhaError, match="it broke"):
        bench.execute(plan)
    assert sorted(bench.did) == ["bad", "bad-undo", "cut-off", "cut-off-undo"]


# --- finishing ---


def test_finish_stages_are_repeated_until_they_succeed_and_undo_nothing(bench: Bench) -> None:
    undo = stage(bench.step("unfence-undo"))
    plan = plan_of(
        stage(bench.undoable("sync")),
        finish=(
            stage(bench.step("note")),
            stage(bench.step("unfence", OnlyOnce(fails("no node answers")), undo=(undo,))),
            stage(bench.step("tidy")),
        ),
    )
    with pytest.raises(RestoreFailedError, match="done and proven, but tidying up failed: no node") as told:
        bench.execute(plan)
    assert f"dbha runs resume {bench.run_id}" in told.value.hint
    assert [record.id for record in bench.journal.unfinished()] == [bench.run_id]
    bench.execute(plan)
    assert bench.did == ["sync", "note", "unfence", "unfence", "tidy"]
    assert bench.state is RunState.DONE


def test_a_run_is_decided_when_every_forward_step_is_done(bench: Bench) -> None:
    plan = plan_of(
        stage(bench.step("a"), bench.step("b")), finish=(stage(bench.step("c", OnlyOnce(killed))),)
    )
    assert not is_decided(plan, bench.journal.run(bench.run_id))
    with pytest.raises(Killed):
        bench.execute(plan)
    assert is_decided(plan, bench.journal.run(bench.run_id))


class Watched:
    """What the controller shows a run to."""

    def __init__(self, plan: Plan) -> None:
        self._observer = Told()

    def __enter__(self) -> Told:
        return self._observer

    def __exit__(self, *_: object) -> None:
        pass


def controller(bench: Bench) -> Controller:
    return Controller(bench.journal, bench.path.with_name("lock"), None, 30, bench.stop)


def test_a_decided_run_refuses_to_roll_back(bench: Bench) -> None:
    plan = plan_of(stage(bench.undoable("a")), finish=(stage(bench.step("tidy", OnlyOnce(killed))),))
    with pytest.raises(Killed):
        bench.execute(plan)
    record = bench.journal.run(bench.run_id)
    with pytest.raises(UsageError, match="it can only be finished"):
        controller(bench).resume(record, plan, Watched, roll_back=True)
    assert bench.journal.run(bench.run_id) == record
    controller(bench).resume(record, plan, Watched)
    assert bench.did == ["a", "tidy", "tidy"]


def test_a_run_that_was_cut_off_rolls_back_on_request(bench: Bench) -> None:
    plan = plan_of(stage(bench.undoable("a")), stage(bench.undoable("b", killed)), stage(bench.step("c")))
    with pytest.raises(Killed):
        bench.execute(plan)
    with pytest.raises(DbhaError, match="put back on request"):
        controller(bench).resume(bench.journal.run(bench.run_id), plan, Watched, roll_back=True)
    assert bench.did == ["a", "b", "b-undo", "a-undo"]
    assert bench.state is RunState.ROLLED_BACK
    with pytest.raises(UsageError, match="has ended: rolled-back"):
        controller(bench).resume(bench.journal.run(bench.run_id), plan, Watched)


# --- stopping on request ---


@pytest.mark.parametrize("exit_code", [130, 143])
def test_a_stop_request_lets_the_step_finish_and_then_goes_back(bench: Bench, exit_code: int) -> None:
    def interrupted() -> None:
        bench.stop.exit_code = exit_code

    plan = plan_of(stage(bench.undoable("a", interrupted)), stage(bench.undoable("b")))
    with pytest.raises(DbhaError, match="stopped on request") as told:
        bench.execute(plan)
    assert told.value.exit_code == exit_code
    assert bench.did == ["a", "a-undo"]
    assert bench.states() == {"a": "done", STOP: "failed", "a-undo": "done"}


def test_a_stop_request_after_the_last_forward_step_only_finishes(bench: Bench) -> None:
    def interrupted() -> None:
        bench.stop.exit_code = 130

    plan = plan_of(stage(bench.undoable("a", interrupted)), finish=(stage(bench.step("unfence")),))
    bench.execute(plan)
    assert (bench.did, bench.state) == (["a", "unfence"], RunState.DONE)


@pytest.mark.parametrize("point", ["failed", "done"])
def test_a_stop_request_holds_for_whoever_takes_the_run_up(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    """From its first trace in the journal on: `failed` is the write that follows its intent."""

    def interrupted() -> None:
        bench.stop.exit_code = 143

    plan = plan_of(stage(bench.undoable("a", interrupted)), stage(bench.undoable("b")))
    with monkeypatch.context() as patch:
        if point == "failed":
            patch.setattr(Journal, "failed", lambda *_: killed())
        else:
            patch.setattr(Told, "going_back", lambda *_: killed())
        with pytest.raises(Killed):
            bench.execute(plan)
    bench.stop.exit_code = None
    with pytest.raises(DbhaError, match="stopped on request") as told:
        bench.execute(plan)
    assert told.value.exit_code == 143
    assert bench.did == ["a", "a-undo"]


# --- undo first, then try again ---


class HalfDone:
    """A sync that is cut off once, and says on the second attempt that it left a half."""

    def __init__(self, bench: Bench, undo: tuple[Stage, ...]) -> None:
        self.step = Step("sync", "sync nova", self._run, undo=undo)
        self._bench = bench
        self._attempts = 0

    def _run(self, context: StepContext) -> Facts:
        self._attempts += 1
        self._bench.did.append(f"sync, {'again' if context.interrupted else 'anew'}")
        if self._attempts == 1:
            raise Killed
        if context.interrupted:
            raise UndoFirstError("it is half done")
        return {"attempt": self._attempts}


def test_a_half_done_step_is_undone_and_tried_anew(bench: Bench) -> None:
    undo = (stage(bench.step("aside")), stage(bench.step("import")))
    plan = plan_of(stage(HalfDone(bench, undo).step), stage(bench.step("prove")))
    with pytest.raises(Killed):
        bench.execute(plan)
    bench.execute(plan)
    assert bench.did == ["sync, anew", "sync, again", "aside", "import", "sync, anew", "prove"]
    assert bench.states() == {
        "sync@1": "done", "aside@1": "done", "import@1": "done", "sync": "done", "prove": "done",
    }  # fmt: skip
    assert bench.contexts["prove"].facts["sync"] == {"attempt": 3}
    assert "sync: it is half done" in bench.observer.lines


def test_cut_off_while_undoing_for_a_retry_the_undo_goes_on_where_it_was(bench: Bench) -> None:
    undo = (stage(bench.step("aside")), stage(bench.step("import", OnlyOnce(killed))))
    plan = plan_of(stage(HalfDone(bench, undo).step))
    for _ in range(2):
        with pytest.raises(Killed):
            bench.execute(plan)
    bench.execute(plan)
    assert bench.did == ["sync, anew", "sync, again", "aside", "import", "import", "sync, anew"]


def test_a_step_that_was_undone_for_a_retry_is_undone_again_when_the_run_goes_back(bench: Bench) -> None:
    undo = (stage(bench.step("restore")),)
    plan = plan_of(stage(HalfDone(bench, undo).step), stage(bench.step("prove", fails())))
    with pytest.raises(Killed):
        bench.execute(plan)
    with pytest.raises(BrokenError):
        bench.execute(plan)
    assert bench.did == ["sync, anew", "sync, again", "restore", "sync, anew", "prove", "restore"]
    assert bench.states()["restore@1"] == bench.states()["restore"] == "done"


def test_a_step_whose_undo_for_a_retry_fails_has_failed(bench: Bench) -> None:
    """And so the run goes back, also for whoever takes it up."""
    undo = (stage(bench.step("restore", fails("no room"))),)
    plan = plan_of(stage(HalfDone(bench, undo).step), stage(bench.step("prove")))
    with pytest.raises(Killed):
        bench.execute(plan)
    with pytest.raises(RestoreFailedError, match="no room"):
        bench.execute(plan)
    (sync,) = (step for step in bench.journal.run(bench.run_id).steps if step.name == "sync")
    assert (sync.state, sync.error, sync.facts) == (StepState.FAILED, "no room", {EXIT_CODE: 42})
    assert bench.state is RunState.FAILED


# --- the lease ---


def test_a_lost_lease_stops_at_once_and_records_nothing_more(bench: Bench) -> None:
    def lose() -> None:
        bench.lease_lost = True

    plan = plan_of(stage(bench.undoable("a")), stage(bench.undoable("b", lose)), stage(bench.step("c")))
    with pytest.raises(LeaseLostError):
        bench.execute(plan)
    assert bench.did == ["a", "b"]
    assert bench.states() == {"a": "done", "b": "intended"}
    assert bench.state is RunState.RUNNING


def test_a_step_that_fails_because_the_lease_is_lost_has_not_failed(bench: Bench) -> None:
    def lose_and_fail() -> None:
        bench.lease_lost = True
        raise BrokenError("the other controller dropped my account")

    with pytest.raises(LeaseLostError):
        bench.execute(plan_of(stage(bench.undoable("a", lose_and_fail))))
    assert bench.states() == {"a": "intended"}


def test_without_the_lease_no_step_begins(bench: Bench) -> None:
    bench.lease_lost = True
    with pytest.raises(LeaseLostError):
        bench.execute(plan_of(stage(bench.undoable("a"))))
    assert (bench.did, bench.states(), bench.state) == ([], {}, RunState.RUNNING)


def test_without_the_lease_the_end_is_not_recorded(bench: Bench) -> None:
    plan = plan_of(stage(bench.step("a")))
    bench.execute(plan)
    bench.journal.reopen_run(bench.run_id)
    bench.lease_lost = True
    with pytest.raises(LeaseLostError):
        bench.execute(plan)
    assert bench.state is RunState.RUNNING


# --- the plan as a value, and who is told ---


def test_undo_stages_of_nothing_begun_are_none(bench: Bench) -> None:
    plan = plan_of(stage(bench.undoable("a")), stage(bench.undoable("b")))
    assert undo_stages(plan, frozenset()) == ()
    assert [each.steps[0].name for each in undo_stages(plan, frozenset("ab"))] == ["b-undo", "a-undo"]


def test_describe_numbers_the_stages_and_names_what_undoes_them(bench: Bench) -> None:
    plan = plan_of(
        stage(bench.undoable("a")), stage(bench.step("b"), bench.step("c")), finish=(stage(bench.step("d")),)
    )
    assert [(line["part"], line["stage"], line["name"], line["undo"]) for line in describe(plan)] == [
        ("forward", 1, "a", ["do a-undo"]),
        ("forward", 2, "b", []),
        ("forward", 2, "c", []),
        ("finish", 1, "d", []),
    ]
    assert [step.name for step in plan.steps()] == ["a", "b", "c", "d"]


def test_the_observer_hears_everything_in_order(bench: Bench) -> None:
    def talk(context: StepContext) -> Facts:
        context.say("half of it")
        context.measure(1, 2)
        context.count("files", 3, 4)
        return {}

    plan = plan_of(
        stage(Step("a", "do a", talk, undo=(stage(bench.step("a-undo")),))), stage(bench.step("b", fails()))
    )
    with pytest.raises(BrokenError):
        bench.execute(plan)
    assert bench.observer.lines == [
        "a", "a: half of it", "a: 1 of 2", "a: 3 of 4 files", "a done", "b", "b failed", "going back",
        "undo a-undo", "a-undo done",
    ]  # fmt: skip
