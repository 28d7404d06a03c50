"""Where a service's native commands run, and running other commands there.

The place is an environment of dbha's own, behind a command prefix (`docker exec -i nova_api`), or a host.
A command gets its configuration on standard input everywhere, so the password is in no file, argument or
environment variable of that place.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from dbha.errors import UnreachableError
from dbha.releases.streaming import OnLine, Streamed, silent, stream
from dbha.services import Meaning
from dbha.transport import LocalTransport, Transport

# Said from within the place, so that a place that cannot be entered and a tool that fails can be told apart
# whatever exit status the prefix makes of it.
STARTED = "dbha: started"

# The first line of a script that is sent: Python would import modules of the folder it was started in first, and that
# is the operator's, where anything may lie.
WITHOUT_CURRENT_DIRECTORY = "import sys; sys.path[:] = [path for path in sys.path if path]\n"

_LAUNCH = Path(__file__).with_name("launch_script.py")

# oslo.config lets OS_* variables win over the configuration, and Python has variables of its own.
_CLEAN_ENVIRONMENT = ("env", "-i", "PATH=/usr/bin:/bin", "HOME=/", "LC_ALL=C.UTF-8", "PYTHONWARNINGS=ignore")

_NOT_FOUND = 127


@dataclass(frozen=True, slots=True)
class Runner:
    """A place that has a service's tools; `hint` is what to type when it does not."""

    name: str
    transport: Transport
    prefix: tuple[str, ...] = ()
    directory: str = ""  # of the tools; empty: wherever that place finds them
    hint: str = ""

    def path_of(self, tool: str) -> str:
        """Return how the tool is called there."""
        return f"{self.directory}/{tool}" if self.directory else tool


@dataclass(frozen=True, slots=True)
class NativeResult:
    """A native command that ended; nothing in it shows a password."""

    argv: tuple[str, ...]  # as an operator would type it, without how dbha starts it
    returncode: int
    meaning: Meaning
    tail: tuple[str, ...]  # of its output
    seconds: float

    @property
    def is_success(self) -> bool:
        """True when the command has nothing left to do."""
        return self.meaning.is_success


def environment_runner(release: str, directory: Path, transport: Transport | None = None) -> Runner:
    """Return a runner for the environment of a release in `directory`."""
    return Runner(
        name=f"the environment of {release}",
        transport=transport or LocalTransport(),
        prefix=_CLEAN_ENVIRONMENT,
        directory=str(directory / "bin"),
        hint=f"dbha release install {release}",
    )


def prefix_runner(prefix: tuple[str, ...]) -> Runner:
    """Return a runner that puts a prefix before each command, such as `docker exec -i nova_api`."""
    line = " ".join(prefix)
    hint = f"try `{line} true`; the prefix must pass standard input on (docker exec needs -i)"
    return Runner(line, LocalTransport(), prefix, hint=hint)


def host_runner(transport: Transport, *, prefix: tuple[str, ...] = ()) -> Runner:
    """Return a runner for a host that has the tools, behind a prefix there if that is needed."""
    hint = f"install the service on {transport.host}, or run its tools here: dbha release install"
    return Runner(f"host {transport.host}", transport, prefix, hint=hint)


def argv_within(runner: Runner, argv: tuple[str, ...]) -> tuple[str, ...]:
    """Return what the transport runs so that `argv` runs in the runner's place."""
    tool, *arguments = argv
    launch = (runner.path_of("python3"), "-c", _LAUNCH.read_text(), STARTED)
    return (*runner.prefix, *launch, runner.path_of(tool), *arguments)


def run_within(
    runner: Runner, argv: tuple[str, ...], *, stdin: str = "", timeout_s: float, on_line: OnLine = silent
) -> Streamed:
    """Run a command in the runner's place and return how it ended.

    Raises UnreachableError, nothing having been changed, when the place or the tool is not there.
    """
    entered = False

    def watch(line: str) -> None:
        nonlocal entered
        if line == STARTED:
            entered = True
        else:
            on_line(line)

    whole = argv_within(runner, argv)
    ended = stream(runner.transport, whole, stdin=stdin, timeout_s=timeout_s, on_line=watch)
    ended = replace(ended, tail=tuple(line for line in ended.tail if line != STARTED))
    if not entered or ended.returncode == _NOT_FOUND:
        reason = ended.tail[-1] if ended.tail else f"exit status {ended.returncode}"
        raise UnreachableError(f"{argv[0]} cannot be run in {runner.name}: {reason}", hint=runner.hint)
    return ended
