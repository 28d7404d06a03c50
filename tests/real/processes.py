"""Looking at processes, and waiting for what they do."""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
PATIENCE_S = 240.0  # for one command, on a machine that does other things as well


def eventually(
    ask: Callable[[], T | None], complaint: str, *, within_s: float = PATIENCE_S, every_s: float = 0.02
) -> T:
    """Return the first answer that is not None."""
    deadline = time.monotonic() + within_s
    while (answer := ask()) is None:
        assert time.monotonic() < deadline, complaint
        time.sleep(every_s)
    return answer


def descendants(pid: int) -> list[int]:
    """Return the process ids below a process."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError, IndexError, ValueError):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    found, todo = [], [pid]
    while todo:
        below = children.get(todo.pop(), [])
        found += below
        todo += below
    return found


def command_line(pid: int) -> str:
    """Return the words of a process, empty for one that is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def has_connection(pid: int) -> bool:
    """Tell whether a process holds a socket; a tool opens its first one to the database."""
    with contextlib.suppress(OSError):
        return any(
            "socket:" in str(descriptor.readlink()) for descriptor in Path(f"/proc/{pid}/fd").iterdir()
        )
    return False
