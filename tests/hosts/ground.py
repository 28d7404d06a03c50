"""What the lab needs of this machine: commands that end, who owns a lab, and why it cannot run here."""

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

TOOLS = ("debootstrap", "systemd-nspawn", "ip", "nsenter", "setpriv", "ssh-keygen", "mount", "umount")
COMMAND_TIMEOUT_S = 60.0
_PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"


class NoLabError(Exception):
    """The lab cannot run on this machine; the message is the reason, and no fault of what is tested."""


def run(*argv: str, timeout_s: float = COMMAND_TIMEOUT_S, stdin: bytes = b"") -> bytes:
    """Run a command to its end and return what it printed. Raises NoLabError with its last words."""
    environment = {**os.environ, "PATH": _PATH, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(
            argv, input=stdin, capture_output=True, check=False, timeout=timeout_s, env=environment
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoLabError(f"{argv[0]}: {error}") from error
    if done.returncode != 0:
        words = (done.stderr.strip() or done.stdout.strip()).decode(errors="replace")
        raise NoLabError(f"`{' '.join(argv[:4])}` ended with {done.returncode}: {words[-400:]}")
    return done.stdout


def tried(*argv: str) -> bool:
    """Return whether a command could be run and succeeded; for clearing up, where nothing may be there."""
    with contextlib.suppress(NoLabError):
        run(*argv)
        return True
    return False


@dataclass(frozen=True)
class Owner:
    """A process, told from one that got its id later by the time it started."""

    pid: int
    started: int

    @classmethod
    def here(cls) -> "Owner":
        """Return this process."""
        return cls(os.getpid(), start_time(os.getpid()) or 0)

    @property
    def is_alive(self) -> bool:
        """Whether the process still is the one that it was."""
        return start_time(self.pid) == self.started


def start_time(pid: int) -> int | None:
    """Return when a process started, in ticks since boot; None when there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return int(text.rpartition(")")[2].split()[19])


def require_ground() -> None:
    """Raise NoLabError with the reason why containers cannot be made here; tries each thing for real."""
    if os.geteuid() != 0:
        raise NoLabError("hosts need root: network namespaces and mounts")
    if missing := [tool for tool in TOOLS if shutil.which(tool, path=_PATH) is None]:
        raise NoLabError(f"not installed: {', '.join(missing)}; `make setup` installs them")
    _try_overlay()
    _try_bridge()


def _try_overlay() -> None:
    place = Path(tempfile.mkdtemp(prefix="dbha-lab-probe-"))
    disk, root = place / "disk", place / "root"
    disk.mkdir()
    root.mkdir()
    try:
        run("mount", "-t", "tmpfs", "-o", "size=1M", "dbha-lab", str(disk))
        for name in ("lower", "upper", "work"):
            (disk / name).mkdir()
        layers = f"lowerdir={disk}/lower,upperdir={disk}/upper,workdir={disk}/work"
        run("mount", "-t", "overlay", "-o", layers, "dbha-lab", str(root))
        (root / "written").write_text("x")
    except (NoLabError, OSError) as error:
        raise NoLabError(f"overlays cannot be mounted here: {error}") from error
    finally:
        for mounted in (root, disk):
            tried("umount", str(mounted))
        with contextlib.suppress(OSError):
            for directory in (root, disk, place):
                directory.rmdir()


def _try_bridge() -> None:
    name = f"dbhap{os.getpid() % 1_000_000}"
    try:
        run("ip", "link", "add", name, "type", "bridge")
    except NoLabError as error:
        raise NoLabError(f"network bridges cannot be made here: {error}") from error
    finally:
        tried("ip", "link", "del", name)


def processes_with(word: str) -> list[int]:
    """Return the processes that have this very word in their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                words: Sequence[bytes] = (entry / "cmdline").read_bytes().split(b"\0")
                if word.encode() in words:
                    found.append(int(entry.name))
    return found


def children_of(pid: int) -> list[int]:
    """Return the processes that a process started and that still are."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += [int(word) for word in task.read_text().split()]
    return found
