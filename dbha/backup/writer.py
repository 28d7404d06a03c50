"""Who writes a backup into a store elsewhere: told by a note beside it, since nobody can hold a lock there.

On the machine that wrote the note the process is looked up, so a dead one holds nothing. From anywhere else only
the age of the note tells, which the store itself says: the clocks of two controllers are never compared.
"""

import os
from pathlib import Path
from typing import Literal

from pydantic import Field

from dbha.backup.manifest import Record
from dbha.host import boot_id

REFRESH_S = 30.0
SILENT_S = 600.0  # a note that old is nobody's; one part over a slow line, with all its retries, takes less


class Writer(Record):
    """A process that writes a backup; `kernel` names the booted machine and the process namespace."""

    schema_version: Literal[1] = Field(default=1, alias="schema")
    kernel: str
    process: int
    started: int  # in ticks since the machine was booted; tells a process from a later one with its number


def this_process() -> Writer:
    """Return the process that asks."""
    started = started_at(os.getpid())
    assert started is not None
    return Writer(kernel=this_kernel(), process=os.getpid(), started=started)


def this_kernel() -> str:
    """Return the identity of this boot of this machine, and of the process namespace in it."""
    return f"{boot_id()} {Path('/proc/self/ns/pid').readlink()}"


def started_at(process: int) -> int | None:
    """Return when a process of this machine was started, in ticks; None when it does not run."""
    try:
        status = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, *fields = status.rpartition(")")[2].split()
    return None if state in "ZX" else int(fields[18])  # proc(5), field 22


def is_at_work(writer: Writer | None, *, kernel: str, started: int | None, age_s: float) -> bool:
    """Return whether the writer of a note still writes, as far as can be told from this `kernel`.

    `started` is when the process with the writer's number was started here, `age_s` the age of the note. A note that
    cannot be read (`writer` None) is judged by its age.
    """
    if writer is not None and writer.kernel == kernel:
        return writer.started == started
    return age_s < SILENT_S
