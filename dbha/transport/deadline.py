"""End a command that takes too long."""

import contextlib
import threading
from collections.abc import Iterator

from dbha.errors import DbhaError
from dbha.transport.base import RunningCommand


@contextlib.contextmanager
def deadline(running: RunningCommand, timeout_s: float) -> Iterator[threading.Event]:
    """End the command after so many seconds, and tell by the event that this was done."""
    timed_out = threading.Event()

    def end() -> None:
        timed_out.set()
        # A command that cannot be ended shows in the wait for it.
        with contextlib.suppress(DbhaError):
            running.kill()

    timer = threading.Timer(timeout_s, end)
    timer.daemon = True
    timer.start()
    try:
        yield timed_out
    finally:
        timer.cancel()
