"""How an argument vector becomes what a host's shell gets, and how a command started over SSH says its id."""

import secrets
import shlex
from collections.abc import Mapping, Sequence

EXEC = 'exec "$@"'
# SSH tells nobody the id of the process it starts, and closing a channel does not end that process. So a
# small shell writes "token:id" as the first line of stderr and then becomes the command. sshd made that shell
# leader of a session, which makes the id the one of the process group as well.
ANNOUNCE_AND_EXEC = 'echo "$1:$$" >&2; shift; exec "$@"'
HEAD_LIMIT_BYTES = 1 << 20


def checked_argv(argv: Sequence[str]) -> tuple[str, ...]:
    """Return the arguments as a tuple. Raises ValueError for what no process can be given."""
    if isinstance(argv, str) or not argv or not argv[0]:
        raise ValueError("a command is a sequence of arguments, and its first names the program")
    if any("\0" in argument for argument in argv):
        raise ValueError(f"an argument of `{argv[0]}` has a NUL byte in it")
    return tuple(argv)


def announced_line(argv: Sequence[str], environment: Mapping[str, str], token: str) -> bytes:
    """Return the line for a POSIX login shell that announces its process id and becomes the command."""
    prefix = ["env", *(f"{name}={value}" for name, value in environment.items())] if environment else []
    words = ["exec", "sh", "-c", ANNOUNCE_AND_EXEC, "sh", token, *prefix, *argv]
    return shlex.join(words).encode("utf-8", "surrogateescape")


def kill_line(process_id: int) -> bytes:
    """Return the line that ends the process group which `process_id` leads."""
    return f"kill -KILL -- -{process_id}".encode()


class Announcement:
    """Takes the announcement out of a stream of stderr; login scripts may have written before it."""

    def __init__(self) -> None:
        self.token = f"dbha-{secrets.token_hex(8)}"
        self.process_id: int | None = None
        self._head: bytearray | None = bytearray()

    def filter(self, data: bytes) -> bytes:
        """Return what of stderr so far belongs to the command; the rest comes with a later call."""
        if self._head is None:
            return data
        self._head += data
        before, found, after = bytes(self._head).partition(f"{self.token}:".encode())
        number, ended, rest = after.partition(b"\n")
        if found and ended:
            self.process_id = int(number)
            self._head = None
            return before + rest
        return self.flush() if len(self._head) > HEAD_LIMIT_BYTES else b""

    def flush(self) -> bytes:
        """Return what was held back for an announcement that does not come any more."""
        head, self._head = self._head or bytearray(), None
        return bytes(head)
