"""What every verb needs, made when it is first asked for: configuration, cluster, journal, the right to run."""

import logging
import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from pathlib import Path

from dbha.cluster.control import Controller
from dbha.config import Configuration, SecretSource, find_configuration, load_configuration
from dbha.config.load import SANDBOX_CONFIGURATION
from dbha.console import Console, StepReporter
from dbha.errors import ConfigurationError
from dbha.journal import Journal
from dbha.upgrade.site import Site
from dbha.workflow import Plan, StopRequest

_SIGNALS = {signal.SIGINT: 130, signal.SIGTERM: 143}


class App:
    """One invocation of the command line."""

    def __init__(self, console: Console, environment: Mapping[str, str]) -> None:
        self.console = console
        self.environment = environment
        self.configuration_argument: Path | None = None
        self._journal: Journal | None = None

    @cached_property
    def configuration_path(self) -> Path:
        """The configuration in use; says which one when nobody named it."""
        path = find_configuration(self.configuration_argument, self.environment)
        if self.configuration_argument is None and not self.environment.get("DBHA_CONFIG"):
            shown = SANDBOX_CONFIGURATION if path == SANDBOX_CONFIGURATION.resolve() else path
            self.console.say(f"using {shown}", style="dim")
        return path

    def has_configuration(self) -> bool:
        """Tell whether there is a configuration to be found, without complaining when there is none."""
        try:
            return bool(find_configuration(self.configuration_argument, self.environment))
        except ConfigurationError:
            return False

    @cached_property
    def configuration(self) -> Configuration:
        """The checked configuration; also starts the log file."""
        configuration = load_configuration(self.configuration_path)
        _start_log(configuration.state / "log")
        return configuration

    @cached_property
    def secrets(self) -> SecretSource:
        """Where passwords come from."""
        return SecretSource(self.configuration.secrets, self.environment)

    @cached_property
    def site(self) -> Site:
        """The cluster with its services, releases and backups."""
        return Site(self.configuration, self.secrets, self.environment)

    @property
    def journal(self) -> Journal:
        """The journal of this controller."""
        if self._journal is None:
            self._journal = Journal(self.configuration.state / "journal.sqlite")
        return self._journal

    @property
    def lock_path(self) -> Path:
        """The file whose lock the controller holds while it changes the cluster."""
        return self.configuration.state / "locks" / f"{self.configuration.cluster}.lock"

    @contextmanager
    def controller(self, *, with_cluster: bool = True) -> Iterator[Controller]:
        """Yield this process as controller; meanwhile signals ask the run to stop instead of ending it."""
        stop = StopRequest()
        with self._stopping(stop):
            yield Controller(
                journal=self.journal,
                lock_path=self.lock_path,
                cluster=self.site.cluster if with_cluster else None,
                lease_ttl_s=self.configuration.limits.lease_ttl_s,
                stop=stop,
                say=self.console.say,
            )

    def watch(self, plan: Plan) -> AbstractContextManager[StepReporter]:
        """Return an observer that shows the plan's steps."""
        self.console.say(plan.title, style="bold")
        return self.console.steps(sum(1 for _ in plan.steps()))

    def log_directory(self) -> Path | None:
        """Return where logs go, if a configuration was read."""
        configuration = self.__dict__.get("configuration")
        return configuration.state / "log" if configuration else None

    def close(self) -> None:
        """Release connections and files."""
        if "site" in self.__dict__:
            self.site.close()
        if self._journal is not None:
            self._journal.close()

    @contextmanager
    def _stopping(self, stop: StopRequest) -> Iterator[None]:
        def handle(number: int, _: object) -> None:
            if stop.exit_code is not None:
                os._exit(_SIGNALS[signal.Signals(number)])
            stop.exit_code = _SIGNALS[signal.Signals(number)]
            self.console.say(
                "stopping: the step in progress is finished, then everything is put back; once more stops at once",
                style="bold yellow",
            )

        before = {number: signal.signal(number, handle) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _start_log(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    handler = logging.FileHandler(directory / "dbha.log", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    logging.getLogger("paramiko").setLevel(logging.WARNING)
