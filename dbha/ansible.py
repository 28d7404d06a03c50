"""Run the playbooks. The only module that imports ansible_runner; its results are translated here, once."""

import atexit
import contextlib
import importlib.resources
import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future, InvalidStateError
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from typing import Any

from ansible_runner.interface import init_runner
from ansible_runner.runner import Runner

from dbha.errors import DbhaError, UnreachableError
from dbha.host import taken_along
from dbha.secrets import Secret

Event = dict[str, Any]

# What ansible-playbook gets of the operator's environment. The runner writes the environment into its artifacts
# and Ansible obeys ANSIBLE_*, so everything that is not known to be harmless and needed stays out.
_KEPT_VARIABLES = ("HOME", "LANG", "LC_ALL", "LOGNAME", "SSH_AUTH_SOCK", "TZ", "USER")
_RUNNER_VARIABLES = ("AWX_", "RUNNER_", "ANSIBLE_STDOUT_CALLBACK", "ANSIBLE_RETRY_FILES_ENABLED")
_KEPT_ARTIFACTS = 20
_MARK = "DBHA_RUN_DIRECTORY"  # in the environment of whatever a run starts on this host
_RUN_MARK = "DBHA_RUN"  # as above, of one run alone
_POLL_S = 0.02


class PlaybookError(DbhaError):
    """A playbook failed; the message names the host, the task and what the module said."""

    def __init__(self, playbook: str, failures: Sequence["TaskFailure"], *, hint: str = "") -> None:
        super().__init__(f"{playbook}: " + "; ".join(map(str, failures)), hint=hint)
        self.failures = tuple(failures)


class HostUnreachableError(UnreachableError):
    """Ansible could not reach a host, or lost it; what other hosts had done by then stays done."""


@dataclass(frozen=True, slots=True)
class TaskFailure:
    """A task that failed on a host, and why."""

    host: str
    task: str
    message: str

    def __str__(self) -> str:
        return f"{self.host}: {self.task}: {self.message}"


@dataclass(frozen=True, slots=True)
class PlaybookResult:
    """What a playbook did: the number of tasks by host, and how long it took.

    `changed` counts tasks that changed something, `ok` all that succeeded; `failures` and `dark` (unreachable)
    are empty in a result that `run_playbook` returned.
    """

    changed: dict[str, int]
    ok: dict[str, int]
    failures: dict[str, int]
    dark: dict[str, int]
    seconds: float

    @property
    def changed_anything(self) -> bool:
        """Whether any task changed anything on any host."""
        return any(self.changed.values())


def run_playbook(
    name: str,
    *,
    inventory: Path,
    run_directory: Path,
    variables: Mapping[str, object],
    secrets: Mapping[str, Secret],
    limit: Sequence[str] = (),
    on_line: Callable[[str], None] = lambda line: None,
) -> PlaybookResult:
    """Run the playbook called `name` on the hosts of `inventory`, or on those of `limit`, and return what it did.

    `on_line` gets the name of each task as it starts. What Ansible recorded stays in `run_directory`, without the
    variables and without any secret; a `run_directory` is for one run at a time, and what an interrupted one
    left running is ended first. Raises PlaybookError, or HostUnreachableError when no task failed but a host was
    lost. Tasks that use a secret must have `no_log: true`.
    """
    started_s = time.monotonic()
    what = _What(name, inventory.absolute(), run_directory.absolute(), tuple(limit))
    with _ahead_lock:
        run = _ahead.pop(what, None)
    end_leftovers(what.run_directory, but=run)
    if run is None or run.has_ended:
        run = _Run(what)
    text = json.dumps(
        {**variables, **{name: secret.reveal() for name, secret in secrets.items()}}, default=str
    )
    runner = run.go_on(text, on_line)
    result = _result(runner.stats or {}, time.monotonic() - started_s)
    _raise_failures(name, runner.rc, run.listener, result, what.run_directory)
    return result


def start_ahead(name: str, *, inventory: Path, run_directory: Path, limit: Sequence[str] = ()) -> None:
    """Start ansible-playbook before it is needed, for one `run_playbook` with the same arguments.

    It reads its own modules, most of its time, and waits for the variables; without them it cannot do anything.
    It ends with this process when nobody needs it.
    """
    what = _What(name, inventory.absolute(), run_directory.absolute(), tuple(limit))
    with _ahead_lock:
        if what not in _ahead:
            _ahead[what] = _Run(what)


