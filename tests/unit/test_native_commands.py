"""Running native commands: where they run, what a missing tool looks like, and that nothing shows a password."""

import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import pytest

from dbha.errors import UnreachableError
from dbha.releases.configuration import Endpoint, ToolConfiguration, render_config
from dbha.releases.probe import probe
from dbha.releases.runner import (
    STARTED,
    NativeResult,
    Runner,
    argv_within,
    environment_runner,
    host_runner,
    prefix_runner,
    run_within,
)
from dbha.releases.streaming import OnLine, silent
from dbha.releases.tools import Tools
from dbha.secrets import Secret
from dbha.services import KEYSTONE, NOVA, NativeCommand, Outcome
from dbha.transport import Completed, LocalTransport, TransportError

PASSWORD = "s3cret%word"
MARKER = "<marker>"
((SYNC,),) = KEYSTONE.stages()


class FakeCommand:
    """A command with ready output; reading is all it allows beyond what `stream` has to do."""

    def __init__(self, output: bytes, returncode: int, stderr: bytes) -> None:
        self.output = [output[i : i + 7] for i in range(0, len(output), 7)]  # lines arrive in pieces
        self.returncode, self.stderr = returncode, stderr
        self.stdin = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def read(self, size: int = 1 << 20) -> bytes:
        return self.output.pop(0) if self.output else b""

    def write(self, data: bytes) -> None:
        self.stdin += data

    def close_stdin(self) -> None: ...

    def wait(self, *, timeout_s: float | None = None) -> int:
        return self.returncode

    def stderr_tail(self) -> bytes:
        return self.stderr

    def kill(self) -> None:
        raise AssertionError("nothing here runs too long")


class FakeTransport:
    """Opens one command, once; MARKER in its output becomes the one it was given."""

    host = "ctl1"

    def __init__(self, output: str, returncode: int = 0, stderr: str = "") -> None:
        self.output, self.returncode, self.stderr = output, returncode, stderr
        self.argv: tuple[str, ...] = ()

    def open(self, argv: Sequence[str], *, environment: Mapping[str, str] | None = None) -> FakeCommand:
        assert not self.argv, "one command only"
        assert not environment
        self.argv = tuple(argv)
        output = self.output.replace(MARKER, self.argv[-2])
        self.command = FakeCommand(output.encode(), self.returncode, self.stderr.encode())
        return self.command

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        timeout_s: float = 60,
        environment: Mapping[str, str] | None = None,
    ) -> Completed:
        raise AssertionError(f"unexpected: {argv}")

    def put(self, content: bytes, path: str, *, mode: int = 0o600) -> None:
        raise AssertionError(f"unexpected: {path}")

    def put_stream(self, source: BinaryIO, path: str, *, mode: int = 0o600) -> None:
        raise AssertionError(f"unexpected: {path}")

    def get(self, path: str) -> bytes:
        raise AssertionError(f"unexpected: {path}")

    def close(self) -> None: ...


def native(
    runner: Runner, command: NativeCommand, configuration: ToolConfiguration, *, timeout_s: float,
    on_line: OnLine = silent,
) -> NativeResult:  # fmt: skip
    """Run one command with tools that are started for it."""
    with Tools(runner) as tools:
        return tools.run(command, configuration, timeout_s=timeout_s, on_line=on_line)


def configuration(command: NativeCommand = SYNC) -> ToolConfiguration:
    return render_config(command, Endpoint("127.0.0.1", 3306, "keystone_dbha", Secret(PASSWORD)))


def test_output_streams_line_by_line_and_the_result_says_what_the_code_means() -> None:
    transport = FakeTransport(
        f"{MARKER} began\nINFO one\n\nINFO two\nlast without newline\n{MARKER} ended 0\n"
    )
    seen: list[str] = []
    result = native(host_runner(transport), SYNC, configuration(), timeout_s=9, on_line=seen.append)
    assert seen == ["INFO one", "", "INFO two", "last without newline"]
    assert result.tail == tuple(seen)
    assert (result.returncode, result.meaning.outcome) == (0, Outcome.DONE)
    request, _, content = transport.command.stdin.partition(b"\n")
    assert json.loads(request) == {"arguments": list(SYNC.argv[1:]), "stdin_bytes": len(content)}
    assert content.decode() == configuration().text.reveal()


