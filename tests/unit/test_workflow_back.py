"""The engine's rules for going back, one test each, on a real journal."""

import threading

import pytest

from dbha.cluster.control import Controller
from dbha.errors import DbhaError, RestoreFailedError, UpgradeRolledBackError, UsageError
from dbha.journal import Facts, Journal, RunState, StepState
from dbha.workflow import Plan, Stage, Step, StepContext
from dbha.workflow.plan import EXIT_CODE, STOP, UndoFirstError, stage
from tests.unit.workflow_bench import Bench, BrokenError, Killed, OnlyOnce, Told, fails, killed, plan_of

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


def test_a_plan_with_nothing_to_put_back_says_what_its_run_ends_as(bench: Bench) -> None:
    plan = Plan(
        "a test",
        (stage(bench.step("a")), stage(bench.step("b", fails()))),
        ends_as=lambda begun: RunState.ABANDONED if "b" in begun else RunState.REFUSED,
    )
    with pytest.raises(BrokenError):
        bench.execute(plan)
    assert bench.state is RunState.ABANDONED


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


# --- going back on request ---


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
