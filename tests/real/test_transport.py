"""The contract of transports, held to by this host and by a real sshd alike."""

import contextlib
import io
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dbha.transport import (
    CommandFailedError,
    CommandTimeoutError,
    Completed,
    LocalTransport,
    SshTransport,
    Transport,
)
from tests.real.sshd import is_running, running_sshd
from tests.real.transports import MEBIBYTE, PATIENCE_S, SAY_ID_AND_SLEEP, await_end

pytestmark = pytest.mark.real


@pytest.fixture(scope="module", params=["local", "ssh"])
def transport(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Transport]:
    with contextlib.ExitStack() as ended:
        transport: Transport = LocalTransport()
        if request.param == "ssh":
            server = ended.enter_context(running_sshd(tmp_path_factory.mktemp("sshd")))
            transport = SshTransport(server.endpoint)
        yield ended.enter_context(contextlib.closing(transport))


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
