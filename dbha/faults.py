"""Named points at which a test may end this process, to prove that a run survives it.

`DBHA_FAULT=POINT` ends the process with SIGKILL when POINT is reached for the first time, `POINT#3` the third
time. `DBHA_FAULT_TRACE=FILE` appends to FILE the name of every point that is reached. Without the variables a
point costs two dictionary look-ups.
"""

import os
import signal
import threading
from collections import Counter
from pathlib import Path

_seen: Counter[str] = Counter()
_lock = threading.Lock()


def reach(point: str) -> None:
    """Say that `point` was reached; does not return if this is where the process is to die."""
    if trace := os.environ.get("DBHA_FAULT_TRACE"):
        with _lock, Path(trace).open("a", encoding="utf-8") as file:
            file.write(f"{point}\n")
    wanted = os.environ.get("DBHA_FAULT")
    if not wanted:
        return
    name, _, count = wanted.partition("#")
    if name != point:
        return
    with _lock:
        _seen[point] += 1
        if _seen[point] == int(count or 1):
            os.kill(os.getpid(), signal.SIGKILL)
