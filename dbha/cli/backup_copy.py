"""`dbha backup copy`: the same backup in another store."""

import time

import click

from dbha.backup.copy import copy_backup, needs_copy
from dbha.backup.estimate import check_room, room_in
from dbha.backup.store import Status, resolve
from dbha.cli.app import App
from dbha.cli.options import json_option
from dbha.console import in_bytes, in_seconds
from dbha.errors import UnsafeError, UsageError


@click.command("copy")
@click.argument("backup_id", metavar="ID")
@click.option("--to", "target_name", required=True, metavar="NAME", help="The store to copy to.")
@click.option(
    "--from",
    "source_name",
    default="",
    metavar="NAME",
    help="The store to copy from, instead of `backup.store`.",
)
@json_option
@click.pass_obj
def copy(app: App, backup_id: str, target_name: str, source_name: str, as_json: bool) -> None:
    """Copy a backup to another store, unchanged; `latest` is the newest complete one.

    Every byte is proven on its way. A copy that was cut off goes on where it was, and one that is there already is
    left alone. It may run while others work with the cluster.
    """
    source_name = source_name or app.configuration.backup.store
    if source_name == target_name:
        raise UsageError(f"the backup is in `{target_name}` already: --from and --to are the same store")
    source, target = app.site.store_of(source_name), app.site.store_of(target_name)
    backups = source.list()
    resolved = resolve(backups, backup_id)
    backup = next(each for each in backups if each.id == resolved)
    if backup.manifest is None or backup.status is not Status.COMPLETE:
        raise UnsafeError(
            f"backup {resolved} is {backup.status}: {backup.reason}",
            hint=f"dbha backup list --store {source_name}",
        )
    there = next((each for each in target.list() if each.id == resolved), None)
    began_s, needed = time.monotonic(), needs_copy(backup.manifest, there, target.where)
    if needed:
        left_bytes = backup.stored_bytes - (there.stored_bytes if there else 0)
        check_room(room_in(target, max(0, left_bytes)))
        with app.console.amount(f"copying {resolved} to {target_name}", backup.stored_bytes) as on_bytes:
            copy_backup(source, target, backup.manifest, on_bytes)
    seconds = time.monotonic() - began_s
    if as_json:
        app.console.json(
            {"backup": resolved, "from": source_name, "to": target_name, "copied": needed,
             "stored_bytes": backup.stored_bytes, "seconds": round(seconds, 3)}
        )  # fmt: skip
        return
    size = in_bytes(backup.stored_bytes)
    done = f"{resolved}  {size}  copied to {target_name} in {in_seconds(seconds)}"
    app.console.line(done if needed else f"{resolved}  {size}  is in {target_name} already")
