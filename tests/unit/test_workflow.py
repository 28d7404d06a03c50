"""The engine's rules for going forward, one test each, on a real journal."""

import sqlite3
import threading
from collections.abc import Mapping
from contextlib import closing

import pytest

from dbha.errors import DbhaError, LeaseLostError, RestoreFailedError, UnreachableError
from dbha.journal import Facts, RunState
from dbha.workflow import Step, StepContext
from dbha.workflow.plan import EXIT_CODE, describe, is_decided, stage, undo_stages
from tests.unit.workflow_bench import Bench, BrokenError, Killed, OnlyOnce, fails, killed, plan_of

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
