"""`dbha` as a process: while it runs, and what it said."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dbha.database import Session
from tests.real.processes import PATIENCE_S, command_line, descendants, eventually, has_connection

DBHA = Path(sys.executable).with_name("dbha")


@dataclass(frozen=True)
class Said:
    """What a command said, and its exit code."""

    arguments: tuple[str, ...]
    code: int
    stdout: str
    stderr: str
    seconds: float

    @property
    def json(self) -> Any:
        """What it printed with `--json`."""
        return json.loads(self.stdout)

    def __str__(self) -> str:
        return f"dbha {' '.join(self.arguments)}: exit {self.code}\n{self.stdout}\n{self.stderr}"


class Started:
    """A command that runs; its output is read when it ended."""

    def __init__(
        self,
        session: Callable[[], AbstractContextManager[Session]],
        arguments: tuple[str, ...],
        process: "subprocess.Popen[str]",
    ) -> None:
        self._session = session
        self.arguments = arguments
        self.process = process
        self.tools: list[int] = []  # native tools that were frozen, and outlive a killed controller
        self._started = time.monotonic()

    def end(self, *, expect: int | None) -> Said:
        """Wait for the end and require the exit code."""
        stdout, stderr = self.process.communicate(timeout=PATIENCE_S)
        said = Said(self.arguments, self.process.returncode, stdout, stderr, time.monotonic() - self._started)
        assert expect is None or said.code == expect, f"expected exit {expect}\n{said}"
        return said

    def freeze(self, tool: str) -> int:
        """Stop the native tool of an upgrade in the middle of its work, and return its id.

        It would be through in no time, so a lock keeps it from its table; it is stopped while it waits for that.
        """
        eventually(lambda: self._forks(tool), f"{tool} was never started")
        with self._session() as session:
            session.execute(f"LOCK TABLES {tool.removesuffix('-manage')}.alembic_version WRITE")
            pid = eventually(lambda: self._connected(tool), f"{tool} was never seen at work")
            os.kill(pid, signal.SIGSTOP)
            session.execute("UNLOCK TABLES")
        self.tools.append(pid)
        return pid

    def kill(self) -> None:
        """Kill the controller as a crash would; what it started lives on."""
        self.process.kill()
        self.end(expect=-signal.SIGKILL)

    def kill_all(self) -> None:
        """Kill the controller, and the tools that were frozen."""
        if self.process.poll() is None:
            self.process.kill()
        for pid in self.tools:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _connected(self, tool: str) -> int | None:
        return next((pid for pid in self._forks(tool) or () if has_connection(pid)), None)

    def _forks(self, tool: str) -> list[int] | None:
        """Return the processes of a native tool: the one that waits for commands, and those that are one."""
        assert self.process.poll() is None, f"it ended before {tool} was seen: {self.end(expect=None)}"
        found = [
            pid
            for pid in descendants(self.process.pid)
            if command_line(pid).rstrip().endswith(f"/bin/{tool}")
        ]
        return found or None
