"""SSH connections to one host, with quick streams and every key checked; the only user of paramiko.

Host keys must be known beforehand. `~/.ssh/config` is not read.
"""

import contextlib
import logging
import signal
import socket
import threading
import time
from collections import deque
from typing import Any

import paramiko
from paramiko.common import MSG_CHANNEL_REQUEST
from paramiko.pkey import UnknownKeyType
from paramiko.sftp import CMD_DATA, CMD_EXTENDED, CMD_EXTENDED_REPLY, CMD_READ, CMD_WRITE, SFTPError, int64

from dbha.transport.base import TransportError
from dbha.transport.endpoint import (
    SshEndpoint,
    changed_key_error,
    connect_error,
    login_error,
    unknown_key_error,
)

# What a command may send ahead of its reader: enough for 1 Gbit/s over 100 ms, and bounds the memory.
WINDOW_BYTES = 1 << 24
PACKET_BYTES = 1 << 17
# OpenSSH's own limit for AES. paramiko's 512 MiB would halt every stream for new keys again and again.
REKEY_BYTES = 1 << 36
CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "aes128-ctr", "aes192-ctr", "aes256-ctr")
KEEPALIVES_UNANSWERED = 3
SFTP_BLOCK_BYTES = 1 << 15  # what every server takes in one request
SFTP_BLOCKS_UNDER_WAY = 128  # 4 MiB: enough for 400 Mbit/s over 80 ms
# paramiko waits for a server's first line and for the whole greeting apart. The latter has to end first: of two that
# end together either may win, and only the error of one says what happened.
_AFTER_TIMEOUT_S = 5

Channel = paramiko.Channel
ChannelRefusedError = paramiko.ChannelException
PROTOCOL_ERRORS = (paramiko.SSHException, EOFError, SFTPError)
CONNECTION_ERRORS = (*PROTOCOL_ERRORS, OSError)

# paramiko logs what it also raises; without a handler Python would print it.
logging.getLogger("paramiko").addHandler(logging.NullHandler())


def close_channel(channel: Channel) -> None:
    # Closing says so to the host; a connection that is lost is closed already.
    with contextlib.suppress(*CONNECTION_ERRORS):
        channel.close()


class SftpClient(paramiko.SFTPClient):
    """paramiko's SFTP with what it lacks: every write's own answer, fsync and the room on a file system."""

    def write_whole(self, file: paramiko.SFTPFile, content: bytes) -> None:
        """Write all of an empty file. Raises OSError when the host refused any of it; paramiko's own may not."""
        under_way: deque[int] = deque()
        for offset in range(0, len(content), SFTP_BLOCK_BYTES):
            block = content[offset : offset + SFTP_BLOCK_BYTES]
            under_way.append(
                self._async_request(type(None), CMD_WRITE, file.handle, int64(offset), block)  # type: ignore[attr-defined]
            )
            if len(under_way) > SFTP_BLOCKS_UNDER_WAY:
                self._read_response(under_way.popleft())  # type: ignore[attr-defined]
        for number in under_way:
            self._read_response(number)  # type: ignore[attr-defined]

    def read_whole(self, file: paramiko.SFTPFile, size_bytes: int) -> bytes:
        """Return the content of a file of this size. Unlike paramiko's own it needs no thread that may fail alone."""
        content, under_way = bytearray(), deque[tuple[int, int]]()
        for offset in range(0, size_bytes, SFTP_BLOCK_BYTES):
            asked_bytes = min(SFTP_BLOCK_BYTES, size_bytes - offset)
            number = self._async_request(type(None), CMD_READ, file.handle, int64(offset), asked_bytes)  # type: ignore[attr-defined]
            under_way.append((number, asked_bytes))
            if len(under_way) > SFTP_BLOCKS_UNDER_WAY:
                content += self._block(*under_way.popleft())
        for number, asked_bytes in under_way:
            content += self._block(number, asked_bytes)
        return bytes(content)

    def _block(self, number: int, asked_bytes: int) -> bytes:
        kind, answer = self._read_response(number)  # type: ignore[attr-defined]
        block = answer.get_string() if kind == CMD_DATA else b""
        if len(block) != asked_bytes:
            raise SFTPError(f"{len(block)} bytes came instead of {asked_bytes}")
        return bytes(block)

    def sync(self, file: paramiko.SFTPFile) -> None:
        """Make a file durable. Raises OSError, also when the server cannot do so."""
        self._request(CMD_EXTENDED, "fsync@openssh.com", file.handle)  # type: ignore[attr-defined]

    def room_bytes(self, path: str) -> int:
        """Return how much this account may still write where `path` is. Raises OSError when it is not told."""
        kind, answer = self._request(CMD_EXTENDED, "statvfs@openssh.com", path)  # type: ignore[attr-defined]
        if kind != CMD_EXTENDED_REPLY:
            raise OSError(f"an answer of kind {kind}")
        _, fragment_bytes, _, _, available, *_ = (answer.get_int64() for _ in range(11))
        return int(fragment_bytes * available)


