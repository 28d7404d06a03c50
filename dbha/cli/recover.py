"""`dbha cluster recover`: bring a cluster back that is down, or what is missing of one that serves."""

from collections.abc import Sequence
from typing import Any

import click

from dbha.ansible import start_ahead
from dbha.cli.app import App
from dbha.cli.options import confirm, json_option, yes_option
from dbha.cluster.evidence import Evidence, Member, gather
from dbha.cluster.recover import WORKFLOW, RecoverSpec, recover_plan, recover_spec, release_claims
from dbha.cluster.recover_decide import decide, vetoes
from dbha.cluster.recover_lease import RecoverLease
from dbha.errors import FoundWrongError
from dbha.journal import RunRecord
from dbha.journal import as_json as run_as_json
from dbha.workflow import Plan
from dbha.workflow.plan import describe

# Runs that may have been cut off by the outage itself, and can be resumed only once the cluster is back.
CUT_OFF_BY_OUTAGES = ("upgrade", "restore", "backup", "backup prune", "sync", "database create")


@click.command("recover")
@click.option(
    "--accept-missing",
    multiple=True,
    metavar="NODE",
    help="Go on without this node, whose host cannot be asked: what only it has may be lost; repeatable.",
)
@click.option("--dry-run", is_flag=True, help="Show what is seen, what would be done and why, and stop.")
@yes_option
@json_option
@click.pass_obj
def command(app: App, accept_missing: tuple[str, ...], dry_run: bool, yes: bool, as_json: bool) -> None:
    """Bring the cluster back after whatever it went through, without losing what was committed.

    Where a Primary component lives, what is missing joins it. Where servers are alive without one, the furthest is
    told to go on. Where all were killed, all are started and Galera gets its chance. Only then one is chosen to form
    a new cluster: never one whose data cannot be believed, and never while a member is unknown.

    \b
    Exits 0 when all are Synced, also when nothing was to be done; 1 when a node that runs was left alone;
    4 when it is not certain who holds everything; 5 when a member cannot be asked.
    """
    if dry_run:
        evidence = gather(app.site.cluster)
        spec = recover_spec(decide(evidence, accept_missing=accept_missing), evidence)
        _show(app, spec, evidence, as_json=as_json)
        return
    with (
        app.controller(with_cluster=False) as controller,
        controller.holding(WORKFLOW, beside=CUT_OFF_BY_OUTAGES) as holding,
    ):
        be_ready_to_start(app)
        evidence = gather(app.site.cluster)
        spec = recover_spec(decide(evidence, accept_missing=accept_missing), evidence)
        if spec.way == "nothing":
            _nothing(app, spec, as_json=as_json)
            return
        for line in _told(spec, evidence):
            app.console.say(line)
        confirm(app.console, f"the cluster is recovered: {'; '.join(_titles(_plan(app, spec)))}", yes=yes)
        outcome = holding.start(WORKFLOW, spec.model_dump(mode="json"), _plan(app, spec), app.watch)
    if as_json:
        app.console.json({"way": spec.way, "run": run_as_json(app.journal.run(outcome.run_id))})
    else:
        app.console.line(f"the cluster is back: {outcome.facts['prove']['note']}")
        for name, afresh in spec.joins:
            if old := outcome.facts[f"join:{name}"].get("old"):
                app.console.line(f"{name}: {afresh}; what it had is kept in {old}")
    _require_nobody_left(spec)


def be_ready_to_start(app: App) -> None:
    """Have Ansible read its modules now where no server answers: most likely all are going to be started at once."""
    if not any(state.reachable for state in app.site.observe()):
        nodes, configuration = app.site.cluster.nodes, app.configuration
        start_ahead(
            "start", inventory=configuration.inventory, run_directory=configuration.state / "ansible",
            limit=[node.name for node in nodes],
        )  # fmt: skip


def plan_again(app: App, record: RunRecord) -> Plan:
    """Return the plan of a recovery that is being taken up."""
    return _plan(app, RecoverSpec.model_validate(record.arguments))


def loosen(app: App, record: RunRecord) -> None:
    """Take back what kept others out; servers that were started go on, and data that was moved aside stays."""
    release_claims(app.site.cluster, record.id)
    _lease(app).give_back(app.site.cluster, record.id)
    app.console.line("what was started goes on     dbha status")


def _lease(app: App) -> RecoverLease:
    return RecoverLease(
        WORKFLOW, app.configuration.limits.lease_ttl_s, app.journal.knows, app.journal.has_ended
    )


def _plan(app: App, spec: RecoverSpec) -> Plan:
    configuration = app.configuration
    return recover_plan(
        spec, app.site.cluster, configuration.inventory, configuration.state / "ansible", _lease(app)
    )


def _nothing(app: App, spec: RecoverSpec, *, as_json: bool) -> None:
    if as_json:
        app.console.json({"way": spec.way, "run": None})
    else:
        app.console.line("nothing to do: every node is in the Primary component     dbha status")
    _require_nobody_left(spec)


def _require_nobody_left(spec: RecoverSpec) -> None:
    if spec.left_alone:
        told = "; ".join(f"{name} {why}" for name, why in spec.left_alone)
        raise FoundWrongError(
            f"left alone: {told}", hint="dbha status", unchanged="these nodes were not touched"
        )


def _show(app: App, spec: RecoverSpec, evidence: Evidence, *, as_json: bool) -> None:
    plan = _plan(app, spec)
    steps = [] if spec.way == "nothing" else describe(plan)
    if as_json:
        app.console.json({**_as_json(spec), "plan": steps})
        return
    for line in _told(spec, evidence):
        app.console.line(line)
    for number, step in enumerate(steps, 1):
        app.console.line(f"{number:>3}. {step['title']}")
    if not steps:
        app.console.line("nothing to do")


def _as_json(spec: RecoverSpec) -> dict[str, Any]:
    known = spec.model_dump(mode="json")
    known["joins"] = [{"node": name, "afresh": afresh} for name, afresh in spec.joins]
    known["left_alone"] = [{"node": name, "why": why} for name, why in spec.left_alone]
    return known


def _titles(plan: Plan) -> list[str]:
    return [step.title for step in plan.steps()]


def _told(spec: RecoverSpec, evidence: Evidence) -> Sequence[str]:
    """Return what was seen and why it leads where it does, a line each."""
    return (*(f"{member.name}: {in_words(member)}" for member in evidence.members), *spec.why)


def in_words(member: Member) -> str:
    """Return what was seen of a member."""
    if member.problem and not member.answers:
        return f"cannot be asked: {member.problem}"
    position = f"at {member.position}" if member.position else "at no position"
    if member.answers:
        return (
            f"answers, {member.state.cluster_status} {member.state.local_state_comment}, {position}".rstrip()
        )
    if member.runs:
        return f"its server runs and does not answer, started {position}"
    if reasons := vetoes(member):
        return f"down; {reasons[0]}"
    how = "stopped" if member.saved and member.saved.is_clean else "killed"
    last = ", the last to stop" if member.was_last else ""
    members = f", in a component of {len(member.view.members)}" if member.view else ""
    return f"{how}{last}, {position}{members}"
