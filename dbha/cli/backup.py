"""`dbha backup create | list | show | verify | delete`; what keeps them and checks them is in modules of its own."""

import shutil
from datetime import UTC, datetime

import click

from dbha.backup.donor import choose_donor
from dbha.backup.estimate import check_room, local_room, staging_needs, store_needs
from dbha.backup.keep import refuse_kept
from dbha.backup.manifest import new_backup_id
from dbha.backup.plans import BackupSpec, backup_plan
from dbha.backup.pruning import Pruning
from dbha.backup.store import StoredBackup, resolve, stored_ratio
from dbha.backup.verify import verify as verify_backup
from dbha.cli import backup_check, keeping
from dbha.cli.app import App
from dbha.cli.options import confirm, json_option, yes_option
from dbha.console import in_bytes
from dbha.errors import UnreachableError
from dbha.health.status import backup_as_json
from dbha.journal import RunRecord
from dbha.upgrade.site import Site
from dbha.workflow import Plan

WORKFLOW = "backup"


@click.group("backup")
def command() -> None:
    """Take, list, verify, keep and delete backups of the whole cluster."""


for verb in (keeping.keep, keeping.prune, backup_check.command):
    command.add_command(verb)


@command.command("create")
@click.option("--label", default="", help="A word to find it by.")
@click.option("--verify", is_flag=True, help="Prove that it can be restored: unpack and prepare it.")
@click.option("--prune", is_flag=True, help="Once it is complete, delete what `dbha backup prune` would.")
@json_option
@click.pass_obj
def create(app: App, label: str, verify: bool, prune: bool, as_json: bool) -> None:
    """Take a backup from a synced node that is not the writer. Exits 6 when no good backup was made."""
    policy = keeping.policy_of(app) if prune else None
    pruned: tuple[str, ...] = ()
    with app.controller() as controller, controller.holding(WORKFLOW) as holding:
        spec = _decide(app.site, label, verify=verify)
        plan = backup_plan(spec, app.site.shelf)
        outcome = holding.start(WORKFLOW, spec.model_dump(mode="json"), plan, app.watch)
        if policy is not None:
            # Its own run counts as needing it: by a clock that went back, the newest may not look so.
            runs = [app.journal.run(outcome.run_id)]
            pruning = Pruning(app.site.shelf.store, policy, lambda: [*runs, *app.journal.unfinished()])
            pruned = tuple(decision.id for decision in keeping.carry_out(app, controller, pruning))
    backup = _find(app, spec.backup_id)
    if as_json:
        app.console.json({"run": outcome.run_id, "backup": backup_as_json(backup), "pruned": pruned})
        return
    app.console.line(f"{backup.id}  {in_bytes(backup.stored_bytes)}  {'verified' if backup.verified else ''}")


def plan_again(app: App, record: RunRecord) -> Plan:
    """Return the plan of a backup that is being taken up."""
    return backup_plan(BackupSpec.model_validate(record.arguments), app.site.shelf)


@command.command("list")
@json_option
@click.pass_obj
def list_backups(app: App, as_json: bool) -> None:
    """List all backups, oldest first, also those that failed."""
    backups = app.site.shelf.store.list()
    if as_json:
        app.console.json([backup_as_json(backup) for backup in backups])
        return
    app.console.table(
        ("BACKUP", "STATUS", "VERIFIED", "STORED", "DATA", "SEQNO", "KEPT", "LABEL"),
        [
            (
                backup.id, backup.status.value, f"{_verified(backup)}", in_bytes(backup.stored_bytes),
                in_bytes(backup.manifest.data_bytes) if backup.manifest else "-",
                str(backup.manifest.seqno) if backup.manifest else "-", _kept(backup),
                (backup.manifest.label if backup.manifest else backup.reason)[:60],
            )
            for backup in backups
        ],
    )  # fmt: skip


