"""`dbha runs list | show | resume | abandon`: what was done, and taking up what was cut off."""

from collections.abc import Callable, Mapping

import click

from dbha.backup.aside import aside_name, asides_in
from dbha.cli import backup, cluster, database, recover, restore, sync, upgrade
from dbha.cli.app import App
from dbha.cli.options import confirm, json_option, yes_option
from dbha.cluster import recover as recover_cluster
from dbha.cluster.fence import lift_fence
from dbha.cluster.lock import is_free
from dbha.console import in_seconds
from dbha.errors import BusyError, UsageError
from dbha.journal import RunRecord, RunState, StepState
from dbha.journal import as_json as run_as_json
from dbha.schema.migration_account import remove_migration_account
from dbha.upgrade import whole_restore_plan, whole_restore_undo
from dbha.upgrade.fencing import fenced_by
from dbha.upgrade.kept_data import kept_data
from dbha.workflow import Plan

_PLANS: Mapping[str, Callable[[App, RunRecord], Plan]] = {
    upgrade.WORKFLOW: upgrade.plan_again,
    backup.WORKFLOW: backup.plan_again,
    restore.WORKFLOW: restore.plan_again,
    sync.WORKFLOW: sync.plan_again,
    database.WORKFLOW: database.plan_again,
    cluster.WORKFLOW: cluster.plan_again,
    recover_cluster.WORKFLOW: recover.plan_again,
    whole_restore_plan.WORKFLOW: restore.plan_whole_again,
    whole_restore_undo.WORKFLOW: restore.plan_undo_again,
}
# There is no cluster all the time that could hold one.
_WHOLE = (whole_restore_plan.WORKFLOW, whole_restore_undo.WORKFLOW)
_WITHOUT_LEASE = (cluster.WORKFLOW, recover_cluster.WORKFLOW, *_WHOLE)


@click.group("runs")
def command() -> None:
    """Show runs, and take up or give up one that was cut off."""


@command.command("list")
@click.option("--limit", default=20, show_default=True, help="How many, newest first.")
@json_option
@click.pass_obj
def list_runs(app: App, limit: int, as_json: bool) -> None:
    """List the runs, newest first."""
    records = app.journal.runs(limit=limit)
    if as_json:
        app.console.json([run_as_json(record) for record in records])
        return
    app.console.table(
        ("RUN", "WORKFLOW", "STATE", "STARTED", "TOOK", "OUTCOME"),
        [
            (
                record.id, record.workflow, _state(app, record), record.started[:19],
                in_seconds(record.seconds) if record.ended else "-", record.outcome.partition("\n")[0][:70],
            )
            for record in records
        ],
    )  # fmt: skip


@command.command("show")
@click.argument("run", metavar="[RUN]", default="latest")
@json_option
@click.pass_obj
def show(app: App, run: str, as_json: bool) -> None:
    """Show a run with its steps; `latest` is the newest."""
    record = find(app, run)
    is_kept = record.workflow == whole_restore_plan.WORKFLOW and record.state is RunState.DONE
    kept = kept_data(app.site, record) if is_kept else None
    if as_json:
        app.console.json({**run_as_json(record), **({"kept": kept.as_json()} if kept else {})})
        return
    console = app.console
    console.line(f"run {record.id}: {record.workflow}, {_state(app, record)}")
    console.line(
        f"started {record.started}, took {in_seconds(record.seconds) if record.ended else 'until now'}"
    )
    if record.outcome:
        console.line(f"outcome: {record.outcome}")
    for line in kept.lines if kept else ():
        console.line(line)
    console.line()
    console.table(
        ("STEP", "STATE", "SECONDS", "TITLE"),
        [(step.name, step.state.value, f"{step.seconds:.1f}", step.title) for step in record.steps],
    )
    for step in record.steps:
        if step.state is StepState.FAILED:
            console.line(f"\n{step.name} failed:\n  {step.error}")


