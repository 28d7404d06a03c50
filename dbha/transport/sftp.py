"""Files of a host over SFTP: for accounts that may have no shell there, only a place to keep files."""

import contextlib
import posixpath
import secrets
import stat
import threading
from collections.abc import Iterator

from dbha.transport.base import TransportError
from dbha.transport.ssh import SshTransport
from dbha.transport.ssh_connection import (
    CONNECTION_ERRORS,
    PROTOCOL_ERRORS,
    Connection,
    SftpClient,
    close_channel,
    open_sftp,
)

ANSWER_TIMEOUT_S = 60.0


class Sftp:
    """Whole files by path; one request at a time, over a session that is opened again when it was lost.

    A lost connection, or no connection at all, is a TransportError; what the host refuses is an OSError.
    """

    def __init__(self, transport: SshTransport, *, answer_timeout_s: float = ANSWER_TIMEOUT_S) -> None:
        self._transport, self._answer_timeout_s = transport, answer_timeout_s
        self._lock = threading.RLock()
        self._session: tuple[Connection, SftpClient] | None = None

    def put(self, path: str, content: bytes) -> None:
        """Write a file, for its owner only, through a temporary one: `path` is the old file or all of the new."""
        directory, name = posixpath.split(path)
        temporary = posixpath.join(directory, f".{name}.dbha-{secrets.token_hex(6)}")
        with self._client() as client:
            try:
                with client.open(temporary, "wx") as file:
                    file.chmod(0o600)
                    client.write_whole(file, content)
                    _sync(client, file)
                    if file.stat().st_size != len(content):
                        raise OSError(f"only {file.stat().st_size} of {len(content)} bytes arrived in {path}")
                client.posix_rename(temporary, path)
            except OSError:
                with contextlib.suppress(*CONNECTION_ERRORS):
                    client.remove(temporary)
                raise

    def get(self, path: str) -> bytes:
        """Return the content of a file. Raises FileNotFoundError when there is none."""
        with self._client() as client, client.open(path, "rb") as file:
            return client.read_whole(file, file.stat().st_size or 0)

    def make_directory(self, path: str) -> None:
        """Make a directory for its owner only, with those above it, unless it is there."""
        with self._client() as client:
            missing = []
            while path not in ("", "/") and not _exists(client, path):
                missing.append(path)
                path = posixpath.dirname(path)
            for each in reversed(missing):
                try:
                    client.mkdir(each, 0o700)
                except OSError as error:
                    if not _exists(client, each):  # else somebody made it just now
                        # Below a file OpenSSH says that there is none; nobody is to take that for a missing object.
                        raise OSError(f"{each} cannot be made: {error.strerror or error}") from error

    def files(self, directory: str) -> list[tuple[str, int]]:
        """Return the names and sizes of the files in a directory, and in those directly in it; [] for none."""
        with self._client() as client:
            return list(_files(client, directory, ""))

    def delete(self, path: str) -> None:
        """Delete a file if it is there, and its directory if that is empty then."""
        with self._client() as client:
            with contextlib.suppress(FileNotFoundError):
                client.remove(path)
            with contextlib.suppress(OSError):  # not empty, which is the rule
                client.rmdir(posixpath.dirname(path))

    def age_s(self, path: str) -> float:
        """Return how long ago a file was written, by the host's own clock. Raises FileNotFoundError.

        A file is made and deleted beside it to see what time it is there: SFTP does not tell.
        """
        probe = posixpath.join(posixpath.dirname(path), f".clock.dbha-{secrets.token_hex(6)}")
        with self._client() as client:
            written_s = client.stat(path).st_mtime or 0
            with client.open(probe, "wx") as file:
                now_s = file.stat().st_mtime or 0
            client.remove(probe)
        return float(now_s - written_s)

    def free_bytes(self, directory: str) -> int | None:
        """Return the room in bytes at a directory, or at its nearest parent that is there; None if not told."""
        with self._client() as client:
            while directory not in ("", "/") and not _exists(client, directory):
                directory = posixpath.dirname(directory)
            with contextlib.suppress(OSError):
                return client.room_bytes(directory or ".")
        return None

    def close(self) -> None:
        """Let go of the session and its connection."""
        with self._lock:
            self._drop()
            self._transport.close()

    @contextlib.contextmanager
    def _client(self) -> Iterator[SftpClient]:
        with self._lock:
            connection, client = self._session or self._open()
            try:
                yield client
            except PROTOCOL_ERRORS as error:
                self._drop()
                raise self._lost(error) from error
            except TimeoutError as error:
                self._drop()
                raise self._lost(f"no answer in {self._answer_timeout_s:g} s") from error
            except OSError as error:
                if not client.sock.closed and connection.is_alive(settle_s=0):
                    raise
                self._drop()
                raise self._lost(error) from error

    def _open(self) -> tuple[Connection, SftpClient]:
        connection, channel = self._transport.open_channel()
        try:
            client = open_sftp(channel, self._answer_timeout_s)
        except CONNECTION_ERRORS as error:
            close_channel(channel)
            raise TransportError(
                f"{self._transport.host} does not offer SFTP: {error}",
                hint=f"try: {self._transport.endpoint.ssh_line('-s', 'sftp')}",
            ) from error
        self._session = (connection, client)
        return self._session

    def _drop(self) -> None:
        if self._session is not None:
            with contextlib.suppress(*CONNECTION_ERRORS):
                self._session[1].close()
            self._session = None

    def _lost(self, reason: object) -> TransportError:
        return TransportError(
            f"the connection to {self._transport.host} was lost: {str(reason) or type(reason).__name__}",
            hint=f"check that the host is up: {self._transport.endpoint.ssh_line('true')}",
        )


def _sync(client: SftpClient, file: object) -> None:
    # A server without fsync says that it does not know it; what else is wrong, the check of the size finds.
    with contextlib.suppress(OSError):
        client.sync(file)  # type: ignore[arg-type]


def _exists(client: SftpClient, path: str) -> bool:
    try:
        client.stat(path)
    except FileNotFoundError:
        return False
    return True


def _files(client: SftpClient, directory: str, below: str) -> Iterator[tuple[str, int]]:
    try:
        entries = client.listdir_attr(directory)
    except FileNotFoundError:
        return
    for entry in entries:
        if not stat.S_ISDIR(entry.st_mode or 0):
            yield f"{below}{entry.filename}", entry.st_size or 0
        elif not below:
            yield from _files(client, posixpath.join(directory, entry.filename), f"{entry.filename}/")
