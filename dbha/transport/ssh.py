"""Commands and files on another host, over SSH.

The account's shell must be a POSIX one. A command is never repeated by itself: when the connection is lost nobody
knows what it has done. It may also go on running there; the error names its process id.
"""

import contextlib
import threading
from collections.abc import Mapping, Sequence
from typing import BinaryIO

from dbha.transport.base import STDERR_TAIL_BYTES, Completed, RunningCommand, TransportError
from dbha.transport.endpoint import SshEndpoint, connect_error
from dbha.transport.files import get_file, put_file
from dbha.transport.process import TICK_S, PolledCommand, run_to_end
from dbha.transport.shell import Announcement, announced_line, checked_argv, kill_line
from dbha.transport.ssh_connection import (
    CONNECTION_ERRORS,
    PROTOCOL_ERRORS,
    Channel,
    ChannelRefusedError,
    Connection,
    close_channel,
    connect,
)

SEND_BYTES = 1 << 15
KILL_GRACE_S = 10.0
SETTLE_S = 2.0


class SshTransport:
    """Runs commands on one host over connections that are made when needed and shared by all threads."""

    def __init__(self, endpoint: SshEndpoint) -> None:
        self.endpoint = endpoint
        self._lock = threading.Lock()
        self._connections: list[Connection] = []

    @property
    def host(self) -> str:
        """See Transport."""
        return self.endpoint.host

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        timeout_s: float = 60,
        environment: Mapping[str, str] | None = None,
    ) -> Completed:
        """See Transport. Arguments and environment together may have 128 KiB, Linux' limit for a shell line."""
        command = SshCommand(self, checked_argv(argv), environment or {}, None)
        return run_to_end(command, stdin=stdin, timeout_s=timeout_s)

    def open(self, argv: Sequence[str], *, environment: Mapping[str, str] | None = None) -> RunningCommand:
        """See Transport. The environment shows in the host's process list: secrets go over stdin."""
        return SshCommand(self, checked_argv(argv), environment or {}, STDERR_TAIL_BYTES)

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
        """See Transport."""
        with self._lock:
            for connection in self._connections:
                connection.close()
            self._connections.clear()

    def open_channel(self) -> tuple["Connection", Channel]:
        """Return a channel on which no command was started yet, and its connection; connect if need be."""
        with self._lock:
            for connection in tuple(self._connections):
                try:
                    return connection, connection.open_channel(self.endpoint.connect_timeout_s)
                except ChannelRefusedError:
                    continue  # it has as many sessions as sshd allows (MaxSessions); another one may have room
                except CONNECTION_ERRORS:
                    connection.close()
                    self._connections.remove(connection)
            connection = connect(self.endpoint)
            self._connections.append(connection)
            try:
                return connection, connection.open_channel(self.endpoint.connect_timeout_s)
            except CONNECTION_ERRORS as error:
                raise connect_error(self.endpoint, f"it opens no session: {error}") from error


class SshCommand(PolledCommand):
    """A command on a channel of its own. A process that closed its stdin is only noticed when it ends."""

    def __init__(
        self,
        transport: SshTransport,
        argv: tuple[str, ...],
        environment: Mapping[str, str],
        stderr_limit_bytes: int | None,
    ) -> None:
        super().__init__(argv, stderr_limit_bytes)
        self._transport = transport
        self._announcement = Announcement()
        self._announced = threading.Event()
        self._kill_lock = threading.Lock()
        self._kill_failure: TransportError | None = None
        self._connection, self._channel = transport.open_channel()
        try:
            self._channel.exec_command(announced_line(argv, environment, self._announcement.token))
        except CONNECTION_ERRORS as error:
            close_channel(self._channel)
            raise self._lost() from error
        self._channel.settimeout(TICK_S)
        self._drain.start()

    def _receive(self, size: int) -> bytes:
        try:
            data = self._channel.recv(size)
        except TimeoutError:
            raise
        except CONNECTION_ERRORS as error:
            raise self._lost() from error
        if not data and self._is_lost():
            raise self._lost()
        return data

    def _receive_stderr(self, size: int) -> bytes:
        try:
            return self._channel.recv_stderr(size)
        except TimeoutError:
            raise
        except CONNECTION_ERRORS:
            return b""  # `read` and `wait` report it

    def _send(self, data: memoryview) -> int:
        try:
            sent_bytes = self._channel.send(bytes(data[:SEND_BYTES]))
        except TimeoutError:
            raise
        except PROTOCOL_ERRORS as error:
            raise self._lost() from error
        except OSError:
            sent_bytes = 0  # the channel is closed, as when it accepts nothing more
        if sent_bytes == 0:
            raise self._lost() if self._is_lost() else BrokenPipeError(f"`{self.argv[0]}` ended")
        return sent_bytes

    def _poll(self, timeout_s: float) -> int | None:
        if not self._channel.status_event.wait(timeout_s):
            return None
        if self._channel.exit_status == -1:
            raise self._kill_failure or self._lost()
        return self._channel.exit_status

    def _release(self) -> None:
        close_channel(self._channel)

    def _keep_stderr(self, data: bytes) -> None:
        super()._keep_stderr(self._announcement.filter(data))
        if self._announcement.process_id is not None:
            self._announced.set()

    def _drain_stderr(self) -> None:
        super()._drain_stderr()
        super()._keep_stderr(self._announcement.flush())
        self._announced.set()

    def close_stdin(self) -> None:
        """See RunningCommand."""
        # Nothing to close when the command ended; `read` and `wait` report a lost connection.
        with contextlib.suppress(*CONNECTION_ERRORS):
            self._channel.shutdown_write()

    def kill(self) -> None:
        """See RunningCommand."""
        with self._kill_lock:
            if self._killed.is_set():
                return
            try:
                self._end()
            except TransportError as error:
                self._kill_failure = error
                raise
            finally:
                self._killed.set()
                close_channel(self._channel)

    def _end(self) -> None:
        if self._channel.eof_received and self._channel.exit_status != -1:
            return
        self._announced.wait(KILL_GRACE_S)
        if not self._is_connected():
            raise self._lost()
        if self._announcement.process_id is not None:
            _, channel = self._transport.open_channel()
            with contextlib.suppress(*CONNECTION_ERRORS):
                channel.exec_command(kill_line(self._announcement.process_id))
                channel.status_event.wait(KILL_GRACE_S)
            close_channel(channel)
        if not self._channel.status_event.wait(KILL_GRACE_S):
            raise TransportError(f"{self._name()} could not be ended", hint=self._look(), unchanged="")

    def _is_lost(self) -> bool:
        """Return whether the stream ended because the connection did, and not the command."""
        return not self._channel.eof_received and not self._is_connected()

    def _is_connected(self) -> bool:
        # When a connection ends, its channels do so a moment before it knows itself.
        return self._connection.is_alive(settle_s=SETTLE_S if self._channel.closed else 0.0)

    def _lost(self) -> TransportError:
        return TransportError(
            f"the connection to {self._transport.host} was lost while {self._name()} ran; it may have done its"
            " work or a part of it, and may still be at it",
            hint=self._look(),
            unchanged="",
        )

    def _name(self) -> str:
        process_id = self._announcement.process_id
        number = "" if process_id is None else f" (process {process_id})"
        return f"`{self.argv[0]}`{number} on {self._transport.host}"

    def _look(self) -> str:
        process_id = self._announcement.process_id
        choice = ("-e",) if process_id is None else ("-p", str(process_id))
        return f"see whether it still runs: {self._transport.endpoint.ssh_line('ps', '-f', *choice)}"
