"""Tools on this machine that neither hear the terminal's interrupt nor outlive dbha.

Ctrl-C goes to the whole foreground group, and dbha finishes its step before it stops: so the tools of that step are
in a session of their own. A dbha that is killed takes them along (prctl(2), PR_SET_PDEATHSIG), for whoever takes
its run up must not meet them at work.
"""

import shutil
import subprocess
from collections.abc import Sequence
from functools import cache
from typing import Any


def start(argv: Sequence[str], **options: Any) -> "subprocess.Popen[bytes]":
    """Start a tool; `options` are those of subprocess.Popen. The calling thread has to wait for its end."""
    return subprocess.Popen((*_taken_along(), *argv), start_new_session=True, **options)


@cache
def _taken_along() -> tuple[str, ...]:
    """Return what goes before a command so that the kernel ends it with the thread that started it."""
    return ("setpriv", "--pdeathsig", "KILL", "--") if shutil.which("setpriv") else ()
