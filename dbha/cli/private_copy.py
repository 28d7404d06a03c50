"""`dbha restore ID --restore-to DIR | --forget-dir DIR | --list-dirs`, and the way into a copy for `dbha sql`."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from dbha.backup.estimate import check_room, local_room, staging_needs
from dbha.backup.private_copy import PrivateCopies, PrivateCopy, serve
from dbha.backup.private_server import SOCKET
from dbha.backup.store import resolve
from dbha.cli.app import App
from dbha.cli.options import confirm
from dbha.errors import FoundWrongError, UnsafeError


def copies_of(app: App) -> PrivateCopies:
    """Return the private copies that this controller made."""
    return PrivateCopies(app.configuration.state / "restored")


def restore_to(app: App, backup_id: str, directory: Path, store_name: str, *, as_json: bool) -> None:
    """Make a private server from a backup; the cluster is not asked, and not touched."""
    shelf = app.site.shelf_of(store_name)
    resolved = resolve(shelf.store.list(), backup_id)
    manifest = shelf.store.manifest(resolved)
    nearest = next(path for path in (directory.absolute(), *directory.absolute().parents) if path.exists())
    check_room([local_room("the directory", nearest, staging_needs(manifest.data_bytes))])
    with app.console.task(f"prepare {resolved} in {directory}") as task:

        def prepare(place: Path) -> Path:
            try:
                return replace(shelf, staging=place).prepared(resolved, task.measure)
            except FoundWrongError as error:
                raise UnsafeError(str(error), hint=error.hint) from error

        copy = copies_of(app).make(directory, resolved, _taken(app), prepare)
    if as_json:
        app.console.json(copy_as_json(copy))
        return
    app.console.line(f"a private server with backup {resolved} runs in {copy.directory} (process {copy.pid})")
    app.console.line(f"look around:   dbha sql --restored {copy.directory}")
    app.console.line(f"remove it:     dbha restore --forget-dir {copy.directory}")


def forget_directory(app: App, name: str, *, yes: bool) -> None:
    """Stop the private server and remove its directory."""
    copies = copies_of(app)
    copy = copies.find(name)
    confirm(
        app.console, f"the private copy of backup {copy.backup_id} in {copy.directory} is removed", yes=yes
    )
    ran = copies.forget(copy)
    what = "its server is stopped, and" if ran else "no server ran on it;"
    app.console.line(f"{what} the copy of backup {copy.backup_id} in {copy.directory} is removed")
    if copy.directory.exists():
        app.console.line(f"{copy.directory} itself stays: there are other files in it")


def list_directories(app: App, *, as_json: bool) -> None:
    """List the private copies, oldest first."""
    copies = copies_of(app).list()
    if as_json:
        app.console.json([copy_as_json(copy) for copy in copies])
        return
    app.console.table(
        ("DIRECTORY", "BACKUP", "SERVER", "MADE"),
        [
            (str(copy.directory), copy.backup_id, in_words(copy), f"{copy.created:%Y-%m-%d %H:%M}")
            for copy in copies
        ],
    )


def in_words(copy: PrivateCopy) -> str:
    """Return how a copy is: its server's process, or why there is none."""
    if (pid := copy.pid) is not None:
        return f"process {pid}"
    return "stopped" if copy.ready else "not made to its end"


def copy_as_json(copy: PrivateCopy) -> dict[str, Any]:
    """Return a copy in the shape of the `--json` contract."""
    return {
        "directory": str(copy.directory),
        "backup": copy.backup_id,
        "created": copy.created.isoformat(),
        "ready": copy.ready,
        "pid": copy.pid,
    }


def client_of(app: App, name: str) -> tuple[str, ...]:
    """Return the options that lead the client to a copy, whose server is started if it does not run.

    The path of a socket may have 107 bytes, so it goes by an open directory, which the client inherits.
    """
    copy = copies_of(app).find(name)
    if not copy.ready:
        raise UnsafeError(
            f"the private copy in {copy.directory} was not made to its end",
            hint=f"dbha restore {copy.backup_id} --restore-to {copy.directory}",
        )
    serve(copy)
    descriptor = os.open(copy.datadir, os.O_RDONLY | os.O_DIRECTORY)
    os.set_inheritable(descriptor, True)
    return ("--no-defaults", f"--socket=/proc/self/fd/{descriptor}/{SOCKET}", "--user=root")


def _taken(app: App) -> list[Path]:
    """Return the directories in which a copy must not be: those of servers and of backups."""
    stores = [app.site.store_of(name).directory for name in app.configuration.backup.stores]
    nodes = [Path(node.datadir) for node in app.site.cluster.nodes]
    return [*nodes, *(store for store in stores if store is not None)]
