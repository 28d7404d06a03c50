"""A service's native tools, started and kept at hand: a command then costs what it does, not what its imports do.

A started tool knows no password and has nothing to do until a command with its configuration is sent to it.
"""

import contextlib
import json
import secrets
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from dbha.errors import DbhaError, UnreachableError
from dbha.releases.configuration import ToolConfiguration
from dbha.releases.runner import WITHOUT_CURRENT_DIRECTORY, NativeResult, Runner
from dbha.releases.streaming import END_TIMEOUT_S, TAIL_LINES, OnLine, lines, silent
from dbha.services import NativeCommand, failed
from dbha.transport import RunningCommand, deadline

_SCRIPT = Path(__file__).with_name("tool_script.py")
_NOT_FOUND = 127


class Tools:
    """The tools in one runner's place. May be used by several threads; commands of one tool take turns."""

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self._tools: dict[str, _Tool] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def warm_up(self, names: Iterable[str]) -> None:
        """Start tools that will be needed. What is wrong with one shows when it is used."""
        for name in names:
            with contextlib.suppress(DbhaError):
                self._tool(name).start()

    def run(
        self,
        command: NativeCommand,
        configuration: ToolConfiguration,
        *,
        timeout_s: float,
        on_line: OnLine = silent,
    ) -> NativeResult:
        """Run a native command and return what its exit code means; `on_line` gets its output as it comes.

        Raises UnreachableError, nothing having been changed, when the place or the tool is not there. A command that
        runs longer than `timeout_s` is ended and has failed; behind a prefix it may live on, so lock its account and
        end its connections before doing anything else.
        """
        redact = configuration.redact
        ended = self._tool(command.tool).run(
            command.argv[1:], configuration, timeout_s, lambda line: on_line(redact(line))
        )
        if ended.returncode is None or ended.returncode == _NOT_FOUND:
            reason = ended.tail[-1] if ended.tail else f"exit status {ended.returncode}"
            raise UnreachableError(
                f"{command.tool} cannot be run in {self.runner.name}: {reason}", hint=self.runner.hint
            )
        meaning = command.meaning_of(ended.returncode)
        if ended.timed_out:
            meaning = failed(f"it still ran after {timeout_s:g} s and was ended: it may be half done")
        tail = tuple(redact(line) for line in ended.tail)
        argv = (*self.runner.prefix, self.runner.path_of(command.tool), *command.argv[1:])
        return NativeResult(argv, ended.returncode, meaning, tail, ended.seconds)

    def close(self) -> None:
        """End every tool; a later use starts it again."""
        with self._lock:
            for tool in self._tools.values():
                tool.stop()

    def _tool(self, name: str) -> "_Tool":
        with self._lock:
            return self._tools.setdefault(name, _Tool(self.runner, name))


@dataclass(frozen=True, slots=True)
class _Ended:
    """How a command ended; without a return code it was never begun."""

    returncode: int | None
    tail: tuple[str, ...]
    seconds: float
    timed_out: bool


class _Tool:
    """One tool that waits for its next command."""

    def __init__(self, runner: Runner, name: str) -> None:
        self._runner, self._name = runner, name
        self._marker = f"dbha-{secrets.token_hex(8)}"  # that no output of a tool has
        self._running: RunningCommand | None = None
        self._lines: Iterator[str] = iter(())
        self._turn = threading.Lock()

    def start(self) -> None:
        with self._turn:
            self._started()

    def stop(self) -> None:
        with self._turn:
            self._gone()

    def run(
        self, arguments: tuple[str, ...], configuration: ToolConfiguration, timeout_s: float, on_line: OnLine
    ) -> _Ended:
        content = configuration.text.reveal().encode()
        request = json.dumps({"arguments": arguments, "stdin_bytes": len(content)}).encode() + b"\n" + content
        with self._turn:
            was_waiting = self._running is not None
            ended = self._run(request, timeout_s, on_line)
            if ended.returncode is None and was_waiting:  # somebody ended it while it waited
                ended = self._run(request, timeout_s, on_line)
            return ended

    def _run(self, request: bytes, timeout_s: float, on_line: OnLine) -> _Ended:
        running = self._started()
        tail = deque[str](maxlen=TAIL_LINES)
        began = False
        started_s = time.monotonic()
        with deadline(running, timeout_s) as timed_out:
            with contextlib.suppress(BrokenPipeError):  # its last words say why
                running.write(request)
            for line in _without_blank_before(f"{self._marker} ended", self._lines):
                if line == f"{self._marker} began":
                    began = True
                elif line.startswith(f"{self._marker} ended "):
                    status = int(line.rpartition(" ")[2])
                    return _Ended(status, tuple(tail), time.monotonic() - started_s, timed_out.is_set())
                else:
                    tail.append(line)
                    on_line(line)
        status = running.wait(timeout_s=END_TIMEOUT_S)
        tail.extend(running.stderr_tail().decode(errors="replace").splitlines())
        self._gone()
        seconds = time.monotonic() - started_s
        if not began:
            return _Ended(None, tuple(tail) or (f"exit status {status}",), seconds, timed_out.is_set())
        return _Ended(status, tuple(tail), seconds, timed_out.is_set())

    def _started(self) -> RunningCommand:
        if self._running is None:
            runner = self._runner
            script = WITHOUT_CURRENT_DIRECTORY + _SCRIPT.read_text()
            launch = (runner.path_of("python3"), "-c", script, self._marker, runner.path_of(self._name))
            self._running = runner.transport.open((*runner.prefix, *launch))
            self._lines = lines(self._running)
        return self._running

    def _gone(self) -> None:
        if self._running is not None:
            running, self._running = self._running, None
            with running:  # which ends it, if it still runs
                pass


def _without_blank_before(start: str, said: Iterator[str]) -> Iterator[str]:
    """Yield the lines but for the empty one that keeps a line with this start apart from what was said before."""
    is_blank_held = False
    for line in said:
        if is_blank_held and not line.startswith(start):
            yield ""
        is_blank_held = not line
        if line:
            yield line