def test_the_password_is_in_no_argument_no_line_and_no_result() -> None:
    words = f"cannot connect with {PASSWORD}, that is s3cret%25word"
    transport = FakeTransport(f"{MARKER} began\n{words}\n\n{MARKER} ended 1\n")
    seen: list[str] = []
    result = native(host_runner(transport), SYNC, configuration(), timeout_s=9, on_line=seen.append)
    assert result.meaning.outcome is Outcome.FAILED
    for text in (*seen, *transport.argv, repr(result)):
        assert "s3cret" not in text
    assert seen == ["cannot connect with ***, that is ***"]


@pytest.mark.parametrize(
    ("transport", "reason"),
    [
        pytest.param(
            FakeTransport("", 1, "Error response from daemon: No such container: nova_api\n"),
            "No such container",
            id="the place cannot be entered",
        ),
        pytest.param(FakeTransport("", 0), "exit status 0", id="a prefix that runs nothing and succeeds"),
        pytest.param(
            FakeTransport(
                f"{MARKER} began\nkeystone-manage: No such file or directory\n\n{MARKER} ended 127\n"
            ),
            "No such file",
            id="the place has no such tool",
        ),
    ],
)
def test_a_tool_that_never_ran_is_no_failed_sync(transport: FakeTransport, reason: str) -> None:
    runner = Runner("ctl1", transport, hint="type this")
    with pytest.raises(UnreachableError) as caught:
        native(runner, SYNC, configuration(), timeout_s=9)
    assert str(caught.value).startswith("keystone-manage cannot be run in ctl1: ")
    assert reason in str(caught.value)
    assert caught.value.hint == "type this"


def test_the_hint_of_an_environment_is_to_install_it() -> None:
    runner = environment_runner("2026.2", Path("/nowhere/2026.2"))
    with pytest.raises(UnreachableError) as caught:
        native(runner, SYNC, configuration(), timeout_s=9)
    assert caught.value.hint == "dbha release install 2026.2"


def test_where_commands_run_is_what_stands_before_them() -> None:
    docker = prefix_runner(("docker", "exec", "-i", "nova_api"))
    argv = argv_within(docker, ("nova-manage", "db", "sync"))
    assert argv[:5] == ("docker", "exec", "-i", "nova_api", "python3")
    assert argv[-4:] == (STARTED, "nova-manage", "db", "sync")
    own = argv_within(environment_runner("2026.2", Path("/r/2026.2")), ("nova-manage", "db", "sync"))
    assert own[:2] == ("env", "-i")
    assert own[-4:] == (STARTED, "/r/2026.2/bin/nova-manage", "db", "sync")


@pytest.fixture
def place(tmp_path: Path) -> Runner:
    """A place whose only tool reads its configuration twice, as some do."""
    tool = tmp_path / "keystone-manage"
    tool.write_text('#!/bin/sh\ncat /dev/stdin\necho again >&2\ncat "$2"\necho "$HOME"\nexit 1\n')
    tool.chmod(0o755)
    (tmp_path / "python3").symlink_to(sys.executable)
    return Runner("a place", LocalTransport(), ("env", "HOME=/other"), str(tmp_path))


def test_a_tool_can_read_its_configuration_as_often_as_it_likes(place: Runner) -> None:
    result = native(place, SYNC, configuration(), timeout_s=20)
    first, _, second = "\n".join(result.tail).partition("\nagain\n")
    assert "connection = mysql+pymysql://keystone_dbha@127.0.0.1:3306/keystone" in first
    assert second == f"{first}\n/other"
    assert "password=***" in first
    assert result.returncode == 1
    assert result.argv[:3] == ("env", "HOME=/other", f"{place.directory}/keystone-manage")


def test_a_tool_that_does_not_end_is_ended_and_has_failed(tmp_path: Path) -> None:
    result = native(
        Runner("a place", LocalTransport(), ("env", f"PATH={_slow_tool(tmp_path)}:/usr/bin:/bin")),
        SYNC,
        configuration(),
        timeout_s=1.5,
    )
    assert result.tail == ("started",)
    assert result.meaning.outcome is Outcome.FAILED
    assert "it still ran after 1.5 s" in result.meaning.sentence
    assert result.seconds < 15


def _slow_tool(directory: Path) -> Path:
    tool = directory / "keystone-manage"
    tool.write_text("#!/bin/sh\necho started\nsleep 60\n")
    tool.chmod(0o755)
    (directory / "python3").symlink_to(sys.executable)
    return directory


