"""Run a command and hand its output on line by line while it runs."""

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from dbha.transport import RunningCommand, Transport, deadline

OnLine = Callable[[str], None]

TAIL_LINES = 60
END_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Streamed:
    """A command that ended; `tail` are its last lines, those of its own stderr at the end."""

    returncode: int
    tail: tuple[str, ...]
    seconds: float
    timed_out: bool


def silent(line: str) -> None:
    """Take a line and do nothing with it."""


def stream(
    transport: Transport, argv: Sequence[str], *, stdin: str = "", timeout_s: float, on_line: OnLine = silent
) -> Streamed:
    """Run a command to its end, or end it after `timeout_s`; `on_line` gets each line of stdout as it comes."""
    tail: deque[str] = deque(maxlen=TAIL_LINES)
    started_s = time.monotonic()
    with transport.open(argv) as running, deadline(running, timeout_s) as timed_out:
        # A command that ended at once has closed its stdin; its output and exit status say why.
        with contextlib.suppress(BrokenPipeError):
            running.write(stdin.encode())
            running.close_stdin()
        for line in lines(running):
            tail.append(line)
            on_line(line)
        returncode = running.wait(timeout_s=END_TIMEOUT_S)
        tail.extend(running.stderr_tail().decode(errors="replace").splitlines())
    return Streamed(returncode, tuple(tail), time.monotonic() - started_s, timed_out.is_set())


def lines(running: RunningCommand) -> Iterator[str]:
    """Yield the lines of a command's stdout as they come."""
    rest = b""
    while block := running.read(1 << 16):
        *whole, rest = (rest + block).split(b"\n")
        yield from (line.decode(errors="replace").rstrip("\r") for line in whole)
    if rest:
        yield rest.decode(errors="replace")
