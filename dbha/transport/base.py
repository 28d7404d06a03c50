"""What every transport promises: the protocols, the result of a command, and the errors.

A command is always an argument vector and never a line for a shell. Secrets go over stdin: arguments and
environment show in the process list of the host.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import BinaryIO, Protocol, Self

from dbha.errors import DbhaError, UnreachableError

STDERR_TAIL_BYTES = 64 * 1024


class TransportError(UnreachableError):
    """A host cannot be reached, or the connection to it was lost."""


class HostKeyError(TransportError):
    """A host presented an SSH key that is not the known one; nothing was sent to it."""


class CommandTimeoutError(UnreachableError):
    """A command took longer than allowed and was ended; what it had done by then stays done."""

    unchanged = ""


class CommandFailedError(DbhaError):
    """A command ended with a status other than 0; `stderr_tail` has its last words."""

    def __init__(self, command: str, returncode: int, stderr: bytes, *, hint: str = "") -> None:
        self.command = command
        self.returncode = returncode
        self.stderr_tail = stderr[-2000:].decode("utf-8", "replace").strip()
        last_line = self.stderr_tail.rpartition("\n")[2] or "it said nothing"
        super().__init__(f"`{command}` ended with exit status {returncode}: {last_line}", hint=hint)


@dataclass(frozen=True, slots=True)
class Completed:
    """A command that ended. `returncode` is 128 + n when signal n ended it."""

    argv: tuple[str, ...]
    returncode: int
    stdout: bytes
    stderr: bytes

    def text(self) -> str:
        """Return stdout as text without its trailing newline; bytes that are not UTF-8 become U+FFFD."""
        return self.stdout.decode("utf-8", "replace").removesuffix("\n")

    def check(self) -> Self:
        """Return this same result. Raises CommandFailedError unless the exit status was 0."""
        if self.returncode != 0:
            raise CommandFailedError(self.argv[0], self.returncode, self.stderr)
        return self


class RunningCommand(Protocol):
    """A started command. As a context manager it kills the command on the way out if it still runs."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def read(self, size: int = 1 << 20) -> bytes:
        """Return up to `size` bytes of stdout as soon as there are any, and b"" at its end."""

    def write(self, data: bytes) -> None:
        """Write all of `data` to stdin, however long the command takes to accept it.

        Raises BrokenPipeError when the command ended or, on this host, closed its stdin.
        """

    def close_stdin(self) -> None:
        """End stdin. Calling it again does nothing."""

    def wait(self, *, timeout_s: float | None = None) -> int:
        """Return the exit status. Read stdout to its end first: a full pipe would keep the command waiting.

        Raises CommandTimeoutError, having killed the command, when it did not end in time.
        """

    def stderr_tail(self) -> bytes:
        """Return the last 64 KiB of stderr so far; after `wait`, of all of it."""

    def kill(self) -> None:
        """End the command and its process group with SIGKILL; return when it is gone.

        Raises TransportError when it could not be ended, because of a lost connection or missing rights.
        """


class Transport(Protocol):
    """Runs commands and moves files on one host; may be used from several threads side by side."""

    @property
    def host(self) -> str:
        """The host's name for messages."""

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        timeout_s: float = 60,
        environment: Mapping[str, str] | None = None,
    ) -> Completed:
        """Run a command to its end. A missing command is exit status 127, as in a shell.

        Raises CommandTimeoutError (the command was ended) and TransportError, never for an exit status.
        """

    def open(self, argv: Sequence[str], *, environment: Mapping[str, str] | None = None) -> RunningCommand:
        """Start a command and return it with its streams."""

    def put(self, content: bytes, path: str, *, mode: int = 0o600) -> None:
        """Write a file so that, even after a power cut, `path` is the old file or all of the new one."""

    def put_stream(self, source: BinaryIO, path: str, *, mode: int = 0o600) -> None:
        """Write a file like `put`, from a stream of any length."""

    def get(self, path: str) -> bytes:
        """Return a file's content. Raises FileNotFoundError when there is none."""

    def close(self) -> None:
        """Let go of connections; commands still running over them are lost. A later use connects again."""
