"""`dbha backup keep | prune`: which backups stay, and deleting those that may go."""

from contextlib import AbstractContextManager
from datetime import UTC, date, datetime

import click

from dbha.backup.keep import KeepMark
from dbha.backup.pruning import Pruning, retention_of
from dbha.backup.retention import Decision
from dbha.backup.store import Status, StoredBackup, resolve
from dbha.cli.app import App
from dbha.cli.options import at_a_terminal, confirm, json_option, store_option, yes_option
from dbha.cluster.control import Controller
from dbha.cluster.lock import ControllerLock
from dbha.config.model import RetentionPolicy
from dbha.console import in_bytes
from dbha.errors import UnsafeError, UsageError

WORKFLOW = "backup prune"
_TO_KEEP = (Status.COMPLETE, Status.ORPHANED, Status.BAD, Status.DAMAGED)


@click.command("keep")
@click.argument("backup_id", metavar="ID")
@click.option(
    "--until", type=click.DateTime(["%Y-%m-%d"]), metavar="DATE", help="Only to the end of this day, UTC."
)
@click.option("--note", default="", help="Why; it is shown with the backup.")
@click.option("--clear", is_flag=True, help="Take the mark away again.")
@store_option
@json_option
@click.pass_obj
def keep(
    app: App, backup_id: str, until: datetime | None, note: str, clear: bool, store: str, as_json: bool
) -> None:
    """Mark a backup, so that neither `dbha backup prune` nor `dbha backup delete` removes it."""
    if clear and until:
        raise UsageError("--until is about keeping, and --clear is its end")
    if until and until.date() < datetime.now(UTC).date():
        raise UsageError(f"{until:%Y-%m-%d} is in the past")
    kept_in = app.site.store_of(store)
    with marks_of(app):
        backups = kept_in.list()
        resolved = resolve(backups, backup_id, kept_in.where)
        _refuse_unless_whole(next(backup for backup in backups if backup.id == resolved))
        mark = _mark(resolved, until.date() if until else None, note, kept=not clear)
        kept_in.record_mark(mark)
    if as_json:
        app.console.json({"backup": resolved, "mark": mark.model_dump(mode="json", by_alias=True)})
        return
    app.console.line(f"{resolved} is {'no longer kept' if clear else mark}")


@click.command("prune")
@click.option(
    "--dry-run/--no-dry-run",
    default=None,
    help="Only say what would be deleted; so it is on a terminal unless you say --no-dry-run.",
)
@click.option("--bad", is_flag=True, help="Also delete bad and damaged ones.")
@store_option
@yes_option
@json_option
@click.pass_obj
def prune(app: App, dry_run: bool | None, bad: bool, store: str, yes: bool, as_json: bool) -> int:
    """Delete the backups that no rule of `backup.retention` wants, and what cut off ones left.

    Says of every backup whether it stays, and why. The last verified one stays always.
    """
    policy = policy_of(app)
    if at_a_terminal() if dry_run is None else dry_run:
        pruning = Pruning(app.site.store_of(store), policy, app.journal.unfinished, also_spoilt=bad)
        _show(app, pruning, as_json=as_json, dry_run=True, gone=())
        return 0
    with app.controller(with_cluster=False) as controller, controller.holding(WORKFLOW):
        pruning = Pruning(app.site.store_of(store), policy, app.journal.unfinished, also_spoilt=bad)
        if not as_json:
            _show(app, pruning, as_json=False, dry_run=False, gone=())
        if pruning.deletions:
            confirm(app.console, f"{len(pruning.deletions)} backup(s) are deleted", yes=yes)
        gone = carry_out(app, controller, pruning)
    if as_json:
        _show(app, pruning, as_json=True, dry_run=False, gone=gone)
    return controller.stop.exit_code or 0


def policy_of(app: App) -> RetentionPolicy:
    """Return the rules of retention. Raises ConfigurationError when none are configured."""
    return retention_of(app.configuration.backup, str(app.configuration_path))


def carry_out(app: App, controller: Controller, pruning: Pruning) -> tuple[Decision, ...]:
    """Delete what may go, telling of each, and return what is gone; a signal stops it after the one in hand."""
    gone: list[Decision] = []
    for decision in pruning.delete(lambda: marks_of(app), lambda: controller.stop.exit_code is not None):
        gone.append(decision)
        app.console.say(f"{decision.id} is deleted: {decision.reason}")
    if gone:
        freed = in_bytes(sum(pruning.stored_bytes[decision.id] for decision in gone))
        app.console.say(f"{len(gone)} deleted, {freed} freed")
    return tuple(gone)


def marks_of(app: App) -> AbstractContextManager[object]:
    """Return the lock under which a mark is set, or looked at before its backup is deleted.

    It is not the controller's own: an operator must be able to keep a backup while a run goes on, or is cut off.
    """
    path = app.lock_path.with_name(f"{app.configuration.cluster}.marks.lock")
    return ControllerLock.acquire(path, workflow="keeping and deleting backups")


def _mark(backup_id: str, until: date | None, note: str, *, kept: bool) -> KeepMark:
    return KeepMark(backup=backup_id, kept=kept, until=until, note=note, when=datetime.now(UTC))


def _refuse_unless_whole(backup: StoredBackup) -> None:
    if backup.status not in _TO_KEEP:
        raise UnsafeError(
            f"backup {backup.id} is {backup.status}: there is nothing to keep", hint="dbha backup list"
        )


def _show(app: App, pruning: Pruning, *, as_json: bool, dry_run: bool, gone: tuple[Decision, ...]) -> None:
    if as_json:
        decisions = [
            {
                "id": each.id,
                "status": each.status.value,
                "decision": "keep" if each.keep else "delete",
                "reason": each.reason,
                "stored_bytes": pruning.stored_bytes[each.id],
            }
            for each in pruning.decisions
        ]
        deleted = [each.id for each in gone]
        app.console.json({"dry_run": dry_run, "backups": decisions, "deleted": deleted})
        return
    app.console.table(
        ("BACKUP", "STATUS", "STORED", "DECISION", "REASON"),
        [
            (
                each.id, each.status.value, in_bytes(pruning.stored_bytes[each.id]),
                "keep" if each.keep else "delete", each.reason,
            )
            for each in pruning.decisions
        ],
    )  # fmt: skip
    if not pruning.deletions:
        app.console.say("there is nothing to delete")
    elif dry_run:
        app.console.say("nothing was deleted     dbha backup prune --no-dry-run     deletes them")
