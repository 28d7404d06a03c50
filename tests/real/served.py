"""`dbha serve` of a sandbox, as a process with a configuration of its own."""

import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import yaml

from tests.real.commands import DBHA
from tests.real.conftest import RunningSandbox
from tests.real.processes import eventually

WITHIN_S = 60.0


@dataclass(frozen=True)
class Served:
    """The process, and how to ask it."""

    process: "subprocess.Popen[bytes]"
    port: int
    configuration: Path
    log_file: Path

    def ask(self, path: str) -> tuple[int, str]:
        """Return the status and the body of an answer."""
        try:
            with urlopen(Request(f"http://127.0.0.1:{self.port}{path}"), timeout=10) as answer:
                return answer.status, answer.read().decode()
        except HTTPError as error:
            return error.code, error.read().decode()

    def json(self, path: str) -> Any:
        return json.loads(self.ask(path)[1])

    def value(self, series: str) -> float | None:
        """Return the value of a series at the next scrape, None when there is none."""
        found = [line for line in self.ask("/metrics")[1].splitlines() if line.startswith(f"{series} ")]
        return float(found[0].rpartition(" ")[2]) if found else None

    def until_value(self, series: str, wanted: float) -> None:
        eventually(
            lambda: True if self.value(series) == wanted else None, f"{series} never became {wanted}",
            within_s=WITHIN_S,
        )  # fmt: skip

    def until_status(self, path: str, wanted: int) -> None:
        eventually(
            lambda: True if self.ask(path)[0] == wanted else None, f"{path} was never answered with {wanted}",
            within_s=WITHIN_S,
        )  # fmt: skip

    def configure(self, section: str, **policy: object) -> None:
        """Change a section of the configuration; the process does not know until it is told."""
        data = yaml.safe_load(self.configuration.read_text())
        data.setdefault(section, {}).update(policy)
        self.configuration.write_text(yaml.safe_dump(data))

    def reload(self, words: str) -> None:
        """Send SIGHUP, and wait until the log says these words once more."""
        before = self.log.count(words)
        self.process.send_signal(signal.SIGHUP)
        eventually(
            lambda: True if self.log.count(words) > before else None, f"the log never said: {words}",
            within_s=WITHIN_S,
        )  # fmt: skip

    @property
    def log(self) -> str:
        return self.log_file.read_text()


@contextmanager
def served(running: RunningSandbox, directory: Path, **environment: str) -> Iterator[Served]:
    """Serve the sandbox until the end of the block; the process is gone afterwards, whatever happens."""
    port = free_port()
    configuration = running.directory / f"serve-{port}.yml"
    data = yaml.safe_load(running.sandbox.layout.configuration.read_text())
    data["serve"] = {
        "port": port,
        "nodes_interval_s": 0.5,
        "cluster_interval_s": 0.5,
        "backups_interval_s": 0.5,
    }
    configuration.write_text(yaml.safe_dump(data))
    log_file = directory / "serve.log"
    with log_file.open("wb") as log, subprocess.Popen(
        [str(DBHA), "-c", str(configuration), "serve"], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        env={**os.environ, **environment, "NO_COLOR": "1"}, start_new_session=True,
    ) as process:  # fmt: skip
        found = Served(process, port, configuration, log_file)
        try:
            eventually(
                lambda: True if listens(port) else None, f"nobody listens: {log_file}", within_s=WITHIN_S
            )
            found.until_status("/health", 200)
            yield found
        finally:
            process.kill()
            configuration.unlink()


def free_port() -> int:
    """Return a port that nobody has; one that the kernel gives to nobody else soon."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
