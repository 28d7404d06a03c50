"""A writer in a process of its own: what else this program does must not show in the writer's waits.

The process reads its settings, one line of JSON with the password, from standard input, says `ready`, and
writes until standard input is closed or SIGTERM comes; then it says its report as JSON. A writer whose starter
dies sees its standard input closed, and ends.
"""

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from types import TracebackType
from typing import Any

from dbha.database import Account
from dbha.errors import UnreachableError
from dbha.inventory import Node
from dbha.sandbox.ledger.report import LedgerReport
from dbha.sandbox.ledger.tables import LedgerTable
from dbha.sandbox.ledger.writer import WriterSettings
from dbha.secrets import Secret

READY = "ready"


class WriterProcess:
    """A running writer. `with WriterProcess(settings) as writer: ...` and then `writer.report`."""

    def __init__(self, settings: WriterSettings) -> None:
        self._settings = settings
        self._process: subprocess.Popen[str] | None = None
        self._report: LedgerReport | None = None

    @property
    def report(self) -> LedgerReport:
        """What the writer said in the end. Raises ValueError while it is running."""
        if self._report is None:
            raise ValueError("the writer has not been stopped")
        return self._report

    def start(self) -> None:
        """Start the process; returns when it begins to write. Raises UnreachableError when it does not."""
        self._process = subprocess.Popen(
            (sys.executable, "-m", "dbha.sandbox.ledger"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(encode_settings(self._settings) + "\n")
        self._process.stdin.flush()
        if self._process.stdout.readline().strip() != READY:
            self.kill()
            raise UnreachableError("the ledger's writer did not start")

    def stop(self, *, timeout_s: float = 60) -> LedgerReport:
        """Tell the writer to stop, wait for it, and return its report."""
        assert self._process, "the writer was not started"
        try:
            said, _ = self._process.communicate(timeout=timeout_s)  # closes its standard input
        except subprocess.TimeoutExpired as error:
            self.kill()
            raise UnreachableError(f"the ledger's writer did not stop within {timeout_s:g} s") from error
        if self._process.returncode != 0:
            raise UnreachableError(f"the ledger's writer failed with {self._process.returncode}")
        self._report = LedgerReport.from_json(json.loads(said))
        return self._report

    def kill(self) -> None:
        """End the process without a report."""
        if self._process:
            self._process.kill()
            self._process.communicate()

    def __enter__(self) -> "WriterProcess":
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None:
            self.kill()
        elif self._report is None:
            self.stop()


def encode_settings(settings: WriterSettings) -> str:
    """Return settings as a line of JSON that has the password in it: for a pipe only."""
    return json.dumps(asdict(settings))


def decode_settings(line: str) -> WriterSettings:
    """Return the settings that `encode_settings` made the line of."""
    found: Mapping[str, Any] = json.loads(line)
    account = Account(found["account"]["user"], Secret(found["account"]["password"]["value"]))
    nodes = tuple(Node(**{**node, "ssh": None}) for node in found["nodes"])
    table = LedgerTable(**found["table"])
    return WriterSettings(**{**found, "table": table, "nodes": nodes, "account": account})
