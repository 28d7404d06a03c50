"""`dbha backup create | list | show | verify | delete`; what copies, keeps and checks is in modules of its own."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import click

from dbha.backup.binlog.windows import Restorable, restorable_as_json
from dbha.backup.chains import refuse_needed
from dbha.backup.estimate import (
    check_room,
    local_room,
    staging_needs,
)
from dbha.backup.keep import refuse_kept
from dbha.backup.levels import Level
from dbha.backup.plans import BackupSpec, backup_plan
from dbha.backup.prepare import chain_in, unpacked_bytes
from dbha.backup.pruning import Pruning
from dbha.backup.store import Store, StoredBackup, resolve
from dbha.backup.verify import verify as verify_backup
from dbha.cli import archive, backup_check, keeping
from dbha.cli.app import App
from dbha.cli.backup_copy import copy
from dbha.cli.incremental import Wanted
from dbha.cli.new_backup import decide
from dbha.cli.options import confirm, json_option, store_option, yes_option
from dbha.console import in_bytes
from dbha.errors import UnreachableError, UsageError
from dbha.health.status import backup_as_json
from dbha.journal import RunRecord
from dbha.workflow import Plan

WORKFLOW = "backup"
LEVEL = click.Choice([level.value for level in Level])
PROVEN = {
    Level.HASH: "every stored byte is as it was written",
    Level.PREPARE: "every byte was read, and it can be restored",
    Level.PAGES: "it can be restored, and every page has its checksum",
    Level.BOOT: "a server runs on it, and all of its tables are whole",
}


@click.group("backup")
def command() -> None:
    """Take, list, verify, keep and delete backups of the whole cluster."""


for verb in (copy, keeping.keep, keeping.prune, backup_check.command, archive.command):
    command.add_command(verb)


@command.command("create")
@click.option("--label", default="", help="A word to find it by.")
@click.option("--incremental", is_flag=True, help="Only what changed since the newest good full backup.")
@click.option("--base", default="", metavar="ID", help="Only what changed since this backup.")
@click.option(
    "--or-full/--no-or-full",
    default=None,
    help="Take a full one where no incremental one can be taken; so `backup.incremental.or_full` says, or not.",
)
@click.option(
    "--service",
    "services",
    multiple=True,
    metavar="NAME",
    help="Only the databases of this service; repeatable. Never enough to restore the whole cluster.",
)
@click.option(
    "--verify",
    type=LEVEL,
    is_flag=False,
    flag_value=Level.PREPARE.value,
    help=f"Prove that it can be restored; without a LEVEL: {Level.PREPARE}.",
)
@click.option("--prune", is_flag=True, help="Once it is complete, delete what `dbha backup prune` would.")
@store_option
@json_option
@click.pass_obj
def create(
    app: App,
    label: str,
    incremental: bool,
    base: str,
    or_full: bool | None,
    services: tuple[str, ...],
    verify: str | None,
    prune: bool,
    store: str,
    as_json: bool,
) -> None:
    """Take a backup from a synced node that is not the writer. Exits 6 when no good backup was made.

    An incremental one is read from the node that its base was read from. Exits 4 when that may not be read, or has
    other data since then, unless a full one may be taken instead.
    """
    policy = keeping.policy_of(app) if prune else None
    pruned: tuple[str, ...] = ()
    if services and (incremental or base):
        raise UsageError("an incremental backup is of the whole cluster: --service makes a full one")
    with app.controller() as controller, controller.holding(WORKFLOW) as holding:
        policy_says = app.configuration.backup.incremental.or_full
        wanted = Wanted(bool(incremental or base), base, policy_says if or_full is None else or_full)
        level = Level(verify) if verify else None
        spec = decide(app, label, wanted, services, verify=level, store_name=store)
        plan = backup_plan(spec, app.site.shelf_of(store))
        outcome = holding.start(WORKFLOW, spec.model_dump(mode="json"), plan, app.watch)
        if policy is not None:
            # Its own run counts as needing it: by a clock that went back, the newest may not look so.
            runs = [app.journal.run(outcome.run_id)]
            pruning = Pruning(app.site.store_of(store), policy, lambda: [*runs, *app.journal.unfinished()])
            pruned = tuple(decision.id for decision in keeping.carry_out(app, controller, pruning))
    backup = _find(app, spec.backup_id, store)
    if as_json:
        app.console.json(
            {"run": outcome.run_id, "backup": backup_as_json(backup), "pruned": pruned,
             "why_full": spec.why_full or None}
        )  # fmt: skip
        return
    verified = f"verified ({spec.verify})" if spec.verify else ""
    words = (backup.id, in_bytes(backup.stored_bytes), f"upon {spec.base}" if spec.base else "", verified)
    app.console.line("  ".join(word for word in words if word))


def plan_again(app: App, record: RunRecord) -> Plan:
    """Return the plan of a backup that is being taken up."""
    spec = BackupSpec.model_validate(record.arguments)
    return backup_plan(spec, app.site.shelf_of(spec.store))


@command.command("list")
@store_option
@click.option(
    "--all-stores", is_flag=True, help="The backups of every store; exits 5 when one does not answer."
)
@json_option
@click.pass_obj
def list_backups(app: App, store: str, all_stores: bool, as_json: bool) -> int:
    """List all backups, oldest first, also those that failed."""
    policy = app.configuration.backup
    names = tuple(policy.stores) if all_stores else (store or policy.store,)
    found, silent = _in_stores(app, names)
    reach = archive.reach_of(app.site.archive, [backup for _, backup in found])
    if as_json:
        app.console.json(
            [
                {**backup_as_json(backup), "store": name, **_window_as_json(backup, reach)}
                for name, backup in found
            ]
        )
        return silent
    show_why = any(backup.reason for _, backup in found)
    app.console.table(
        (*(("STORE",) if all_stores else ()), *_COLUMNS, *(("WHY",) if show_why else ())),
        [
            (
                *((name,) if all_stores else ()),
                *_row(backup, reach.get(backup.id)),
                *((backup.reason,) if show_why else ()),
            )
            for name, backup in found
        ],
    )
    return silent


def _in_stores(app: App, names: tuple[str, ...]) -> tuple[list[tuple[str, StoredBackup]], int]:
    """Return the backups of stores, oldest first, and the exit code: a silent one of several hides no other."""
    found: list[tuple[str, StoredBackup]] = []
    exit_code = 0
    for name in names:
        try:
            found += [(name, backup) for backup in app.site.store_of(name).list()]
        except UnreachableError as error:
            if len(names) == 1:
                raise
            app.console.say(f"error: {error}", style="bold red")
            exit_code = error.exit_code
    return sorted(found, key=lambda each: each[1].id), exit_code


_COLUMNS = ("BACKUP", "KIND", "STATUS", "VERIFIED", "STORED", "DATA", "SEQNO", "TO", "KEPT", "LABEL")


def _row(backup: StoredBackup, reach: Restorable | None) -> tuple[str, ...]:
    manifest = backup.manifest
    return (
        backup.id, _kind(backup), backup.status.value, in_verdict(backup), in_bytes(backup.stored_bytes),
        in_bytes(manifest.data_bytes) if manifest else "-", str(manifest.seqno) if manifest else "-",
        _until(reach), _kept(backup), manifest.label if manifest else "",
    )  # fmt: skip


@command.command("show")
@click.argument("backup_id", metavar="[ID]", default="latest")
@store_option
@json_option
@click.pass_obj
def show(app: App, backup_id: str, store: str, as_json: bool) -> None:
    """Show one backup; `latest` is the newest complete one of the whole cluster."""
    backup = _find(app, backup_id, store)
    window = _window_as_json(backup, archive.reach_of(app.site.archive, [backup]))
    accounts = backup.manifest.accounts if backup.manifest else None
    if as_json:
        names = {"accounts": accounts.names if accounts else None}
        app.console.json({**backup_as_json(backup), **window, **names})
        return
    shown = backup_as_json(backup)
    verdicts = shown.pop("verdicts")
    for name, value in shown.items():
        app.console.line(f"{name:>14}  {', '.join(value) if isinstance(value, list) else value}")
    for line in _window_lines(window["restorable"]):
        app.console.line(f"{'restorable':>14}  {line}")
    for verdict in verdicts:
        words = verdict["problem"] or verdict["note"]
        line = f"{verdict['when'][:16]} {verdict['outcome']} at {verdict['level']}"
        app.console.line(f"{'verdict':>14}  {line}{f': {words}' if words else ''}")
    if backup.manifest:
        for name, service in backup.manifest.services.items():
            heads = ", ".join(
                f"{database} {'/'.join(found) or 'empty'}" for database, found in service.heads.items()
            )
            app.console.line(f"{name:>14}  {service.release}: {heads}")
    if accounts:
        app.console.line(f"{'accounts':>14}  {', '.join(accounts.names)}")


@command.command("verify")
@click.argument("backup_id", metavar="[ID]", default="latest")
@click.option(
    "--level",
    type=LEVEL,
    default=Level.PREPARE.value,
    show_default=True,
    help="How much to prove; each includes the ones before it.",
)
@store_option
@json_option
@click.pass_obj
def verify(app: App, backup_id: str, level: str, store: str, as_json: bool) -> None:
    """Prove that a backup can be restored, and record the verdict. Exits 1 when it cannot.

    hash: read every stored byte. prepare: also unpack and prepare all of it. pages: also check every page. boot:
    also start a server on it, check every table, and compare tables, schema heads and rows.
    """
    shelf, wanted = app.site.shelf_of(store), Level(level)
    resolved = resolve(shelf.store.list(), backup_id, shelf.store.where)
    manifest = shelf.store.manifest(resolved)
    if wanted is not Level.HASH:
        chain = chain_in(shelf.store, resolved)
        for each in chain:
            shelf.identities.require(each)
        needed = staging_needs(manifest.data_bytes) + unpacked_bytes(chain[1:])
        check_room([local_room("the place to prepare it in", shelf.staging, needed)])
    with app.console.task(f"verify {resolved} ({wanted})") as task:
        found = verify_backup(
            shelf.store,
            resolved,
            shelf.staging,
            on_bytes=task.measure,
            on_count=task.count,
            keep=False,
            level=wanted,
            identities=shelf.identities,
        )
    if as_json:
        verification = found.model_dump(mode="json", exclude={"history"})
        app.console.json({"backup": resolved, "verification": verification})
        return
    note = f"; {found.note}" if found.note else ""
    app.console.line(f"{resolved} is good: {PROVEN[wanted]}{note}")


@command.command("delete")
@click.argument("backup_id", metavar="ID")
@store_option
@yes_option
@click.pass_obj
def delete(app: App, backup_id: str, store: str, yes: bool) -> None:
    """Delete a backup, or what a failed one left; never one that is marked, or that others are based on."""
    backups = app.site.store_of(store)
    resolved = resolve(backups.list(), backup_id, backups.where)
    _refuse_to_delete(backups, resolved)
    with app.controller() as controller, controller.holding("backup delete"):
        confirm(app.console, f"backup {resolved} is deleted from {backups.where}", yes=yes)
        with keeping.marks_of(app):
            _refuse_to_delete(backups, resolved)
            backups.delete(resolved)
    app.console.line(f"{resolved} is deleted")


def _refuse_to_delete(store: Store, backup_id: str) -> None:
    backups = store.list()
    mark = next((backup.mark for backup in backups if backup.id == backup_id), None)
    refuse_kept(backup_id, mark, datetime.now(UTC))
    refuse_needed(backups, backup_id)


def _find(app: App, name: str, store: str) -> StoredBackup:
    kept_in = app.site.store_of(store)
    backups = kept_in.list()
    resolved = resolve(backups, name, kept_in.where)
    return next(backup for backup in backups if backup.id == resolved)


def _kind(backup: StoredBackup) -> str:
    """Return `full`, or the backup that an incremental one is based on, and of which services if not of all."""
    if backup.manifest is None:
        return "-"
    kind = f"+{backup.manifest.base.id}" if backup.manifest.base else backup.manifest.kind
    return f"{kind} ({backup.manifest.part})" if backup.manifest.part else kind


def _until(reach: Restorable | None) -> str:
    """Return up to when logs bring a backup, by what they reach without a gap."""
    return f"{reach.time:%Y-%m-%d %H:%M:%S}Z" if reach and reach.time else "-"


def _window_as_json(backup: StoredBackup, reach: Mapping[str, Restorable]) -> dict[str, Any]:
    manifest = backup.manifest
    return {"restorable": restorable_as_json(reach.get(backup.id), manifest.finished) if manifest else None}


def _window_lines(window: dict[str, Any] | None) -> Iterator[str]:
    """Yield which points in time a backup can be brought to."""
    if window is None:
        return
    begin, until = window["from"], window["until"]
    yield f"from {begin['time']}, {begin['gtid'] or 'no GTID'}"
    yield f"to {until['time']}, {until['gtid']}" if until else "to no later point in time"
    if window["reason"]:
        yield window["reason"]


def _kept(backup: StoredBackup) -> str:
    if backup.lock is not None and backup.lock.holds(datetime.now(UTC)):
        return str(backup.lock).removesuffix(" UTC")
    if backup.mark is None or not backup.mark.holds(datetime.now(UTC)):
        return "-"
    return str(backup.mark.until or "yes")


def in_verdict(backup: StoredBackup) -> str:
    """Return the verdict on a backup for the list: `boot 2026-11-23 06:10`, with `BAD at` before a bad one."""
    known = backup.verification
    if known is None:
        return "-"
    return f"{'' if backup.verified else 'BAD at '}{known.level} {known.when:%Y-%m-%d %H:%M}"