@command.command("resume")
@click.argument("run", metavar="[RUN]", default="latest")
@click.option("--roll-back", is_flag=True, help="Put everything back instead of finishing.")
@click.pass_obj
def resume(app: App, run: str, roll_back: bool) -> None:
    """Take up a run that was cut off, and bring it to the end it would have had.

    \b
    Exits as the command would have: 0 when it was finished, 7 when everything was put back.
    """
    record = _find_unfinished(app, run)
    with app.controller(with_cluster=record.workflow not in _WITHOUT_LEASE) as controller:
        plan = _PLANS[record.workflow](app, record)
        controller.resume(record, plan, app.watch, roll_back=roll_back)
    app.console.line(f"run {record.id} ({record.workflow}) is done")


@command.command("abandon")
@click.argument("run", metavar="[RUN]", default="latest")
@click.option("--keep-fence", is_flag=True, help="Leave the services' accounts locked.")
@yes_option
@click.pass_obj
def abandon(app: App, run: str, keep_fence: bool, yes: bool) -> None:
    """Give up a run that was cut off, leaving the data as it is now.

    Migration accounts are dropped and, unless told otherwise, the run's fence is lifted: accounts that were locked
    before it stay locked. Tables that were moved aside stay where they are; they are named.
    """
    record = _find_unfinished(app, run)
    begun = [step.title for step in record.steps if step.state is not StepState.DONE]
    question = (
        f"run {record.id} ({record.workflow}) is given up; half done may be: {', '.join(begun) or 'nothing'}"
    )
    confirm(app.console, question, yes=yes)
    with app.controller(with_cluster=record.workflow not in _WITHOUT_LEASE) as controller:
        controller.abandon(record, lambda: _loosen(app, record, keep_fence=keep_fence))
    app.console.line(f"run {record.id} is abandoned")


def _loosen(app: App, record: RunRecord, *, keep_fence: bool) -> None:
    """Drop migration accounts, lift the run's own fence, and say what is left lying about.

    While tables of the run are aside the data is not whole, so its fence stays whatever was asked.
    """
    site = app.site
    if record.workflow in _WHOLE:
        restored = record.arguments.get("restored", record.arguments)
        for node in restored["nodes"]:
            place = f"{site.cluster.node(node).datadir}.dbha/{record.arguments.get('run', record.id)}"
            app.console.line(
                f"{node}: what was exchanged lies in {place}     docs/runbooks/restore-failed.md"
            )
        return
    if record.workflow == recover_cluster.WORKFLOW:
        recover.loosen(app, record)
        return
    writer = site.writer()
    for service in site.services.values():
        remove_migration_account(site.cluster, writer, service.name)
    with site.cluster.session(writer) as session:
        asides = [name for name in asides_in(session) if name.startswith(aside_name(record.id, ""))]
    accounts = fenced_by(record)
    for aside in asides:
        app.console.line(f"tables that were moved aside are still in database {aside}")
    if asides and accounts:
        app.console.line("the fence stays up: the data is not whole     docs/runbooks/restore-failed.md")
    elif accounts and not keep_fence:
        lift_fence(site.cluster, writer, accounts, guard=lambda: None)
        app.console.line("the fence was lifted")
    if backup_id := record.arguments.get("backup_id"):  # its prepared form is as large as the data
        site.shelf.forget_prepared(backup_id)


def find(app: App, name: str) -> RunRecord:
    """Return the run of this id; `latest` is the newest."""
    if name != "latest":
        return app.journal.run(name)
    newest = app.journal.runs(limit=1)
    if not newest:
        raise UsageError("there are no runs yet")
    return newest[0]


def _find_unfinished(app: App, name: str) -> RunRecord:
    unfinished = app.journal.unfinished()
    record = find(app, name) if name != "latest" or not unfinished else unfinished[0]
    if record.state not in (RunState.RUNNING, RunState.FAILED):
        raise UsageError(f"run {record.id} has ended: {record.state.value}", hint="dbha runs list")
    if not is_free(app.lock_path):
        raise BusyError(f"run {record.id} is in progress", hint=f"dbha runs show {record.id}")
    return record


def _state(app: App, record: RunRecord) -> str:
    if record.state is RunState.RUNNING and is_free(app.lock_path):
        return "interrupted"
    return record.state.value
