"""What only SSH can get wrong: who is there, connections that end, servers of all kinds."""

import contextlib
import io
import os
import shlex
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dbha.transport import HostKeyError, SshEndpoint, SshTransport, TransportError
from dbha.transport.shell import Announcement
from tests.real.sshd import Sshd, is_running, running_sshd
from tests.real.transports import MEBIBYTE, PATIENCE_S, SAY_ID_AND_SLEEP, await_end, eventually

pytestmark = pytest.mark.real
Connect = Callable[[SshEndpoint], SshTransport]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with running_sshd(tmp_path_factory.mktemp("sshd")) as server:
        yield server


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Sshd]:
    """Run a server that the test may break."""
    with running_sshd(tmp_path) as server:
        yield server


@pytest.fixture
def connect() -> Iterator[Callable[[SshEndpoint], SshTransport]]:
    with contextlib.ExitStack() as closed:

        def connect(endpoint: SshEndpoint) -> SshTransport:
            return closed.enter_context(contextlib.closing(SshTransport(endpoint)))

        yield connect


# --- who is there ------------------------------------------------------------------------------------------


def fingerprint(public_key: Path) -> str:
    shown = subprocess.run(["ssh-keygen", "-lf", public_key], capture_output=True, check=True, text=True)
    return shown.stdout.split()[1]


def type_hint(hint: str) -> None:
    """Do what the error says to type."""
    subprocess.run(
        ["sh", "-c", hint.rpartition(": ")[2]], check=True, capture_output=True, timeout=PATIENCE_S
    )


@pytest.mark.parametrize("before", [None, ""])
def test_unknown_host_is_refused_until_its_key_is_added(
    own_server: Sshd, connect: Connect, before: str | None
) -> None:
    known_hosts = own_server.directory / "known_hosts"
    known_hosts.unlink()
    if before is not None:
        known_hosts.write_text(before, encoding="ascii")
    transport = connect(own_server.endpoint)
    with pytest.raises(HostKeyError) as caught:
        transport.run(["true"])
    assert fingerprint(own_server.directory / "host_key.pub") in str(caught.value)
    assert f"{known_hosts} has no entry for [127.0.0.1]:{own_server.port}" in str(caught.value)
    assert (known_hosts.read_text(encoding="ascii") if known_hosts.exists() else None) == before
    assert "Accepted publickey" not in own_server.log()
    type_hint(caught.value.hint)
    assert transport.run(["echo", "welcome"]).text() == "welcome"


def test_changed_host_key_is_refused_until_it_is_replaced(own_server: Sshd, connect: Connect) -> None:
    own_server.make_key("other_key")
    own_server.write_known_hosts("other_key")
    transport = connect(own_server.endpoint)
    with pytest.raises(HostKeyError, match="CHANGED") as caught:
        transport.run(["true"])
    for name in ("host_key", "other_key"):
        assert fingerprint(own_server.directory / f"{name}.pub") in str(caught.value)
    assert "Accepted publickey" not in own_server.log()
    type_hint(caught.value.hint)
    assert transport.run(["echo", "welcome"]).text() == "welcome"


def test_wrong_key_is_refused_with_what_to_do(own_server: Sshd, connect: Connect) -> None:
    wrong = own_server.make_key("wrong_key")
    with pytest.raises(TransportError, match=r"does not let .* in with .*wrong_key") as caught:
        connect(replace(own_server.endpoint, private_key_file=wrong)).run(["true"])
    said = f"{caught.value} {caught.value.hint}"
    assert shlex.join(["ssh", "-p", str(own_server.port), "-i", str(wrong)]) in said
    assert "PRIVATE KEY" not in said
    assert all(line not in said for line in wrong.read_text(encoding="ascii").splitlines())


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        pytest.param("true", "cannot be read: No such file", id="missing"),
        pytest.param("echo rubbish > $1", "holds no private key", id="rubbish"),
        pytest.param("ssh-keygen -q -t ed25519 -N phrase -f $1", "passphrase", id="passphrase"),
    ],
)
def test_key_file_that_cannot_be_used(
    server: Sshd, connect: Connect, tmp_path: Path, make: str, reason: str
) -> None:
    key = tmp_path / "key"
    subprocess.run(["sh", "-c", make, "sh", key], check=True)
    with pytest.raises(TransportError, match=reason):
        connect(replace(server.endpoint, private_key_file=key)).run(["true"])


def test_nothing_listens(connect: Connect, server: Sshd) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        endpoint = replace(server.endpoint, port=unused.getsockname()[1])
        with pytest.raises(TransportError, match=r"cannot connect to 127\.0\.0\.1 port \d+: .*refused"):
            connect(endpoint).run(["true"])


def test_something_listens_and_says_nothing(connect: Connect, server: Sshd) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = replace(server.endpoint, port=silent.getsockname()[1], connect_timeout_s=1)
        started_s = time.monotonic()
        with pytest.raises(TransportError, match=r"cannot connect .* no SSH server answered in 1 s"):
            connect(endpoint).run(["true"])
        assert time.monotonic() - started_s < 10


# --- connections that end ----------------------------------------------------------------------------------