def open_sftp(channel: Channel, timeout_s: float) -> SftpClient:
    """Return a client of the host's SFTP server on a channel where nothing was started; it waits that long."""
    channel.settimeout(timeout_s)
    channel.invoke_subsystem("sftp")
    return SftpClient(channel)


def _exit_signal(channel: paramiko.Channel, message: paramiko.Message) -> None:
    """Keep what signal ended a command as its exit status; paramiko forgets it."""
    position = message.packet.tell()
    if message.get_text() != "exit-signal":
        message.packet.seek(position)
        channel._handle_request(message)  # type: ignore[attr-defined]
        return
    message.get_boolean()
    name = f"SIG{message.get_text()}"
    channel.exit_status = 128 + getattr(signal, name, 0)
    channel.status_event.set()


class _TunedTransport(paramiko.Transport):
    """paramiko's side of a connection, with quick streams and the exit signals that it lacks."""

    _channel_handler_table = {  # noqa: RUF012  (paramiko's table, in the place where paramiko looks)
        **paramiko.Transport._channel_handler_table,  # type: ignore[attr-defined]
        MSG_CHANNEL_REQUEST: _exit_signal,
    }

    def __init__(self, sock: socket.socket, **options: Any) -> None:
        super().__init__(
            sock, default_window_size=WINDOW_BYTES, default_max_packet_size=PACKET_BYTES, **options
        )
        self.packetizer.REKEY_BYTES = REKEY_BYTES
        security = self.get_security_options()
        security.ciphers = tuple(name for name in CIPHERS if name in security.ciphers)


def _tuned_transport(sock: Any, /, **options: Any) -> paramiko.Transport:
    return _TunedTransport(sock, **options)


class _WatchedSocket(socket.socket):
    """A socket that knows when it last received anything."""

    received_at_s = 0.0

    def recv(self, bufsize: int, flags: int = 0) -> bytes:
        data = super().recv(bufsize, flags)
        self.received_at_s = time.monotonic()
        return data


class Connection:
    """One authenticated connection. It closes itself when the host falls silent, which ends every wait on it."""

    def __init__(self, endpoint: SshEndpoint, client: paramiko.SSHClient, sock: _WatchedSocket) -> None:
        transport = client.get_transport()
        assert transport is not None
        self._client, self._transport, self._socket = client, transport, sock
        self._keepalive_s = endpoint.keepalive_s
        self._closed = threading.Event()
        threading.Thread(target=self._watch, name=f"keepalive of {endpoint.host}", daemon=True).start()

    def open_channel(self, timeout_s: float) -> paramiko.Channel:
        return self._transport.open_session(timeout=timeout_s)

    def is_alive(self, *, settle_s: float) -> bool:
        """Return whether the connection still stands when it had `settle_s` to end."""
        self._transport.join(settle_s)
        return self._transport.is_active()

    def close(self) -> None:
        self._closed.set()
        self._client.close()

    def _watch(self) -> None:
        # Counts questions and not seconds: after a pause of this process the host deserves a new question.
        unanswered, asked_at_s = 0, 0.0
        while not self._closed.wait(self._keepalive_s) and self._transport.is_active():
            unanswered = 0 if self._socket.received_at_s > asked_at_s else unanswered + 1
            if unanswered == KEEPALIVES_UNANSWERED:
                self.close()
                return
            asked_at_s = time.monotonic()
            # It waits for the answer and, to send, for other threads that do: not this thread's business.
            threading.Thread(target=self._ask, name="keepalive question", daemon=True).start()

    def _ask(self) -> None:
        with contextlib.suppress(*CONNECTION_ERRORS):
            self._transport.global_request("keepalive@openssh.com", wait=True)


