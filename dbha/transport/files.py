"""Whole files through the commands of any transport."""

import contextlib
import io
import posixpath
import secrets
from typing import BinaryIO

from dbha.errors import DbhaError
from dbha.transport.base import CommandFailedError, Transport

COPY_BYTES = 1 << 20
FILE_TIMEOUT_S = 600.0
# `sync FILE` is fsync. The count of bytes goes back because a lost sender looks like the end of the file.
RECEIVE = 'umask 077; cat > "$1" && chmod "$2" "$1" && sync "$1" && wc -c < "$1"'
# -T: a directory in the file's place is an error and not a place to move into.
PUBLISH = 'mv -fT "$1" "$2" && sync "$3"'


def put_file(transport: Transport, content: bytes | BinaryIO, path: str, mode: int) -> None:
    """Write `path` through a temporary file beside it, named `.NAME.dbha-*`, which a lost connection leaves.

    Raises CommandFailedError when the host refuses, for lack of space or rights; `path` is then as it was.
    """
    path = _unlike_option(path)
    directory, name = posixpath.split(path)
    temporary = posixpath.join(directory, f".{name}.dbha-{secrets.token_hex(6)}")
    try:
        source = io.BytesIO(content) if isinstance(content, bytes) else content
        _receive(transport, source, temporary, path, mode)
        publish = ["sh", "-c", PUBLISH, "sh", temporary, path, directory]
        published = transport.run(publish, timeout_s=FILE_TIMEOUT_S)
        _check(f"put {path}", published.returncode, published.stderr)
    except BaseException:  # a signal, too, must not leave the temporary file
        with contextlib.suppress(DbhaError):
            transport.run(["rm", "-f", temporary])
        raise


def get_file(transport: Transport, path: str) -> bytes:
    """Return the content of `path`. Raises FileNotFoundError, or CommandFailedError when it is unreadable."""
    with transport.open(["cat", _unlike_option(path)], environment={"LC_ALL": "C"}) as command:
        command.close_stdin()
        content = b"".join(iter(command.read, b""))
        returncode = command.wait()
        stderr = command.stderr_tail()
    if returncode != 0 and b"No such file or directory" in stderr:
        raise FileNotFoundError(f"{transport.host} has no file {path}")
    _check(f"get {path}", returncode, stderr)
    return content


def _receive(transport: Transport, source: BinaryIO, temporary: str, path: str, mode: int) -> None:
    sent_bytes = 0
    with transport.open(["sh", "-c", RECEIVE, "sh", temporary, f"{mode:o}"]) as command:
        # When `cat` ends early, its exit status and last words say why.
        with contextlib.suppress(BrokenPipeError):
            while block := source.read(COPY_BYTES):
                command.write(block)
                sent_bytes += len(block)
            command.close_stdin()
        answer = b"".join(iter(command.read, b""))
        returncode = command.wait(timeout_s=FILE_TIMEOUT_S)
        stderr = command.stderr_tail()
    _check(f"put {path}", returncode, stderr)
    if int(answer) != sent_bytes:
        raise CommandFailedError(f"put {path}", 1, b"%d bytes of %d arrived" % (int(answer), sent_bytes))


def _check(action: str, returncode: int, stderr: bytes) -> None:
    if returncode != 0:
        raise CommandFailedError(action, returncode, stderr)


def _unlike_option(path: str) -> str:
    return path if path.startswith("/") else f"./{path}"
