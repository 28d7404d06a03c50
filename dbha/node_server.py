"""What programs on a node's host need to know of servers there. Sent along with them, so it imports nothing of dbha.

Python 3.8 is enough.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

_POLL_S = 0.02
_SHOWN = 3  # of what a server complained about: the first is the cause


def servers_on(datadir: str) -> Iterator[int]:
    """Yield the process ids of servers on a data directory, by what the kernel says: no file can be out of date."""
    wanted = os.fsencode(f"--datadir={datadir}")
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it is gone already, or another user's
            words = (place / "cmdline").read_bytes().split(b"\0")
            if os.path.basename(words[0]) == b"mariadbd" and wanted in words:  # noqa: PTH119 - these are bytes
                yield int(place.name)


def end_servers(datadir: str, deadline_s: float) -> bool:
    """Kill the servers on a data directory, which an attempt that was cut off left; False when one lives on."""
    end = time.monotonic() + deadline_s
    while found := list(servers_on(datadir)):
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > end:
            return False
        time.sleep(_POLL_S)
    return True


def hand_over(datadir: Path) -> None:
    """Give every file to who owns the directory, and make all of it durable."""
    owner = datadir.stat()
    for path in datadir.rglob("*"):
        if os.geteuid() == 0 and path.lstat().st_uid != owner.st_uid:
            os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)
    subprocess.run(["sync", "-f", str(datadir)], check=True)


def first_errors(log: Path) -> str:
    """Return the first errors in the log of a server, else its last lines; nothing where it left no log."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
    return " | ".join([line for line in lines if "[ERROR]" in line][:_SHOWN] or lines[-_SHOWN:])