class _RejectUnknownKey(paramiko.MissingHostKeyPolicy):
    def __init__(self, endpoint: SshEndpoint) -> None:
        self._endpoint = endpoint

    def missing_host_key(self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey) -> None:
        raise unknown_key_error(self._endpoint, key.get_name(), key.fingerprint)


def connect(endpoint: SshEndpoint) -> Connection:
    with contextlib.ExitStack() as undo:
        private_key = _load_private_key(endpoint)
        sock = undo.enter_context(_dial(endpoint))
        client = undo.enter_context(paramiko.SSHClient())
        _load_known_hosts(client, endpoint)
        client.set_missing_host_key_policy(_RejectUnknownKey(endpoint))
        try:
            client.connect(
                endpoint.host,
                port=endpoint.port,
                username=endpoint.account,
                pkey=private_key,
                sock=sock,
                allow_agent=endpoint.use_agent,
                look_for_keys=endpoint.private_key_file is None,
                timeout=endpoint.connect_timeout_s,
                banner_timeout=endpoint.connect_timeout_s + _AFTER_TIMEOUT_S,
                auth_timeout=endpoint.connect_timeout_s,
                channel_timeout=endpoint.connect_timeout_s,
                transport_factory=_tuned_transport,
            )
        except paramiko.BadHostKeyException as error:
            raise changed_key_error(
                endpoint, error.key.get_name(), error.key.fingerprint, error.expected_key.fingerprint
            ) from error
        except paramiko.AuthenticationException as error:
            raise login_error(endpoint, str(error)) from error
        except CONNECTION_ERRORS as error:
            raise _translate(endpoint, client, error) from error
        connection = Connection(endpoint, client, sock)
        undo.pop_all()
        return connection


def _translate(endpoint: SshEndpoint, client: paramiko.SSHClient, error: Exception) -> TransportError:
    transport = client.get_transport()
    if transport is not None and transport.is_active():
        if not transport.initial_kex_done:
            return connect_error(endpoint, f"no SSH server answered in {endpoint.connect_timeout_s:g} s")
        # Without any key to offer paramiko raises its general error, on a connection that is fine.
        return login_error(endpoint, str(error))
    return connect_error(endpoint, str(error) or type(error).__name__)


def _dial(endpoint: SshEndpoint) -> _WatchedSocket:
    try:
        plain = socket.create_connection((endpoint.host, endpoint.port), endpoint.connect_timeout_s)
    except OSError as error:
        raise connect_error(endpoint, error.strerror or str(error)) from error
    sock = _WatchedSocket(fileno=plain.detach())
    sock.settimeout(endpoint.connect_timeout_s)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.received_at_s = time.monotonic()
    return sock


def _load_known_hosts(client: paramiko.SSHClient, endpoint: SshEndpoint) -> None:
    for file in endpoint.known_hosts_files:
        try:
            client.load_system_host_keys(str(file))
        except FileNotFoundError:
            continue  # knows no host; the error about the unknown key names the file
        except (OSError, UnicodeDecodeError) as error:
            raise connect_error(endpoint, f"{file} cannot be read: {error}") from error


def _load_private_key(endpoint: SshEndpoint) -> paramiko.PKey | None:
    """Return the key of the endpoint, or None to leave it to the agent: the file may be locked by a passphrase.

    Not left to paramiko, which tries the file as each type of key and then reports the last attempt.
    """
    if endpoint.private_key_file is None:
        return None
    try:
        return paramiko.PKey.from_path(endpoint.private_key_file)
    except TypeError as error:  # how cryptography says that a passphrase is needed
        if endpoint.use_agent:
            return None
        raise login_error(endpoint, "the key file is locked by a passphrase") from error
    except OSError as error:
        raise login_error(endpoint, f"the key file cannot be read: {error.strerror}") from error
    except (ValueError, paramiko.SSHException, UnknownKeyType) as error:
        raise login_error(endpoint, "the key file holds no private key that can be used") from error
