"""The contract of transports, held to by this host and by a real sshd alike, and what only SSH can get wrong."""

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

from dbha.transport import (
    CommandFailedError,
    CommandTimeoutError,
    Completed,
    HostKeyError,
    LocalTransport,
    SshEndpoint,
    SshTransport,
    Transport,
    TransportError,
)
from dbha.transport.shell import Announcement
from tests.real.sshd import Sshd, is_running, running_sshd

pytestmark = pytest.mark.real

PATIENCE_S = 60.0
MEBIBYTE = 1 << 20
SAY_ID_AND_SLEEP = ["sh", "-c", "echo $$; exec sleep 1000"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with running_sshd(tmp_path_factory.mktemp("sshd")) as server:
        yield server


@pytest.fixture(scope="module", params=["local", "ssh"])
def transport(request: pytest.FixtureRequest) -> Iterator[Transport]:
    transport: Transport = LocalTransport()
    if request.param == "ssh":
        transport = SshTransport(request.getfixturevalue("server").endpoint)
    with contextlib.closing(transport):
        yield transport


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


def await_end(*process_ids: int) -> None:
    eventually(lambda: not any(is_running(number) for number in process_ids))


def eventually(happened: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not happened():
        assert time.monotonic() < deadline_s, "did not happen in time"
        time.sleep(0.02)


# --- commands ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "returncode"),
    [
        ("true", 0),
        ("exit 1", 1),
        ("exit 3", 3),
        ("exit 255", 255),
        ("kill -TERM $$", 128 + signal.SIGTERM),
        ("kill -KILL $$", 128 + signal.SIGKILL),
        ("kill -USR1 $$", 128 + signal.SIGUSR1),
    ],
)
def test_exit_status(transport: Transport, script: str, returncode: int) -> None:
    argv = ("sh", "-c", f"echo out; echo err >&2; {script}")
    assert transport.run(argv) == Completed(argv, returncode, b"out\n", b"err\n")


def test_missing_program_is_127_and_says_its_name(transport: Transport) -> None:
    completed = transport.run(["dbha-no-such-program", "--option"])
    assert completed.returncode == 127
    assert completed.stderr.startswith(b"sh: ") and b"dbha-no-such-program" in completed.stderr


def test_file_that_is_no_program_is_126(transport: Transport, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text", encoding="ascii")
    assert transport.run([str(tmp_path / "file")]).returncode == 126


def test_arguments_arrive_as_they_are(transport: Transport) -> None:
    arguments = [
        "", "two words", " ", "'", '"', "\\", "\\n", "line\nline\n", "\t", "Grüße ☃ 𝄞", "-n", "--", "-", "$HOME",
        "$(id)", "`id`", "!!", "*", "~", "a;b", "a|b", "a&b", "#", "{a,b}", "%s", "A=b", "\x01\x7f", "\r\n",
        os.fsdecode(b"\xff\xfe"), "x" * 100_000,
    ]  # fmt: skip
    completed = transport.run(["sh", "-c", 'printf "%s\\0" "$@"', "sh", *arguments])
    assert completed.stdout.split(b"\0")[:-1] == [os.fsencode(argument) for argument in arguments]


@pytest.mark.parametrize("argv", [[], [""], "true", ["echo", "a\0b"]])
def test_what_is_no_command_is_a_bug(transport: Transport, argv: list[str]) -> None:
    with pytest.raises(ValueError, match=r"argument|program"):
        transport.run(argv)


def test_environment(transport: Transport) -> None:
    environment = {"DBHA_A": "two words\n'$HOME'", "DBHA_EMPTY": ""}
    argv = ["sh", "-c", 'printf "%s|%s|%s" "$DBHA_A" "${DBHA_EMPTY-unset}" "${PATH:+path}"']
    assert transport.run(argv, environment=environment).text() == f"{environment['DBHA_A']}||path"


def test_stdin_and_stdout_are_binary(transport: Transport) -> None:
    data = bytes(range(256)) * 20_000 + b"no newline"
    assert transport.run(["cat"], stdin=data).stdout == data


def test_stdin_that_nobody_reads(transport: Transport) -> None:
    assert transport.run(["true"], stdin=bytes(20 * MEBIBYTE)).returncode == 0


def test_no_stdin_is_an_empty_one(transport: Transport) -> None:
    assert transport.run(["wc", "-c"]).text().strip() == "0"


def test_both_outputs_and_stdin_are_large(transport: Transport) -> None:
    script = "head -c 100M /dev/zero & head -c 100M /dev/zero >&2; wc -c >&2; wait"
    completed = transport.run(["sh", "-c", script], stdin=bytes(50 * MEBIBYTE), timeout_s=300)
    assert completed.returncode == 0
    assert len(completed.stdout) == 100 * MEBIBYTE
    assert completed.stderr[100 * MEBIBYTE :].strip() == str(50 * MEBIBYTE).encode()


def test_text_and_check(transport: Transport) -> None:
    assert transport.run(["printf", "one\ntwo\n\n"]).check().text() == "one\ntwo\n"
    assert transport.run(["printf", "\\377"]).text() == "\N{REPLACEMENT CHARACTER}"
    with pytest.raises(CommandFailedError, match=r"`sh` ended with exit status 5: last") as caught:
        transport.run(["sh", "-c", "echo first >&2; echo last >&2; exit 5", "sh", "argument"]).check()
    assert (caught.value.command, caught.value.returncode) == ("sh", 5)
    assert caught.value.stderr_tail == "first\nlast"
    assert "argument" not in str(caught.value)


def test_many_commands_side_by_side(transport: Transport) -> None:
    """More than sshd's default of 10 sessions for a connection, and all at the same time."""
    meeting = "mkdir -p $1; : > $1/$2; while [ $(ls $1 | wc -l) -lt 16 ]; do sleep 0.05; done; echo $2"
    with ThreadPoolExecutor(16) as threads:
        place = transport.run(["mktemp", "-d"]).text()
        answers = threads.map(
            lambda number: transport.run(["sh", "-c", meeting, "sh", place, str(number)]).text(), range(16)
        )
        assert list(answers) == [str(number) for number in range(16)]
    transport.run(["rm", "-r", place]).check()


def test_daemon_that_let_go_of_the_streams_stays(transport: Transport) -> None:
    daemon = int(transport.run(["sh", "-c", "sleep 1000 >/dev/null 2>&1 </dev/null & echo $!"]).text())
    assert is_running(daemon)
    os.kill(daemon, signal.SIGKILL)


# --- ends --------------------------------------------------------------------------------------------------


def test_timeout_ends_the_command_and_its_children(transport: Transport, tmp_path: Path) -> None:
    script = "sleep 1000 & echo $$ $! > $1.new; mv $1.new $1; wait"
    with pytest.raises(CommandTimeoutError, match=r"`sh` did not end within 2 s and was ended"):
        transport.run(["sh", "-c", script, "sh", str(tmp_path / "ids")], timeout_s=2)
    await_end(*(int(number) for number in (tmp_path / "ids").read_text(encoding="ascii").split()))


def test_timeout_while_nobody_reads_stdin_and_a_child_holds_stdout(transport: Transport) -> None:
    started_s = time.monotonic()
    with pytest.raises(CommandTimeoutError):
        transport.run(["sh", "-c", "sleep 1000 & exit 0"], stdin=bytes(20 * MEBIBYTE), timeout_s=1)
    assert time.monotonic() - started_s < PATIENCE_S


def test_wait_with_a_timeout_ends_the_command(transport: Transport) -> None:
    with transport.open(SAY_ID_AND_SLEEP) as command:
        process_id = int(command.read())
        with pytest.raises(CommandTimeoutError, match=r"`sh` did not end within 0\.2 s"):
            command.wait(timeout_s=0.2)
        await_end(process_id)


def test_leaving_the_context_ends_the_command(transport: Transport) -> None:
    with pytest.raises(KeyError), transport.open(SAY_ID_AND_SLEEP) as command:
        process_id = int(command.read())
        assert is_running(process_id)
        raise KeyError
    await_end(process_id)


def test_kill_ends_every_wait_of_other_threads(transport: Transport) -> None:
    with transport.open(SAY_ID_AND_SLEEP) as command, ThreadPoolExecutor(3) as threads:
        process_id = int(command.read())
        reading = threads.submit(command.read)
        writing = threads.submit(command.write, bytes(64 * MEBIBYTE))
        waiting = threads.submit(command.wait)
        time.sleep(0.3)
        assert not (reading.done() or writing.done() or waiting.done())
        command.kill()
        command.kill()
        await_end(process_id)
        assert reading.result(PATIENCE_S) == b""
        assert waiting.result(PATIENCE_S) == 128 + signal.SIGKILL
        assert isinstance(writing.exception(PATIENCE_S), BrokenPipeError)


def test_kill_at_once_and_after_the_end(transport: Transport) -> None:
    with transport.open(["sleep", "1000"]) as command:
        command.kill()
        assert command.wait(timeout_s=PATIENCE_S) == 128 + signal.SIGKILL
    with transport.open(["true"]) as command:
        assert command.wait() == 0
        command.kill()


# --- streams -----------------------------------------------------------------------------------------------


def test_streams_of_a_running_command(transport: Transport) -> None:
    with transport.open(["sh", "-c", "while read -r line; do echo got $line; done; echo end >&2"]) as command:
        for word in (b"one", b"two"):
            command.write(word + b"\n")
            assert command.read() == b"got " + word + b"\n"
        command.close_stdin()
        command.close_stdin()
        assert command.read() == b""
        assert command.wait() == 0
        assert command.stderr_tail() == b"end\n"


def test_read_returns_no_more_than_asked(transport: Transport) -> None:
    with transport.open(["printf", "abcdef"]) as command:
        assert [command.read(1), b"".join(iter(lambda: command.read(2), b""))] == [b"a", b"bcdef"]


def test_write_waits_for_the_command(transport: Transport, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    script = 'cat "$1"; wc -c'
    with transport.open(["sh", "-c", script, "sh", str(gate)]) as command, ThreadPoolExecutor(1) as threads:
        writing = threads.submit(command.write, bytes(32 * MEBIBYTE))
        time.sleep(0.5)
        assert not writing.done()
        gate.write_bytes(b"")
        writing.result(PATIENCE_S)
        command.close_stdin()
        assert int(command.read()) == 32 * MEBIBYTE


def test_slow_reader_gets_everything(transport: Transport) -> None:
    digest = ["sh", "-c", "sleep 1; sha256sum"]
    data = os.urandom(MEBIBYTE) * 48
    with transport.open(digest) as command:
        command.write(data)
        command.close_stdin()
        answer = command.read()
    assert answer == subprocess.run(["sha256sum"], input=data, capture_output=True, check=True).stdout


def test_write_after_the_end_is_a_broken_pipe(transport: Transport) -> None:
    with transport.open(["true"]) as command, pytest.raises(BrokenPipeError):
        deadline_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline_s:
            command.write(b"x" * 1000)


def test_stderr_is_drained_and_its_tail_kept(transport: Transport) -> None:
    with transport.open(["sh", "-c", "head -c 20M /dev/zero >&2; printf end >&2; echo out"]) as command:
        assert command.wait(timeout_s=PATIENCE_S) == 0
        assert command.stderr_tail() == bytes(65536 - 3) + b"end"
        assert command.read() == b"out\n"


# --- files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["file", "two words", "-rf", 'it\'s "$HOME"\n☃'])
@pytest.mark.parametrize("mode", [0o600, 0o644, 0o750])
def test_put_and_get(transport: Transport, tmp_path: Path, name: str, mode: int) -> None:
    path = tmp_path / name
    for content in (bytes(range(256)) * 10_000, b""):
        transport.put(content, str(path), mode=mode)
        assert path.read_bytes() == content == transport.get(str(path))
        assert path.stat().st_mode & 0o7777 == mode
    assert list(tmp_path.iterdir()) == [path]


def test_put_is_private_by_default(transport: Transport, tmp_path: Path) -> None:
    transport.put(b"secret", str(tmp_path / "file"))
    assert (tmp_path / "file").stat().st_mode & 0o7777 == 0o600


def test_put_replaces_the_file_and_never_writes_into_it(transport: Transport, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with path.open("rb") as reader:
        transport.put(b"new", str(path))
        assert (reader.read(), path.read_bytes()) == (b"old", b"new")


def test_put_of_a_stream_that_breaks_leaves_the_old_file(transport: Transport, tmp_path: Path) -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if self.tell() >= 3 * MEBIBYTE:
                raise OSError("the source broke")
            return super().read(size)

    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(OSError, match="the source broke"):
        transport.put_stream(Broken(bytes(10 * MEBIBYTE)), str(path))
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_put_of_a_stream(transport: Transport, tmp_path: Path) -> None:
    content = os.urandom(MEBIBYTE) * 20 + b"end"
    transport.put_stream(io.BytesIO(content), str(tmp_path / "file"))
    assert (tmp_path / "file").read_bytes() == content


def test_put_that_the_host_refuses(transport: Transport, tmp_path: Path) -> None:
    with pytest.raises(CommandFailedError, match=r"`put .*/missing/file` ended with .*(nonexistent|No such)"):
        transport.put(b"x" * 5 * MEBIBYTE, str(tmp_path / "missing" / "file"))
    (tmp_path / "directory").mkdir()
    with pytest.raises(CommandFailedError, match="directory"):
        transport.put(b"x", str(tmp_path / "directory"))
    assert list(tmp_path.rglob("*")) == [tmp_path / "directory"]


def test_get_of_what_is_no_file(transport: Transport, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="missing"):
        transport.get(str(tmp_path / "missing"))
    with pytest.raises(CommandFailedError, match=r"`get .*` ended with exit status 1: .*[Dd]irectory"):
        transport.get(str(tmp_path))


# --- SSH: who is there ---------------------------------------------------------------------------------------

Connect = Callable[[SshEndpoint], SshTransport]


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


# --- SSH: connections that end -------------------------------------------------------------------------------


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


# --- SSH: how servers are set up -----------------------------------------------------------------------------


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
