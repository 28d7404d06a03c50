"""What the kernel of a host says and does for its processes. Sent to hosts as well, so it imports nothing of dbha.

Python 3.8 is enough.
"""

from __future__ import annotations

import shutil
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def boot_id() -> str:
    """Return what tells one life of this host from the next."""
    return _BOOT_ID.read_text(encoding="ascii").strip()


def taken_along() -> list[str]:
    """Return what goes before a command so that the kernel ends it with the thread that started it.

    See prctl(2), PR_SET_PDEATHSIG. Empty where the host has no `setpriv`.
    """
    return ["setpriv", "--pdeathsig", "KILL", "--"] if shutil.which("setpriv") else []
