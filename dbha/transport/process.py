"""What both kinds of running command share: waits in short ticks, the stderr drain, and running to the end.

A pipe cannot be closed under a thread that waits on it, so every wait is a series of short ones, and `kill`
ends each of them within a tick. That holds even while a daemon the command left behind keeps a pipe open.
"""

import contextlib
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from types import TracebackType
from typing import Self

from dbha.transport.base import STDERR_TAIL_BYTES, CommandTimeoutError, Completed, TransportError

TICK_S = 0.5
STDERR_GRACE_S = 5.0
READ_BYTES = 1 << 20


class PolledCommand(ABC):
    """A running command over streams whose single operations raise TimeoutError after TICK_S."""

    def __init__(self, argv: tuple[str, ...], stderr_limit_bytes: int | None) -> None:
        self.argv = argv
        self._stderr = bytearray()
        self._stderr_limit_bytes = stderr_limit_bytes
        self._stderr_lock = threading.Lock()
        self._killed = threading.Event()
        self._waited = False
        self._drain = threading.Thread(target=self._drain_stderr, name=f"stderr of {argv[0]}", daemon=True)
        self._feeder: threading.Thread | None = None

    @abstractmethod
    def _receive(self, size: int) -> bytes:
        """Return some stdout, or b"" at its end."""

    @abstractmethod
    def _receive_stderr(self, size: int) -> bytes:
        """Return some stderr, or b"" at its end."""

    @abstractmethod
    def _send(self, data: memoryview) -> int:
        """Write some of `data` to stdin and return how many bytes."""

    @abstractmethod
    def _poll(self, timeout_s: float) -> int | None:
        """Return the exit status, or None when the command still runs after `timeout_s`."""

    @abstractmethod
    def _release(self) -> None:
        """Close the streams; no thread uses them any more."""

    @abstractmethod
    def close_stdin(self) -> None:
        """See RunningCommand."""

    @abstractmethod
    def kill(self) -> None:
        """See RunningCommand; sets `_killed`."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if not self._waited:
                self.kill()
        except TransportError:
            if kind is None:
                raise
        finally:
            self._killed.set()
            self._drain.join()
            if self._feeder is not None:
                self._feeder.join()
            self._release()

    def read(self, size: int = READ_BYTES) -> bytes:
        """See RunningCommand."""
        return self._read_from(self._receive, size)

    def write(self, data: bytes) -> None:
        """See RunningCommand."""
        rest = memoryview(data)
        while rest:
            if self._killed.is_set():
                raise BrokenPipeError(f"`{self.argv[0]}` was ended")
            with contextlib.suppress(TimeoutError):
                rest = rest[self._send(rest) :]

    def wait(self, *, timeout_s: float | None = None) -> int:
        """See RunningCommand."""
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        while (returncode := self._poll(TICK_S)) is None:
            if deadline_s is not None and time.monotonic() > deadline_s:
                self.kill()
                raise timeout_error(self.argv, timeout_s or 0.0)
        self._waited = True
        # A daemon that inherited stderr may hold it open for ever; its words are not this command's.
        self._drain.join(STDERR_GRACE_S)
        return returncode

    def feed(self, data: bytes) -> None:
        """Write all of `data` to stdin and close it, in the background."""
        self._feeder = threading.Thread(
            target=self._feed, args=(data,), name=f"stdin of {self.argv[0]}", daemon=True
        )
        self._feeder.start()

    def stderr_tail(self) -> bytes:
        """See RunningCommand."""
        return self.stderr()[-STDERR_TAIL_BYTES:]

    def stderr(self) -> bytes:
        """Return all of stderr that was kept."""
        with self._stderr_lock:
            return bytes(self._stderr)

    def _feed(self, data: bytes) -> None:
        # A command need not read what it is given, and the reader of stdout reports a lost connection.
        with contextlib.suppress(BrokenPipeError, TransportError):
            self.write(data)
            self.close_stdin()

    def _read_from(self, receive: Callable[[int], bytes], size: int) -> bytes:
        while not self._killed.is_set():
            with contextlib.suppress(TimeoutError):
                return receive(size)
        return b""

    def _drain_stderr(self) -> None:
        while data := self._read_from(self._receive_stderr, READ_BYTES):
            self._keep_stderr(data)

    def _keep_stderr(self, data: bytes) -> None:
        with self._stderr_lock:
            self._stderr += data
            if self._stderr_limit_bytes is not None:
                del self._stderr[: -self._stderr_limit_bytes]


def run_to_end(command: PolledCommand, *, stdin: bytes, timeout_s: float) -> Completed:
    """Feed a started command, collect both its streams and return them.

    Raises CommandTimeoutError when the command, or anything holding its streams, did not end in time.
    """
    timed_out = threading.Event()
    timer = threading.Timer(timeout_s, _end, args=(command, timed_out))
    timer.daemon = True
    timer.start()
    try:
        with command:
            command.feed(stdin)
            stdout = b"".join(iter(command.read, b""))
            returncode = command.wait()
            result = Completed(command.argv, returncode, stdout, command.stderr())
    except TransportError as error:
        if timed_out.is_set():
            raise timeout_error(command.argv, timeout_s, problem=str(error)) from error
        raise
    finally:
        timer.cancel()
    if timed_out.is_set():
        raise timeout_error(command.argv, timeout_s)
    return result


def timeout_error(argv: tuple[str, ...], timeout_s: float, *, problem: str = "") -> CommandTimeoutError:
    """Return the error for a command that was ended, or could not be ended because of `problem`."""
    what_now = f"and could not be ended: {problem}" if problem else "and was ended"
    return CommandTimeoutError(f"`{argv[0]}` did not end within {timeout_s:g} s {what_now}")


def _end(command: PolledCommand, timed_out: threading.Event) -> None:
    timed_out.set()
    # The main thread sees the same failure in its own wait, and reports it.
    with contextlib.suppress(TransportError):
        command.kill()