def test_lost_connection_is_an_error_at_once_and_the_next_command_connects_again(
    own_server: Sshd, connect: Connect, capfd: pytest.CaptureFixture[str]
) -> None:
    transport = connect(own_server.endpoint)
    with transport.open(SAY_ID_AND_SLEEP) as command, ThreadPoolExecutor(4) as threads:
        process_id = int(command.read())
        calls: list[Future[Any]] = [
            threads.submit(command.read),
            threads.submit(command.wait),
            threads.submit(command.write, bytes(64 * MEBIBYTE)),
            threads.submit(transport.run, ["sleep", "1000"]),
        ]
        eventually(lambda: len(own_server.commands("sleep")) == 2)
        orphans = own_server.commands("sleep")
        lost_s = time.monotonic()
        own_server.kill_sessions()
        errors = [call.exception(PATIENCE_S) for call in calls]
        assert time.monotonic() - lost_s < 5
        assert all(isinstance(error, TransportError) for error in errors), errors
        assert f"`sh` (process {process_id}) on 127.0.0.1 ran" in str(errors[0])
        with pytest.raises(TransportError):
            command.kill()
        assert transport.run(["echo", "again"]).text() == "again"
    assert is_running(process_id), "only the connection was lost"
    for number in orphans:
        os.kill(number, signal.SIGKILL)
    assert capfd.readouterr() == ("", "")


def test_output_that_was_cut_off_is_never_taken_for_all_of_it(own_server: Sshd, connect: Connect) -> None:
    transport = connect(own_server.endpoint)
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(transport.run, ["sh", "-c", "cat /dev/zero"])
        time.sleep(1)
        own_server.kill_sessions()
        assert isinstance(running.exception(PATIENCE_S), TransportError)


def test_put_that_was_cut_off_leaves_the_old_file(own_server: Sshd, connect: Connect, tmp_path: Path) -> None:
    class CutOff(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if self.tell() == 8 * MEBIBYTE:
                own_server.kill_sessions()
            return super().read(size)

    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(TransportError):
        connect(own_server.endpoint).put_stream(CutOff(bytes(64 * MEBIBYTE)), str(path))
    assert path.read_bytes() == b"old"
    assert not list(tmp_path.glob(".file.*"))


def test_silent_connection_is_given_up(own_server: Sshd, connect: Connect) -> None:
    transport = connect(replace(own_server.endpoint, keepalive_s=0.3))
    expected = pytest.raises(TransportError, match=r"was lost while `sh` \(process \d+\) on 127\.0\.0\.1 ran")
    with expected, transport.open(SAY_ID_AND_SLEEP) as command:
        assert command.read()
        time.sleep(1.5)
        sessions = own_server.sessions()
        assert transport.run(["true"]).returncode == 0
        assert own_server.sessions() == sessions, "an idle connection is kept while the host answers"
        for number in own_server.sessions():
            os.kill(number, signal.SIGSTOP)
        command.read()
    assert transport.run(["echo", "again"]).text() == "again"


def test_server_that_is_gone_and_back(own_server: Sshd, connect: Connect) -> None:
    transport = connect(own_server.endpoint)
    transport.run(["true"]).check()
    own_server.stop()
    with pytest.raises(TransportError, match="cannot connect"):
        transport.run(["true"])
    own_server.start()
    assert transport.run(["echo", "again"]).text() == "again"
    transport.close()
    assert transport.run(["echo", "after close"]).text() == "after close"


# --- how servers are set up --------------------------------------------------------------------------------


def test_one_session_for_each_connection_is_enough(tmp_path: Path, connect: Connect) -> None:
    with running_sshd(tmp_path, extra="MaxSessions 1") as server:
        transport = connect(server.endpoint)
        with transport.open(SAY_ID_AND_SLEEP) as first, transport.open(SAY_ID_AND_SLEEP) as second:
            ids = [int(first.read()), int(second.read())]
            first.kill()
            assert transport.run(["echo", "third"]).text() == "third"
        await_end(*ids)


def test_new_keys_in_the_middle_of_streams(tmp_path: Path, connect: Connect) -> None:
    with running_sshd(tmp_path, extra="RekeyLimit 4M") as server:
        data = os.urandom(MEBIBYTE) * 64
        assert connect(server.endpoint).run(["cat"], stdin=data, timeout_s=300).stdout == data


def test_server_that_refuses_the_command(tmp_path: Path, connect: Connect) -> None:
    with (
        running_sshd(tmp_path, extra="MaxSessions 0") as server,
        pytest.raises(TransportError, match="opens no session"),
    ):
        connect(server.endpoint).run(["true"])


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_announcement_is_taken_out_of_stderr(size: int) -> None:
    announcement = Announcement()
    stream = f"login noise\n{announcement.token}:4711\nfirst\n{announcement.token}:1\n".encode()
    pieces = [stream[start : start + size] for start in range(0, len(stream), size)]
    kept = b"".join(announcement.filter(piece) for piece in pieces) + announcement.flush()
    assert announcement.process_id == 4711
    assert kept == f"login noise\nfirst\n{announcement.token}:1\n".encode()


def test_stderr_without_an_announcement_is_kept() -> None:
    announcement = Announcement()
    assert announcement.filter(b"This account is not available.\n") == b""
    assert announcement.flush() == b"This account is not available.\n"
    assert announcement.process_id is None