@dataclass(frozen=True, slots=True)
class _What:
    """What is run, and on which hosts."""

    name: str
    inventory: Path
    run_directory: Path
    limit: tuple[str, ...]


class _Run:
    """A run of ansible-playbook that has begun, and that goes on once it is given its variables."""

    def __init__(self, what: _What) -> None:
        self.listener = _Listener()
        self.mark = f"{_RUN_MARK}={token_hex(8)}"
        self._what = what
        self._text: Future[str] = Future()
        self._runner: Future[Runner] = Future()
        what.run_directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        # A thread that lives as long as the run: the kernel ends a child with the thread that started it.
        threading.Thread(target=self._work, name=f"ansible {what.name}", daemon=True).start()

    @property
    def has_ended(self) -> bool:
        """Whether it ended already: somebody killed it while it waited."""
        return self._runner.done()

    def go_on(self, text: str, on_line: Callable[[str], None]) -> Runner:
        """Give it its variables and return the runner once it has ended."""
        self.listener.on_line = on_line
        with contextlib.suppress(InvalidStateError):  # it has ended, and the runner knows how
            self._text.set_result(text)
        return self._runner.result()

    def end(self) -> None:
        """End it before it began with anything."""
        _kill(os.fsencode(self.mark))
        self._text.cancel()

    def _work(self) -> None:
        try:
            self._runner.set_result(self._run())
        except BaseException as error:  # noqa: BLE001 - `go_on` raises it in the caller's thread
            self._runner.set_exception(error)

    def _run(self) -> Runner:
        what = self._what
        with (
            tempfile.TemporaryDirectory(prefix="dbha-") as private,
            _served(Path(private, "variables"), self._text) as extra,
        ):
            runner = init_runner(
                private_data_dir=str(what.run_directory), playbook=str(playbook_directory() / f"{what.name}.yml"),
                inventory=str(what.inventory), cmdline=f"--extra-vars @{extra}", limit=",".join(what.limit) or None,
                quiet=True, suppress_env_files=True, rotate_artifacts=_KEPT_ARTIFACTS,
                event_handler=self.listener, cancel_callback=lambda: False,  # else the runner takes our signals over
            )  # fmt: skip
            environment = _environment(runner.config.env, os.environ, private, what.run_directory)
            name, _, value = self.mark.partition("=")
            runner.config.env = {**environment, name: value}
            runner.config.command = [*taken_along(), *runner.config.command]
            runner.run()
            return runner


_ahead: dict[_What, _Run] = {}
_ahead_lock = threading.Lock()


@atexit.register
def _end_ahead() -> None:
    for run in _ahead.values():
        run.end()


def playbook_directory() -> Path:
    """Return where the playbooks are: in the installed package, or beside it in a checkout."""
    package = Path(str(importlib.resources.files("dbha")))
    for directory in (package / "playbooks", package.parent / "playbooks"):
        if directory.is_dir():
            return directory
    raise UnreachableError(f"the playbooks are not in {package}", hint="install dbha again")


class _Listener:
    """Hears the events of a run: tells the tasks as they start, and keeps the failures."""

    def __init__(self) -> None:
        self.on_line: Callable[[str], None] = lambda line: None
        self.failures: list[TaskFailure] = []
        self.unreachable: list[TaskFailure] = []

    def __call__(self, event: Event) -> bool:
        """Take one event; True tells the runner to record it."""
        data = event.get("event_data", {})
        kind = event.get("event")
        if kind == "playbook_on_task_start" and not data.get("task", "").startswith("Validating arguments"):
            self.on_line(data["task"])
        elif kind == "runner_on_failed" and not data.get("ignore_errors"):
            self.failures.append(_failure(data))
        elif kind == "runner_on_unreachable":
            self.unreachable.append(_failure(data))
        return True


