"""What every operation in the simulated world stands on, and what it must never do.

A change without its intent on disk, to a service that is not fenced, or of a schema without a verified backup is a
violation, and what is told of it survives.
"""

import sqlite3
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dbha import faults
from dbha.upgrade.spec import ServiceUpgrade, UpgradeSpec
from dbha.workflow import StepContext
from tests.crash.simulated_databases import VERSION, Databases, Table, aside, drop_database
from tests.crash.simulated_files import Files

MIGRATOR = "dbha_migrate_"


class ViolationError(Exception):
    """Something was done that must never be done."""


@dataclass(slots=True)
class Effects:
    """The changes of one operation of one step. Call it before each of them."""

    files: Files
    journal: sqlite3.Connection  # a reader of its own: it sees what is on disk
    run_id: str
    steps: tuple[str, ...]  # the names that the step may have; one of them must be intended
    operation: str
    count: int = 0

    def __call__(self, *, service: str = "") -> None:
        """Say that a change is about to be made, to the databases of `service` if it is named."""
        self._require_intent()
        if service:
            self.require(self.files.read("accounts.json")[service]["locked"], f"{service} is not fenced")
        self.count += 1
        faults.reach(f"world:{self.operation}:{self.count}")

    def require(self, holds: bool, otherwise: str) -> None:
        """Leave a trace, and raise, if something that must always hold does not."""
        if not holds:
            self.files.write(f"{self.operation}.violation", otherwise)
            raise ViolationError(f"{self.operation}: {otherwise}")

    def _require_intent(self) -> None:
        rows = self.journal.execute(
            "SELECT name FROM steps WHERE run_id = ? AND state = 'intended'", [self.run_id]
        )
        intended = {name for (name,) in rows}
        self.require(bool(intended & set(self.steps)), f"{self.steps} acts, and intended is {intended}")


class Ground:
    """The files of a world and its rules. `journal` is only looked at."""

    def __init__(self, directory: Path, journal: Path) -> None:
        self.files = Files(directory)
        self._journal = journal
        self.fails = frozenset(self.files.read("fails.json"))
        self._preparing = threading.Lock()

    def effects(self, context: StepContext, operation: str, *steps: str) -> Effects:
        """Return what counts the changes of an operation, which one of `steps` must have been intended for."""
        journal = sqlite3.connect(f"file:{self._journal}?mode=ro", uri=True)
        return Effects(self.files, journal, context.run_id, steps, operation)

    def everywhere(self, change: Callable[[Databases], None]) -> None:
        """Change the databases of every node, as replication would."""
        with self.files.changing("nodes.json") as nodes:
            for databases in nodes.values():
                change(databases)

    def version(self, name: str) -> str:
        """Return the version that a database has on the first node."""
        found: str = self.files.read("nodes.json")["n1"][name][VERSION]["rows"][0]
        return found

    def prepare(self, spec: UpgradeSpec, effect: Effects) -> Mapping[str, dict[str, Table]]:
        """Return the prepared backup, made again if it is gone; nodes that need it wait for each other."""
        name, unfinished = f"prepared-{spec.backup_id}.json", f"prepared-{spec.backup_id}.partial.json"
        with self._preparing:
            if not self.files.has(name):
                effect()
                self.files.write(unfinished, {})
                effect()
                self.files.write(unfinished, self.files.read(f"{backup_name(spec.backup_id)}.json"))
                effect()
                self.files.rename(unfinished, name)
            content: dict[str, dict[str, Table]] = self.files.read(name)
        return content

    def drop_migrator(self, service: str, effect: Effects) -> None:
        """Drop the account of the sync, if it is there."""
        if f"{MIGRATOR}{service}" in self.files.read("accounts.json"):
            effect()
            with self.files.changing("accounts.json") as accounts:
                accounts.pop(f"{MIGRATOR}{service}", None)

    def drop_what_is_aside(self, upgrade: ServiceUpgrade, effect: Effects) -> None:
        """Drop what an earlier way back of the service moved aside."""
        there = self.files.read("nodes.json")["n1"]
        for name in upgrade.databases:
            if aside(name) in there:
                effect()
                self.everywhere(partial(drop_database, aside(name)))


def backup_name(backup_id: str) -> str:
    return f"backup-{backup_id}"
