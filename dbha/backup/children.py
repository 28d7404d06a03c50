"""Tools on this machine that neither hear the terminal's interrupt nor outlive dbha.

Ctrl-C goes to the whole foreground group, and dbha finishes its step before it stops: so the tools of that step are
in a session of their own. A dbha that is killed takes them along (prctl(2), PR_SET_PDEATHSIG), for whoever takes
its run up must not meet them at work.
"""

import subprocess
from collections.abc import Sequence
from typing import Any

from dbha.host import taken_along


def start(argv: Sequence[str], **options: Any) -> "subprocess.Popen[bytes]":
    """Start a tool; `options` are those of subprocess.Popen. The calling thread has to wait for its end."""
    return subprocess.Popen((*taken_along(), *argv), start_new_session=True, **options)
