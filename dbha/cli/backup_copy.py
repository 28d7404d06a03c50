"""`dbha backup copy`: the same backup in another store."""

import time
from dataclasses import dataclass

import click

from dbha.backup.chains import chain_of
from dbha.backup.copy import copy_backup, needs_copy
from dbha.backup.estimate import check_room, room_in
from dbha.backup.manifest import Manifest
from dbha.backup.store import Status, Store, resolve
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
    """Copy a backup to another store, unchanged; `latest` is the newest complete one of the whole cluster.

    What it is based on is copied first. Every byte is proven on its way. A copy that was cut off goes on where it
    was, and one that is there already is left alone. It may run while others work with the cluster.
    """
    source_name = source_name or app.configuration.backup.store
    if source_name == target_name:
        raise UsageError(f"the backup is in `{target_name}` already: --from and --to are the same store")
    source, target = app.site.store_of(source_name), app.site.store_of(target_name)
    backups = source.list()
    resolved = resolve(backups, backup_id, source.where)
    backup = next(each for each in backups if each.id == resolved)
    if backup.manifest is None or backup.status is not Status.COMPLETE:
        raise UnsafeError(
            f"backup {resolved} is {backup.status}: {backup.reason}",
            hint=f"dbha backup list --store {source_name}",
        )
    chain = chain_of(backup.manifest, source.manifest)
    copied = [_copy_one(app, source, target, manifest, target_name) for manifest in chain]
    if as_json:
        *bases, own = (
            {
                "backup": each.id,
                "copied": each.needed,
                "stored_bytes": each.stored_bytes,
                "seconds": each.seconds,
            }
            for each in copied
        )
        app.console.json({**own, "from": source_name, "to": target_name, "bases": bases})
        return
    for each in copied:
        size = in_bytes(each.stored_bytes)
        done = f"{each.id}  {size}  copied to {target_name} in {in_seconds(each.seconds)}"
        app.console.line(done if each.needed else f"{each.id}  {size}  is in {target_name} already")


@dataclass(frozen=True, slots=True)
class _Copied:
    """A backup that is in the target store now; `needed` when it was not there before."""

    id: str
    needed: bool
    stored_bytes: int
    seconds: float


def _copy_one(app: App, source: Store, target: Store, manifest: Manifest, target_name: str) -> _Copied:
    stored_bytes, began_s = manifest.stream.stored_bytes, time.monotonic()
    there = next((each for each in target.list() if each.id == manifest.id), None)
    needed = needs_copy(manifest, there, target.where)
    if needed:
        check_room(room_in(target, max(0, stored_bytes - (there.stored_bytes if there else 0))))
        with app.console.amount(f"copying {manifest.id} to {target_name}", stored_bytes) as on_bytes:
            copy_backup(source, target, manifest, on_bytes)
    return _Copied(manifest.id, needed, stored_bytes, round(time.monotonic() - began_s, 3))
