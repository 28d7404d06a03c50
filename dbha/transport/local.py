"""Commands and files on this host."""

import os
import select
import signal
import subprocess
from collections.abc import Mapping, Sequence
from typing import IO, BinaryIO

from dbha.transport.base import STDERR_TAIL_BYTES, Completed, RunningCommand, TransportError
from dbha.transport.files import get_file, put_file
from dbha.transport.process import TICK_S, PolledCommand, run_to_end
from dbha.transport.shell import EXEC, checked_argv

PIPE_BYTES = 1 << 16  # what a pipe holds; asking it for more only costs the memory to be handed over
KILL_GRACE_S = 10.0


class LocalTransport:
    """Runs commands as children of this process, each in a session and process group of its own."""

    host = "localhost"

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        timeout_s: float = 60,
        environment: Mapping[str, str] | None = None,
    ) -> Completed:
        """See Transport."""
        command = LocalCommand(checked_argv(argv), environment or {}, None)
        return run_to_end(command, stdin=stdin, timeout_s=timeout_s)

    def open(self, argv: Sequence[str], *, environment: Mapping[str, str] | None = None) -> RunningCommand:
        """See Transport."""
        return LocalCommand(checked_argv(argv), environment or {}, STDERR_TAIL_BYTES)

    def put(self, content: bytes, path: str, *, mode: int = 0o600) -> None:
        """See Transport."""
        put_file(self, content, path, mode)

    def put_stream(self, source: BinaryIO, path: str, *, mode: int = 0o600) -> None:
        """See Transport."""
        put_file(self, source, path, mode)

    def get(self, path: str) -> bytes:
        """See Transport."""
        return get_file(self, path)

    def close(self) -> None:
        """Do nothing: there is no connection."""


class LocalCommand(PolledCommand):
    """A child process. Its environment is this process's with `environment` on top."""

    def __init__(
        self, argv: tuple[str, ...], environment: Mapping[str, str], stderr_limit_bytes: int | None
    ) -> None:
        super().__init__(argv, stderr_limit_bytes)
        # Through `sh`, so that a missing program is status 127 with a message on stderr, as on other hosts.
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", EXEC, "sh", *argv],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env={**os.environ, **environment},
            start_new_session=True,
        )
        self._process_fd = os.pidfd_open(self._process.pid)
        os.set_blocking(self._stream("stdin").fileno(), False)
        self._drain.start()

    def _receive(self, size: int) -> bytes:
        return _read_ready(self._stream("stdout"), size)

    def _receive_stderr(self, size: int) -> bytes:
        return _read_ready(self._stream("stderr"), size)

    def _send(self, data: memoryview) -> int:
        stdin = self._stream("stdin")
        if not _is_ready(stdin.fileno(), select.POLLOUT, TICK_S):
            raise TimeoutError
        try:
            return os.write(stdin.fileno(), data[:PIPE_BYTES])
        except BlockingIOError as error:
            raise TimeoutError from error

    def _poll(self, timeout_s: float) -> int | None:
        if not _is_ready(self._process_fd, select.POLLIN, timeout_s):
            return None
        # Not reaped before `_release`: until then nobody else can get its number, and `kill` is safe.
        ended = os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
        assert ended is not None
        return ended.si_status if ended.si_code == os.CLD_EXITED else 128 + ended.si_status

    def _release(self) -> None:
        self._process.poll()
        os.close(self._process_fd)
        for name in ("stdin", "stdout", "stderr"):
            self._stream(name).close()

    def _stream(self, name: str) -> IO[bytes]:
        stream: IO[bytes] = getattr(self._process, name)
        return stream

    def close_stdin(self) -> None:
        """See RunningCommand."""
        self._stream("stdin").close()

    def kill(self) -> None:
        """See RunningCommand. The whole group ends, children that outlived the command included."""
        self._killed.set()
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except PermissionError as error:
            raise self._cannot_end("it belongs to another user") from error
        if not _is_ready(self._process_fd, select.POLLIN, KILL_GRACE_S):
            raise self._cannot_end("SIGKILL had no effect yet")

    def _cannot_end(self, reason: str) -> TransportError:
        return TransportError(
            f"`{self.argv[0]}` (process {self._process.pid}) cannot be ended: {reason}",
            hint=f"sudo kill -KILL {self._process.pid}",
            unchanged="",
        )


def _is_ready(descriptor: int, event: int, timeout_s: float) -> bool:
    poll = select.poll()
    poll.register(descriptor, event)
    return bool(poll.poll(timeout_s * 1000))


def _read_ready(stream: IO[bytes], size: int) -> bytes:
    if not _is_ready(stream.fileno(), select.POLLIN, TICK_S):
        raise TimeoutError
    return os.read(stream.fileno(), min(size, PIPE_BYTES))