@command.command("show")
@click.argument("backup_id", metavar="[ID]", default="latest")
@json_option
@click.pass_obj
def show(app: App, backup_id: str, as_json: bool) -> None:
    """Show one backup; `latest` is the newest complete one."""
    backup = _find(app, backup_id)
    if as_json:
        app.console.json(backup_as_json(backup))
        return
    for name, value in backup_as_json(backup).items():
        app.console.line(f"{name:>13}  {', '.join(value) if isinstance(value, list) else value}")
    if backup.manifest:
        for name, service in backup.manifest.services.items():
            heads = ", ".join(
                f"{database} {'/'.join(found) or 'empty'}" for database, found in service.heads.items()
            )
            app.console.line(f"{name:>13}  {service.release}: {heads}")


@command.command("verify")
@click.argument("backup_id", metavar="[ID]", default="latest")
@json_option
@click.pass_obj
def verify(app: App, backup_id: str, as_json: bool) -> None:
    """Prove that a backup can be restored: hash, unpack and prepare all of it. Exits 1 when it cannot."""
    shelf = app.site.shelf
    resolved = resolve(shelf.store.list(), backup_id)
    manifest = shelf.store.manifest(resolved)
    check_room([local_room("the place to prepare it in", shelf.staging, staging_needs(manifest.data_bytes))])
    verification = verify_backup(
        shelf.store, resolved, shelf.staging, on_bytes=lambda done, total: None, keep=False
    )
    if as_json:
        app.console.json({"backup": resolved, "verification": verification.model_dump(mode="json")})
        return
    app.console.line(f"{resolved} is good: every byte was read, and it can be restored")


@command.command("delete")
@click.argument("backup_id", metavar="ID")
@yes_option
@click.pass_obj
def delete(app: App, backup_id: str, yes: bool) -> None:
    """Delete a backup, or what a failed one left; never one that `dbha backup keep` marked."""
    store = app.site.shelf.store
    resolved = resolve(store.list(), backup_id)
    refuse_kept(resolved, _find(app, resolved).mark, datetime.now(UTC))
    with app.controller() as controller, controller.holding("backup delete"):
        confirm(app.console, f"backup {resolved} is deleted", yes=yes)
        with keeping.marks_of(app):
            refuse_kept(resolved, _find(app, resolved).mark, datetime.now(UTC))
            store.delete(resolved)
    app.console.line(f"{resolved} is deleted")


def _decide(site: Site, label: str, *, verify: bool) -> BackupSpec:
    """Return where the backup is read from. Raises UnsafeError when no node will do, or there is no room."""
    if missing := [tool for tool in ("mariadb-backup", "mbstream", "zstd") if shutil.which(tool) is None]:
        raise UnreachableError(f"not installed: {', '.join(missing)}", hint="dbha check")
    states = site.observe()
    verdict = site.verdict_of(states)
    site.writer_by(verdict)  # where nobody serves, that is the reason, and not what each candidate lacks
    choice = choose_donor(site.candidates(states, verdict))
    size = site.data_bytes(site.cluster.node(choice.node))
    store = site.shelf.store
    rooms = [local_room("the backup store", store.directory, store_needs(size, stored_ratio(store.list())))]
    if verify:
        rooms.append(local_room("the place to prepare it in", site.shelf.staging, staging_needs(size)))
    check_room(rooms)
    return BackupSpec(
        backup_id=new_backup_id(),
        donor=choice.node,
        donor_reasons=choice.rejected,
        label=label,
        backup_bytes=size,
        verify=verify,
    )


def _find(app: App, name: str) -> StoredBackup:
    backups = app.site.shelf.store.list()
    resolved = resolve(backups, name)
    return next(backup for backup in backups if backup.id == resolved)


def _kept(backup: StoredBackup) -> str:
    if backup.mark is None or not backup.mark.holds(datetime.now(UTC)):
        return "-"
    return str(backup.mark.until or "yes")


def _verified(backup: StoredBackup) -> str:
    if backup.verification is None:
        return "-"
    return f"{backup.verification.when:%Y-%m-%d %H:%M}" if backup.verified else "BAD"