def _failure(data: Mapping[str, Any]) -> TaskFailure:
    result = data.get("res") or {}
    message = result.get("msg") or result.get("censored") or "no message"
    if details := result.get("argument_errors") or result.get("stderr"):
        message = f"{message} {details if isinstance(details, str) else '; '.join(map(str, details))}"
    failed_items = [item for item in result.get("results", []) if item.get("failed")]
    if failed_items:
        message = "; ".join(str(item.get("msg", "no message")) for item in failed_items)
    return TaskFailure(data["host"], data.get("task", "?"), str(message).strip()[:2000])


def _raise_failures(
    name: str, status: int | None, listener: _Listener, result: PlaybookResult, run_directory: Path
) -> None:
    if status == 0:
        return
    hint = f"what Ansible said is in {run_directory / 'artifacts'}"
    if listener.failures:
        raise PlaybookError(name, listener.failures, hint=hint)
    if listener.unreachable:
        raise HostUnreachableError(
            f"{name}: " + "; ".join(map(str, listener.unreachable)),
            hint=hint,
            unchanged="" if result.changed_anything else None,
        )
    raise PlaybookError(
        name, [TaskFailure("controller", "ansible-playbook", f"ended with {status}")], hint=hint
    )


def _result(stats: Mapping[str, Mapping[str, int]], seconds: float) -> PlaybookResult:
    counts = {kind: dict(stats.get(kind, {})) for kind in ("changed", "ok", "failures", "dark")}
    return PlaybookResult(**counts, seconds=seconds)


def end_leftovers(run_directory: Path, *, but: "_Run | None" = None) -> None:
    """End what an interrupted run left running on this host: it would go on changing things beside the next one.

    What this process started ahead, `but` among it, only waits, and stays.
    """
    mark = os.fsencode(f"{_MARK}={run_directory.absolute()}")
    with _ahead_lock:
        waiting = {os.fsencode(run.mark) for run in (*_ahead.values(), *([but] if but else []))}
    _kill(mark, but=waiting)


def _kill(mark: bytes, *, but: Collection[bytes] = ()) -> None:
    """Kill all processes with this mark in their environment, but for those that have one of the others."""
    while found := [
        pid
        for pid in _process_ids()
        if mark in (words := _environment_of(pid)) and not any(each in words for each in but)
    ]:
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(_POLL_S)


def _process_ids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]


def _environment_of(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []  # gone, or somebody else's


@contextmanager
def _served(path: Path, text: Future[str]) -> Iterator[Path]:
    """Yield a pipe that gives `text`, once it is there, to the first who reads it: no file ever holds it."""
    os.mkfifo(path, mode=0o600)
    done = threading.Event()
    writer = threading.Thread(target=_write_once, args=(path, text, done), name="variables", daemon=True)
    writer.start()
    try:
        yield path
    finally:
        done.set()
        text.cancel()
        writer.join()


def _write_once(path: Path, text: Future[str], done: threading.Event) -> None:
    while not done.wait(_POLL_S):
        with contextlib.suppress(OSError):  # ENXIO: nobody reads yet
            descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
            os.set_blocking(descriptor, True)
            with (
                contextlib.suppress(BrokenPipeError, CancelledError),
                os.fdopen(descriptor, "w", encoding="utf-8") as pipe,
            ):
                pipe.write(text.result())
            return


def _environment(
    runners: Mapping[str, str], operators: Mapping[str, str], private_directory: str, run_directory: Path
) -> dict[str, str]:
    """Return the whole environment of ansible-playbook: what the runner set, a little of ours, our settings."""
    kept = {name: value for name, value in operators.items() if name in _KEPT_VARIABLES}
    set_by_runner = {name: value for name, value in runners.items() if name.startswith(_RUNNER_VARIABLES)}
    tools = Path(sys.executable).parent
    return {
        **kept,
        **set_by_runner,
        "PATH": f"{tools}{os.pathsep}{operators.get('PATH', os.defpath)}",
        "ANSIBLE_CALLBACK_PLUGINS": runners["ANSIBLE_CALLBACK_PLUGINS"].rpartition(os.pathsep)[2],
        "ANSIBLE_CONFIG": str(playbook_directory() / "ansible.cfg"),
        "ANSIBLE_HOME": private_directory,
        "ANSIBLE_HOST_KEY_CHECKING": "True",  # the runner turns it off unless told otherwise
        "PYTHONUNBUFFERED": "1",
        _MARK: str(run_directory),
    }