LOADABLE = """#!/bin/sh
\'\'\'exec' "$(dirname -- "$(realpath -- "$0")")"/'python3' "$0" "$@"
' \'\'\'
from keystone_tool import main
if __name__ == "__main__":
    main()
"""
MODULE = """import os, sys
print("imported by", os.getpid(), flush=True)
def main():
    print(os.getpid(), os.getppid(), sys.argv[1:], open("/dev/stdin").read().count("connection ="))
    if sys.argv[-1] == "die":
        os.kill(os.getpid(), 9)
    sys.exit(3)
"""


@pytest.fixture
def loadable(tmp_path: Path) -> Runner:
    """A place whose tool is a script like those that pip and uv write."""
    tool = tmp_path / "keystone-manage"
    tool.write_text(LOADABLE)
    tool.chmod(0o755)
    (tmp_path / "keystone_tool.py").write_text(MODULE)
    (tmp_path / "python3").symlink_to(sys.executable)
    return Runner("a place", LocalTransport(), ("env", f"PYTHONPATH={tmp_path}"), str(tmp_path))


def test_modules_are_imported_once_for_all_commands_of_a_tool(loadable: Runner) -> None:
    with Tools(loadable) as tools:
        tools.warm_up(["keystone-manage"])
        first = tools.run(SYNC, configuration(), timeout_s=20)
        second = tools.run(SYNC, configuration(), timeout_s=20)
        died = tools.run(replace(SYNC, arguments=("die",)), configuration(), timeout_s=20)
    parent = first.tail[0].removeprefix("imported by ")
    words = f"{parent} {[*SYNC.argv[1:]]} 1"
    assert [first.tail[1].partition(" ")[2], second.tail[0].partition(" ")[2]] == [words, words]
    assert (len(first.tail), len(second.tail)) == (2, 1)
    assert (first.returncode, second.returncode, died.returncode) == (3, 3, 128 + 9)
    assert not Path(f"/proc/{parent}").exists()


def test_a_tool_that_was_ended_while_it_waited_is_started_again(loadable: Runner) -> None:
    with Tools(loadable) as tools:
        first = tools.run(SYNC, configuration(), timeout_s=20)
        os.kill(int(first.tail[0].split()[-1]), signal.SIGKILL)
        again = tools.run(SYNC, configuration(), timeout_s=20)
    assert (again.returncode, len(again.tail)) == (3, 2)


def test_modules_in_the_operators_folder_are_not_imported(
    loadable: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "anybody's"
    folder.mkdir()
    for module in ("json", "re", "pathlib", "keystone_tool", "importlib"):
        (folder / f"{module}.py").write_text("raise SystemExit('imported from the folder')")
    monkeypatch.chdir(folder)
    assert native(loadable, SYNC, configuration(), timeout_s=20).returncode == 3
    assert "nova is not installed" in probe(loadable, [NOVA]).problems["nova"]


class NoTransport(FakeTransport):
    """Reaches nobody."""

    def open(self, argv: Sequence[str], *, environment: Mapping[str, str] | None = None) -> FakeCommand:
        raise TransportError("ctl1 cannot be reached")


def test_a_place_that_cannot_be_reached_shows_when_it_is_used() -> None:
    with Tools(host_runner(NoTransport(""))) as tools:
        tools.warm_up(["keystone-manage"])
        with pytest.raises(TransportError, match="ctl1 cannot be reached"):
            tools.run(SYNC, configuration(), timeout_s=1)


def test_a_tool_whose_modules_cannot_be_imported_says_so_itself(loadable: Runner) -> None:
    Path(loadable.directory, "keystone_tool.py").unlink()
    with Tools(loadable) as tools:
        result = tools.run(SYNC, configuration(), timeout_s=20)
    assert result.returncode == 1
    assert "ModuleNotFoundError: No module named 'keystone_tool'" in result.tail[-1]


def test_a_tool_in_no_path_is_named(place: Runner) -> None:
    with pytest.raises(UnreachableError, match=r"nova-manage cannot be run in a place: .*No such file"):
        run_within(place, ("nova-manage", "--help"), timeout_s=20)


def test_code_that_is_not_there_is_a_problem_of_each_of_its_databases(place: Runner) -> None:
    answer = probe(place, [NOVA])
    assert answer.heads == {}
    assert answer.problems == dict.fromkeys(
        ("nova_api", "nova_cell0", "nova"), "ModuleNotFoundError: nova is not installed"
    )


def test_an_interpreter_that_gives_no_answer_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnreachableError, match="python3 cannot be run in a place"):
        probe(Runner("a place", LocalTransport(), directory=str(tmp_path)), [NOVA])
