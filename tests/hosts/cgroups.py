"""A control group for each host: systemd counts its services by groups, and hosts in one group end each other's."""

import contextlib
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from tests.hosts.ground import NoLabError

_GONE_TIMEOUT_S = 20.0
_POLL_S = 0.05
# The hierarchies that systemd keeps its services in, in the mixed layout of old and new ones.
_SYSTEMD = "name=systemd"


@dataclass(frozen=True)
class ControlGroup:
    """A group in each hierarchy that systemd uses here; `entering` puts a command into it."""

    name: str

    def directories(self) -> tuple[Path, ...]:
        """Return the group's directories; they need not be there."""
        return tuple(parent / self.name for parent in _hierarchies())

    def make(self) -> None:
        """Make it, empty."""
        try:
            for directory in self.directories():
                directory.mkdir(exist_ok=True)
        except OSError as error:
            raise NoLabError(f"control groups cannot be made here: {error}") from error

    def entering(self, argv: list[str]) -> list[str]:
        """Return the command that enters the group and becomes `argv`."""
        files = [str(directory / "cgroup.procs") for directory in self.directories()]
        line = 'n=$1; shift; while [ "$n" -gt 0 ]; do echo $$ > "$1"; shift; n=$((n-1)); done; exec "$@"'
        return ["sh", "-ec", line, "sh", str(len(files)), *files, *argv]

    def kill(self) -> None:
        """Kill whatever is in it."""
        for top in self.directories():
            for listing in top.rglob("cgroup.procs"):
                with contextlib.suppress(OSError):
                    for word in listing.read_text().split():
                        os.kill(int(word), signal.SIGKILL)

    def remove(self) -> None:
        """Remove it with all that is in it."""
        deadline = time.monotonic() + _GONE_TIMEOUT_S
        while left := [top for top in self.directories() if top.exists()]:
            self.kill()
            for top in left:
                for path, _, _ in os.walk(top, topdown=False):
                    with contextlib.suppress(OSError):  # somebody in it has not quite ended
                        Path(path).rmdir()
            if time.monotonic() > deadline:
                raise NoLabError(f"control group {self.name} cannot be removed")
            time.sleep(_POLL_S)


def _hierarchies() -> list[Path]:
    """Return where the hierarchies that matter are mounted; whoever removes a lab finds its groups there again."""
    found = []
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, mounted, kind, options, *_ = line.split()
        if kind == "cgroup2" or (kind == "cgroup" and _SYSTEMD in options.split(",")):
            found.append(Path(mounted))
    if not found:
        raise NoLabError("there are no control groups here")
    return found
