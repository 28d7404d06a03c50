"""`dbha restore`: put the whole cluster back from a backup, or services while all others keep working."""

from collections.abc import Sequence
from pathlib import Path

import click

from dbha.cli import private_copy
from dbha.cli.app import App
from dbha.cli.options import confirm, json_option, store_option, yes_option
from dbha.errors import UsageError
from dbha.journal import RunRecord
from dbha.journal import as_json as run_as_json
from dbha.upgrade.restore_decide import decide_services, decide_whole
from dbha.upgrade.restore_plan import RestoreSpec, restore_plan
from dbha.upgrade.whole_restore_decide import require_admitted
from dbha.upgrade.whole_restore_plan import WORKFLOW as WHOLE
from dbha.upgrade.whole_restore_plan import WholeRestoreSpec, whole_restore_plan
from dbha.upgrade.whole_restore_undo import WORKFLOW as UNDO
from dbha.upgrade.whole_restore_undo import WholeRestoreUndoSpec, forget_kept, kept_by, undo_plan
from dbha.workflow import Plan

WORKFLOW = "restore"


@click.command("restore")
@click.argument("backup_id", metavar="[ID]", default="")
@click.option("--service", "services", multiple=True, metavar="NAME", help="Only this service; repeatable.")
@click.option(
    "--to",
    metavar="TIME|GTID",
    help="To just before this point, by replaying archived logs: a time like 2026-11-23T14:30:00Z (UTC unless it has "
    "an offset), a GTID like 1-1-4711, which is the first that is left out, or `newest`.",
)
@click.option(
    "--accept-missing",
    multiple=True,
    metavar="NODE",
    help="Restore the whole cluster without this node, which cannot be reached; repeatable.",
)
@click.option(
    "--undo", metavar="RUN", help="Go back to the old data that this restore of the whole cluster kept."
)
@click.option(
    "--forget", metavar="RUN", help="Remove the old data that this restore of the whole cluster kept."
)
@click.option(
    "--restore-to",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Only look around: a private server on this machine with what is in the backup.",
)
@click.option("--forget-dir", metavar="DIR", help="Stop such a private server, and remove its directory.")
@click.option("--list-dirs", is_flag=True, help="List such private servers.")
@store_option
@click.option("--dry-run", is_flag=True, help="Show the plan that would run, and stop.")
@yes_option
@json_option
@click.pass_obj
def command(
    app: App,
    backup_id: str,
    services: tuple[str, ...],
    to: str | None,
    accept_missing: tuple[str, ...],
    undo: str | None,
    forget: str | None,
    restore_to: Path | None,
    forget_dir: str | None,
    list_dirs: bool,
    store: str,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Put the cluster, or some services, back as they were in backup ID (`latest` is the newest that has all of it).

    Without --service the whole cluster: all that can be proven is proven on every node beside the old data; then the
    servers stop, the data directories are exchanged, and the nodes begin a new history, so that a node that was left
    out can come back only by a full state transfer. The old data is kept.

    With --service the others keep working. What the service has now is kept aside until the result is proven equal
    on all nodes; it comes back when anything fails.

    With --to the binary logs that `dbha backup archive` keeps are replayed on the backup, up to the last transaction
    before the point. Without ID, or with `latest`, it begins with the newest verified backup before it.

    With --restore-to nothing of the cluster is touched: `dbha sql --restored DIR` looks around in the backup.
    """
    if to and not backup_id:
        backup_id = "latest" if not (undo or forget or forget_dir or list_dirs) else ""
    _require_one_way(
        (backup_id, undo, forget, forget_dir, list_dirs),
        of_backup=(services, accept_missing, store, restore_to, to),
    )
    _require_fitting(services, accept_missing, restore_to, others=(to, dry_run))
    if undo:
        _undo(app, undo, dry_run=dry_run, yes=yes, as_json=as_json)
    elif forget:
        _forget(app, forget, yes=yes)
    elif list_dirs:
        private_copy.list_directories(app, as_json=as_json)
    elif forget_dir:
        private_copy.forget_directory(app, forget_dir, yes=yes)
    elif restore_to:
        private_copy.restore_to(app, backup_id, restore_to, store, as_json=as_json)
    elif services:
        _services(app, backup_id, to or "", services, store, dry_run=dry_run, yes=yes, as_json=as_json)
    else:
        _whole(app, backup_id, to or "", accept_missing, store, dry_run=dry_run, yes=yes, as_json=as_json)


def _require_one_way(ways: Sequence[object], *, of_backup: Sequence[object]) -> None:
    """Raise UsageError unless one thing is asked for; `ways` begins with the backup, which `of_backup` goes with."""
    if sum(map(bool, ways)) != 1:
        raise UsageError(
            "one of ID, --to, --undo RUN, --forget RUN, --forget-dir DIR and --list-dirs is needed",
            hint="dbha backup list\ndbha runs list",
        )
    if not ways[0] and any(of_backup):
        raise UsageError(
            "--service, --accept-missing, --store, --restore-to and --to are for a restore: a run knows its own"
        )


def _require_fitting(
    services: Sequence[str],
    accept_missing: Sequence[str],
    restore_to: Path | None,
    *,
    others: Sequence[object],
) -> None:
    """Raise UsageError for options that make no sense together."""
    if restore_to and (services or accept_missing or any(others)):
        raise UsageError("--restore-to takes neither --service, --accept-missing, --to nor --dry-run")
    if accept_missing and services:
        raise UsageError("--accept-missing is for the whole cluster, not for a service")


def _services(
    app: App,
    backup_id: str,
    to: str,
    services: tuple[str, ...],
    store: str,
    *,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    if dry_run:
        _show(app, restore_plan(decide_services(app.site, backup_id, to, services, store), app.site))
        return
    with app.controller() as controller, controller.holding(WORKFLOW) as holding:
        spec = decide_services(app.site, backup_id, to, services, store)
        names = ", ".join(each.service for each in spec.services)
        confirm(app.console, f"what {names} wrote since {_since(spec)} is replaced", yes=yes)
        outcome = holding.start(
            WORKFLOW, spec.model_dump(mode="json"), restore_plan(spec, app.site), app.watch
        )
    if as_json:
        app.console.json({"run": run_as_json(app.journal.run(outcome.run_id))})
        return
    releases = outcome.facts["note"].get("releases", {})
    for each in spec.services:
        release = releases.get(each.service, each.release)
        app.console.line(f"{each.service} is as it was {_when(spec)} (release {release})")


def _when(spec: RestoreSpec | WholeRestoreSpec) -> str:
    return f"{spec.point}, with {spec.until} as the last transaction" if spec.to else f"in {spec.point}"


def _since(spec: RestoreSpec) -> str:
    return f"transaction {spec.until}" if spec.to else f"backup {spec.backup_id}"


def _whole(
    app: App,
    backup_id: str,
    to: str,
    accept_missing: tuple[str, ...],
    store: str,
    *,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    site = app.site
    if dry_run:
        spec = decide_whole(site, backup_id, to, accept_missing, store)
        _show(app, whole_restore_plan(spec, site, app.journal.has_ended))
        return
    with app.controller(with_cluster=False) as controller, controller.holding(WHOLE) as holding:
        spec = decide_whole(site, backup_id, to, accept_missing, store)
        question = f"all data of {', '.join(spec.nodes)} is replaced by that of {spec.point}"
        confirm(app.console, question, yes=yes)
        plan = whole_restore_plan(spec, site, app.journal.has_ended)
        outcome = holding.start(WHOLE, spec.model_dump(mode="json"), plan, app.watch)
    if as_json:
        app.console.json({"run": run_as_json(app.journal.run(outcome.run_id))})
        return
    app.console.line(f"the cluster is as it was {_when(spec)}, on {', '.join(spec.nodes)}")
    for node in spec.nodes:
        app.console.line(f"the old data of {node} is kept in {outcome.facts[f'exchange:{node}']['old']}")
    app.console.line(f"next: dbha runs show {outcome.run_id}     says whether the old data may go, and how")


def _undo(app: App, run: str, *, dry_run: bool, yes: bool, as_json: bool) -> None:
    site = app.site

    def decide_undo() -> WholeRestoreUndoSpec:
        record, states = app.journal.run(run), site.observe()
        require_admitted(states)
        served = site.verdict_of(states).serving
        return WholeRestoreUndoSpec(run=record.id, restored=kept_by(site, record), served=served)

    if dry_run:
        _show(app, undo_plan(decide_undo(), site, app.journal.has_ended))
        return
    with app.controller(with_cluster=False) as controller, controller.holding(UNDO) as holding:
        spec = decide_undo()
        nodes = ", ".join(spec.restored.nodes)
        confirm(app.console, f"{nodes} go back to the data of before run {run}", yes=yes)
        plan = undo_plan(spec, site, app.journal.has_ended)
        outcome = holding.start(UNDO, spec.model_dump(mode="json"), plan, app.watch)
    if as_json:
        app.console.json({"run": run_as_json(app.journal.run(outcome.run_id))})
        return
    app.console.line(f"{nodes} have the data of before run {run}")
    app.console.line(f"what was restored is kept beside it     dbha restore --forget {run}")


def _forget(app: App, run: str, *, yes: bool) -> None:
    with app.controller(with_cluster=False) as controller, controller.holding("restore forget"):
        confirm(app.console, f"the data that run {run} keeps on the nodes is removed", yes=yes)
        nodes = forget_kept(app.site, app.journal.run(run))
    app.console.line(f"what run {run} kept is removed from {', '.join(nodes)}")


def plan_undo_again(app: App, record: RunRecord) -> Plan:
    """Return the plan of going back that is being taken up."""
    spec = WholeRestoreUndoSpec.model_validate(record.arguments)
    return undo_plan(spec, app.site, app.journal.has_ended)


def _show(app: App, plan: Plan) -> None:
    for number, step in enumerate(plan.steps(), 1):
        app.console.line(f"{number:>3}. {step.title}")


def plan_whole_again(app: App, record: RunRecord) -> Plan:
    """Return the plan of a restore of the whole cluster that is being taken up."""
    spec = WholeRestoreSpec.model_validate(record.arguments)
    return whole_restore_plan(spec, app.site, app.journal.has_ended)


def plan_again(app: App, record: RunRecord) -> Plan:
    """Return the plan of a restore that is being taken up."""
    return restore_plan(RestoreSpec.model_validate(record.arguments), app.site)
