"""`dbha restore`: put services back from a backup, while all others keep working."""

import click

from dbha.backup.aside import asides_in
from dbha.backup.estimate import check_room, data_size, local_room, node_needs, room_at, staging_needs
from dbha.backup.store import resolve
from dbha.cli.app import App
from dbha.cli.options import confirm, json_option, yes_option
from dbha.errors import FoundWrongError, UnsafeError, UsageError
from dbha.journal import RunRecord
from dbha.journal import as_json as run_as_json
from dbha.upgrade.restore_plan import RestoreSpec, ServiceToRestore, restore_plan
from dbha.upgrade.site import Site
from dbha.workflow import Plan

WORKFLOW = "restore"


@click.command("restore")
@click.argument("backup_id", metavar="ID")
@click.option("--service", "services", multiple=True, metavar="NAME", help="Only this service; repeatable.")
@click.option("--dry-run", is_flag=True, help="Show the plan that would run, and stop.")
@yes_option
@json_option
@click.pass_obj
def command(
    app: App, backup_id: str, services: tuple[str, ...], dry_run: bool, yes: bool, as_json: bool
) -> None:
    """Put services back as they were in backup ID (`latest` is the newest), while the others keep working.

    The backup is verified first. What the services have now is kept aside until the result is proven equal on all
    nodes; it comes back when anything fails.
    """
    if dry_run:
        for number, step in enumerate(
            restore_plan(_decide(app.site, backup_id, services), app.site).steps(), 1
        ):
            app.console.line(f"{number:>3}. {step.title}")
        return
    with app.controller() as controller, controller.holding(WORKFLOW) as holding:
        spec = _decide(app.site, backup_id, services)
        names = ", ".join(each.service for each in spec.services)
        confirm(app.console, f"what {names} wrote since backup {spec.backup_id} is replaced", yes=yes)
        outcome = holding.start(
            WORKFLOW, spec.model_dump(mode="json"), restore_plan(spec, app.site), app.watch
        )
    if as_json:
        app.console.json({"run": run_as_json(app.journal.run(outcome.run_id))})
        return
    for each in spec.services:
        app.console.line(f"{each.service} is as it was in backup {spec.backup_id} (release {each.release})")


def plan_again(app: App, record: RunRecord) -> Plan:
    """Return the plan of a restore that is being taken up."""
    return restore_plan(RestoreSpec.model_validate(record.arguments), app.site)


def _decide(site: Site, name: str, services: tuple[str, ...]) -> RestoreSpec:
    """Return what is restored. Raises UnsafeError, UnreachableError or UsageError before anything is touched."""
    store = site.shelf.store
    backup_id = resolve(store.list(), name)
    try:
        manifest = store.manifest(backup_id)
    except FoundWrongError as error:
        raise UnsafeError(str(error), hint=error.hint) from error
    chosen = site.chosen_services(services)
    if absent := [service for service in chosen if service not in manifest.services]:
        raise UsageError(
            f"backup {backup_id} has no {', '.join(absent)}", hint=f"dbha backup show {backup_id}"
        )
    verdict = site.verdict()
    writer = site.writer_by(verdict)
    if not verdict.may_write:
        raise UnsafeError(f"the cluster is {verdict.level}: {'; '.join(verdict.reasons)}", hint="dbha status")
    databases = [database for service in chosen.values() for database in service.database_names]
    with site.cluster.session(writer) as session:
        if left := asides_in(session):
            raise UnsafeError(
                f"tables of an earlier restore are still aside: {', '.join(left)}", hint="dbha runs list"
            )
        size = data_size(session, databases)
    serving = [node for node in site.cluster.nodes if node.name in verdict.serving]
    check_room(
        [
            local_room("the place to prepare it in", site.shelf.staging, staging_needs(manifest.data_bytes)),
            *(
                room_at(
                    f"node {node}",
                    site.cluster.transport(node),
                    node.datadir,
                    node_needs(size.database_bytes),
                )
                for node in serving
            ),
        ]
    )
    return RestoreSpec(
        backup_id=backup_id,
        services=tuple(
            ServiceToRestore(service=name, release=state.release, heads=state.heads)
            for name, state in ((name, manifest.services[name]) for name in chosen)
        ),
    )
