"""Take a sandbox down: no process and no file of it stays."""

import contextlib
import shutil
from pathlib import Path

from dbha.sandbox.layout import Layout, read_sandbox
from dbha.sandbox.processes import stop_sandbox
from dbha.sandbox.up import locked


def down(directory: Path) -> int:
    """End every process of the sandbox in `directory`, remove it with its data, and return how many ran.

    Raises UnsafeError, having touched nothing, when the directory is not a sandbox.
    """
    sandbox = read_sandbox(directory)
    with locked(directory):
        ended = stop_sandbox(sandbox)
        _remove(sandbox.layout)
        shutil.rmtree(sandbox.sockets, ignore_errors=True)
    if sandbox.layout.directory.parent.name == ".dbha":
        with contextlib.suppress(OSError):  # it holds something else
            sandbox.layout.directory.parent.rmdir()
    return ended


def _remove(layout: Layout) -> None:
    """Remove everything, and last what makes the directory a sandbox: an interrupted `down` can be repeated."""
    last = (layout.inventory, layout.lock)
    for entry in layout.directory.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry not in last:
            entry.unlink()
    shutil.rmtree(layout.directory)
