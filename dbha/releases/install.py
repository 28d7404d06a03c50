"""Build the environment of a release with uv, as of that release's time, and see its tools start.

The build happens in a hidden directory beside the place it is renamed to when everything was proven, so an
interrupted one leaves nothing that looks installed; the next build removes what it left.
"""

import contextlib
import fcntl
import hashlib
import platform
import secrets
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from dbha.errors import ConfigurationError, UnreachableError
from dbha.releases.environments import Environment, Wanted, load, require, sync_directory, write_marker
from dbha.releases.probe import probe
from dbha.releases.release import Release
from dbha.releases.runner import Runner, environment_runner, run_within
from dbha.releases.streaming import OnLine, silent, stream
from dbha.releases.uv_commands import (
    GIVE_CONSTRAINTS,
    WRONG_CONSTRAINTS,
    create_argv,
    hint_of,
    install_argv,
    list_argv,
    parse_list,
)
from dbha.services import SERVICES
from dbha.transport import LocalTransport

INSTALL_TIMEOUT_S = 1800.0
START_TIMEOUT_S = 180.0

_BUILDING = "building-"

# In one stream, as uv talks on stderr.
_MERGED = ("sh", "-c", 'exec "$@" 2>&1', "sh")


@dataclass(frozen=True, slots=True)
class _Build:
    release: Release
    directory: Path
    constraints: Path | None
    wanted: Wanted
    on_line: OnLine


def install(
    release: Release, root: Path, *, constraints: Path | None = None, on_line: OnLine = silent
) -> Environment:
    """Return the environment of a release, having built it unless just that one is there already.

    `constraints` is OpenStack's upper-constraints.txt for the release, and then decides all versions; an environment
    made from one is kept when none is given. Builds of one release wait for each other. Raises UnreachableError,
    with uv's own last words, when it cannot be built or a tool does not start; an environment that was there
    before is then as it was.
    """
    wanted = _wanted(release, constraints)
    root.mkdir(parents=True, exist_ok=True)
    with _lock(root / f".{release.name}.lock", on_line):
        present = load(release, root)
        if present is None or not present.wanted.satisfies(wanted):
            _remove_leftovers(root, release)
            # A name of its own: uv may outlive a dbha that was killed, and must not write into a later build.
            directory = root.absolute() / f".{release.name}.{_BUILDING}{secrets.token_hex(4)}"
            try:
                write_marker(_build(_Build(release, directory, constraints, wanted, on_line)))
                _publish(directory, root.absolute() / release.name)
            finally:
                _remove_leftovers(root, release)
        return require(release, root)


def _wanted(release: Release, constraints: Path | None) -> Wanted:
    if constraints is None:
        return Wanted(release.requirements(), resolved_as_of=release.resolved_as_of)
    try:
        digest = hashlib.sha256(constraints.read_bytes()).hexdigest()
    except OSError as error:
        raise ConfigurationError(str(constraints), [f"cannot be read: {error.strerror}"]) from error
    return Wanted(release.requirements(constrained=True), constraints_sha256=digest)


def _build(build: _Build) -> Environment:
    _run_uv(build, create_argv(build.directory))
    arguments = install_argv(
        build.directory,
        build.wanted.requirements,
        newest=build.wanted.resolved_as_of,
        constraints=build.constraints,
    )
    _run_uv(build, arguments)
    runner = environment_runner(build.release.name, build.directory)
    _see_tools_start(build, runner)
    heads = _ask_heads(build, runner)
    listing = LocalTransport().run(list_argv(build.directory)).check()
    return Environment(
        release=build.release.name,
        directory=build.directory,
        wanted=build.wanted,
        installed=datetime.now(UTC).isoformat(timespec="seconds"),
        python=platform.python_version(),
        packages=parse_list(listing.text()),
        heads=heads,
    )


def _run_uv(build: _Build, argv: tuple[str, ...]) -> None:
    said = stream(LocalTransport(), (*_MERGED, *argv), timeout_s=INSTALL_TIMEOUT_S, on_line=build.on_line)
    if said.returncode != 0:
        words = "\n".join(line for line in said.tail if line.strip())
        reason = f"was ended after {INSTALL_TIMEOUT_S:g} s" if said.timed_out else "failed"
        message = f"installing {build.release.name} {reason}; uv said:\n{words}"
        hint = hint_of(said.tail, constrained=build.constraints is not None)
        raise UnreachableError(message, hint=hint)


def _see_tools_start(build: _Build, runner: Runner) -> None:
    tools = [tool for service in SERVICES.values() for tool in service.tools]
    build.on_line(f"starting {', '.join(tools)}")
    with ThreadPoolExecutor(len(tools)) as pool:
        started = list(
            pool.map(lambda tool: run_within(runner, (tool, "--help"), timeout_s=START_TIMEOUT_S), tools)
        )
    for tool, ended in zip(tools, started, strict=True):
        if ended.returncode != 0:
            words = "\n".join(ended.tail[-15:])
            message = f"{tool} of {build.release.name} was installed and does not start:\n{words}"
            hint = WRONG_CONSTRAINTS if build.constraints else GIVE_CONSTRAINTS
            raise UnreachableError(message, hint=hint)


def _ask_heads(build: _Build, runner: Runner) -> dict[str, tuple[str, ...]]:
    answer = probe(runner)
    if answer.problems:
        problems = "\n".join(f"{database}: {problem}" for database, problem in answer.problems.items())
        raise UnreachableError(f"the code of {build.release.name} does not tell its schema:\n{problems}")
    for service in SERVICES.values():
        for database, expected in build.release.heads_of(service).items():
            if (found := answer.heads[database]) != expected:
                build.on_line(f"note: {database} has heads {found} in this code, not {expected}")
    return dict(answer.heads)


def _remove_leftovers(root: Path, release: Release) -> None:
    for leftover in root.glob(f".{release.name}.{_BUILDING}*"):
        shutil.rmtree(leftover, ignore_errors=True)


def _publish(directory: Path, place: Path) -> None:
    aside = directory.with_name(f"{directory.name}-replaced")
    if place.exists():
        place.rename(aside)
    directory.rename(place)
    sync_directory(place.parent)


@contextlib.contextmanager
def _lock(path: Path, on_line: OnLine) -> Iterator[None]:
    """Hold an exclusive lock, which ends with the process whatever ends that."""
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_line("another process is installing this release; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
