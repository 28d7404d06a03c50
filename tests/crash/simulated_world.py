"""A world for upgrades that is cheap enough to be cut off at every point: a directory of small JSON files.

Three nodes hold the same databases; what is imported is on one node only, everything else on all. Each operation
is as many small changes as the real one has, with a fault point before each, so that what is half done looks half
done. A change is one file replaced as a whole: servers finish a statement whether or not the controller lives.

The world also watches: a change without its intent on disk, to a service that is not fenced, or of a schema
without a verified backup is a violation, and what is told of it survives.
"""

import hashlib
import json
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from dbha import faults
from dbha.errors import BackupFailedError, DbhaError
from dbha.journal import Facts
from dbha.upgrade.fencing import FENCE
from dbha.upgrade.plan import BACKUP, RECORD, VERIFY, sync_name
from dbha.upgrade.spec import ServiceUpgrade, UpgradeSpec
from dbha.workflow import Step, StepContext
from dbha.workflow.plan import Stage, UndoFirstError, stage

NODES = ("n1", "n2", "n3")
DATABASES = {
    "keystone": ("keystone",),
    "nova": ("nova_cell0", "nova"),  # cell0 is synced first
    "glance": ("glance",),  # not upgraded: nothing may happen to it
}
BEFORE, AFTER = "head-1", "head-2"
VERSION, THINGS, ADDED = "alembic_version", "things", "added"
MIGRATOR = "dbha_migrate_"

Table = dict[str, Any]
Databases = dict[str, dict[str, Table]]


def upgrade_spec(services: tuple[str, ...]) -> UpgradeSpec:
    """Return what is to be upgraded; the same each time."""
    return UpgradeSpec(
        target="2026.2",
        services=tuple(
            ServiceUpgrade(
                service=service, source="2026.1", target="2026.2",
                before=dict.fromkeys(DATABASES[service], (BEFORE,)),
                expected=dict.fromkeys(DATABASES[service], (AFTER,)),
            )
            for service in services
        ),
        donor="n3", writer="n1", backup_id="20261123T050000Z-ab12", backup_bytes=1000,
    )  # fmt: skip


class Files:
    """Small JSON files of several threads, each replaced as a whole, so that SIGKILL leaves none torn."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._lock = threading.RLock()

    def has(self, name: str) -> bool:
        """Tell whether the file is there."""
        return (self.directory / name).exists()

    def read(self, name: str) -> Any:
        """Return the content of a file."""
        return json.loads((self.directory / name).read_bytes())

    def write(self, name: str, content: object) -> None:
        """Replace a file."""
        place = self.directory / name
        with self._lock:
            new = place.with_name(f".{place.name}.{threading.get_ident()}")
            with new.open("w", encoding="utf-8") as file:
                file.write(json.dumps(content))
                file.flush()
                os.fsync(file.fileno())
            new.replace(place)

    @contextmanager
    def changing(self, name: str) -> Iterator[Any]:
        """Yield the content of a file, and replace it by what the block made of it."""
        with self._lock:
            content = self.read(name)
            yield content
            self.write(name, content)

    def rename(self, name: str, new: str) -> None:
        """Rename a file."""
        (self.directory / name).rename(self.directory / new)

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        (self.directory / name).unlink(missing_ok=True)

    def names(self, prefix: str) -> list[str]:
        """Return the names of the files that begin with `prefix`, in order."""
        return sorted(path.name for path in self.directory.glob(f"{prefix}*"))


def create(directory: Path, fails: tuple[str, ...]) -> None:
    """Make a world in an empty directory, in which the things named in `fails` go wrong."""
    files = Files(directory)
    databases = {
        name: {
            VERSION: {"columns": ["version_num"], "rows": [BEFORE]},
            THINGS: {"columns": ["id"], "rows": [f"{name} {number}" for number in range(3)]},
        }
        for names in DATABASES.values()
        for name in names
    }
    files.write("nodes.json", dict.fromkeys(NODES, databases))
    accounts = {service: {"locked": False} for service in DATABASES}
    files.write("accounts.json", {**accounts, "nova_old": {"locked": True}})
    files.write("releases.json", {})
    files.write("fails.json", list(fails))


def visible(directory: Path) -> dict[str, Any]:
    """Return everything that an operator can see of the world, violations of its rules included."""
    files = Files(directory)
    return {name: files.read(name) for name in files.names("") if name.endswith((".json", ".violation"))}


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


class SimulatedWorld:
    """See World. `journal` is only looked at."""

    def __init__(self, directory: Path, journal: Path) -> None:
        self._files = Files(directory)
        self._journal = journal
        self._fails = frozenset(self._files.read("fails.json"))
        self._preparing = threading.Lock()

    # --- the fence ---

    def accounts(self, spec: UpgradeSpec) -> Facts:
        names = [each.service for each in spec.services] + ["nova_old"]
        accounts = self._files.read("accounts.json")
        return {"accounts": [[name, accounts[name]["locked"]] for name in names]}

    def raise_fence(self, spec: UpgradeSpec, context: StepContext) -> Facts:
        effect = self._effects(context, "fence", FENCE)
        for name, _ in context.intent["accounts"]:
            effect()
            with self._files.changing("accounts.json") as accounts:
                accounts[name]["locked"] = True
        return dict(context.intent)

    def lift_fence(self, spec: UpgradeSpec, context: StepContext) -> Facts:
        """Unlock; a service that gets in again writes at once, and no restore may ever take that from it."""
        effect = self._effects(context, "unfence", "unfence", "unfence-undo")
        for name, was_locked in context.begun[FENCE].get("accounts", ()):
            if not was_locked:
                effect()
                with self._files.changing("accounts.json") as accounts:
                    let_in, accounts[name]["locked"] = accounts[name]["locked"], False
                    if let_in:
                        self._everywhere(partial(_write_row, DATABASES[name][-1], f"{name} writes again"))
        return {}

    # --- the backup ---

    def record(self, spec: UpgradeSpec, context: StepContext) -> Facts:
        return {"checksums": checksums(self._files.read("nodes.json")["n2"], spec.databases)}

    def take_backup(self, spec: UpgradeSpec, context: StepContext) -> Facts:
        effect = self._effects(context, "backup", BACKUP)
        whole, partial_file = _backup(spec.backup_id), f"{_backup(spec.backup_id)}.partial.json"
        if self._files.has(f"{whole}.json"):  # an interrupted attempt completed it
            return {"id": spec.backup_id}
        effect()
        self._files.remove(partial_file)
        effect()
        self._files.write(partial_file, {})
        for name, tables in self._files.read("nodes.json")[spec.donor].items():
            effect()
            if "backup" in self._fails and name == "nova_cell0":
                self._files.rename(partial_file, f"{whole}.failed.json")
                raise BackupFailedError("the stream was cut off")
            with self._files.changing(partial_file) as content:
                content[name] = tables
        effect()
        self._files.rename(partial_file, f"{whole}.json")
        return {"id": spec.backup_id}

    def verify_backup(self, spec: UpgradeSpec, context: StepContext) -> Facts:
        effect = self._effects(context, "verify", VERIFY)
        bad = "verify" in self._fails
        if not bad:
            self._prepare(spec, effect)
        effect()
        self._files.write(f"{_backup(spec.backup_id)}.verification.json", "bad" if bad else "good")
        if bad:
            raise BackupFailedError("the stream was changed since it was taken")
        return {}

    def tidy(self, spec: UpgradeSpec, context: StepContext) -> Facts:
        effect = self._effects(context, "tidy", "tidy", "tidy-undo")
        for name in self._files.names("prepared"):
            effect()
            self._files.remove(name)
        return {}

    # --- the sync ---

    def sync(self, spec: UpgradeSpec, upgrade: ServiceUpgrade, context: StepContext) -> Facts:
        service = upgrade.service
        effect = self._effects(context, f"sync-{service}", sync_name(service))
        verified = f"{_backup(spec.backup_id)}.verification.json"
        effect.require(self._files.has(verified) and self._files.read(verified) == "good", "no good backup")
        if context.interrupted:
            self._drop_migrator(service, effect)
            self._require_whole(upgrade)
        self._drop_aside(upgrade, effect)
        effect()
        with self._files.changing("accounts.json") as accounts:
            accounts[f"{MIGRATOR}{service}"] = {"locked": False}
        try:
            for name in upgrade.databases:
                if f"sync:{service}" in self._fails and name == upgrade.databases[-1]:
                    raise DbhaError(f"`sync {name}` exited 255")
                self._sync_database(name, service, effect)
        finally:
            self._drop_migrator(service, effect)
        return {}

    def _sync_database(self, name: str, service: str, effect: Effects) -> None:
        """Do what alembic does: statement by statement, each for itself, and the version last."""
        for change in (_add_table, _add_column, _migrate_rows, _stamp):
            if self._version(name) != AFTER:
                effect(service=service)
                self._everywhere(partial(change, name))

    def _require_whole(self, upgrade: ServiceUpgrade) -> None:
        databases = self._files.read("nodes.json")["n1"]
        versions = {self._version(name) for name in upgrade.databases}
        plain = all(set(databases[name]) == {VERSION, THINGS} for name in upgrade.databases)
        if versions != {AFTER} and not (versions == {BEFORE} and plain):
            raise UndoFirstError(f"the sync of {upgrade.service} is half done")

    def _drop_migrator(self, service: str, effect: Effects) -> None:
        if f"{MIGRATOR}{service}" in self._files.read("accounts.json"):
            effect()
            with self._files.changing("accounts.json") as accounts:
                accounts.pop(f"{MIGRATOR}{service}", None)

    def prove(self, spec: UpgradeSpec, context: StepContext) -> Facts:
        nodes = self._files.read("nodes.json")
        if wrong := [
            (node, name)
            for node, databases in nodes.items()
            for name in spec.databases
            if databases[name][VERSION]["rows"] != [AFTER] or databases[name] != nodes["n1"][name]
        ]:
            raise DbhaError(f"not at {AFTER} everywhere: {wrong}")
        if "prove" in self._fails:
            raise DbhaError("the structure differs between nodes")
        return {}

    def note_releases(self, spec: UpgradeSpec, context: StepContext) -> Facts:
        effect = self._effects(context, "note", "note")
        for upgrade in spec.services:
            effect()
            with self._files.changing("releases.json") as releases:
                releases[upgrade.service] = upgrade.target
        return {}

    # --- the way back ---

    def restore(self, spec: UpgradeSpec, upgrade: ServiceUpgrade) -> tuple[Stage, ...]:
        prefix = f"restore:{upgrade.service}"
        back = _WayBack(self, spec, upgrade, prefix)
        imports = [
            Step(f"{prefix}:import:{node}", f"import on {node}", partial(back.import_on, node))
            for node in NODES
        ]
        return (
            stage(Step(f"{prefix}:look", "look", back.look)),
            stage(Step(f"{prefix}:aside", "move aside", back.move_aside, back.before_moving)),
            stage(*imports),
            stage(Step(f"{prefix}:load", "load", back.load)),
            stage(Step(f"{prefix}:prove", "prove", back.prove)),
        )

    def drop_aside(self, spec: UpgradeSpec, upgrade: ServiceUpgrade) -> Step:
        prefix = f"restore:{upgrade.service}"
        return Step(f"{prefix}:drop", "drop", _WayBack(self, spec, upgrade, prefix).drop)

    def _drop_aside(self, upgrade: ServiceUpgrade, effect: Effects) -> None:
        there = self._files.read("nodes.json")["n1"]
        for name in upgrade.databases:
            if _aside(name) in there:
                effect()
                self._everywhere(partial(_drop_database, _aside(name)))

    def _prepare(self, spec: UpgradeSpec, effect: Effects) -> Mapping[str, dict[str, Table]]:
        """Return the prepared backup, made again if it is gone; nodes that need it wait for each other."""
        name, unfinished = f"prepared-{spec.backup_id}.json", f"prepared-{spec.backup_id}.partial.json"
        with self._preparing:
            if not self._files.has(name):
                effect()
                self._files.write(unfinished, {})
                effect()
                self._files.write(unfinished, self._files.read(f"{_backup(spec.backup_id)}.json"))
                effect()
                self._files.rename(unfinished, name)
            content: dict[str, dict[str, Table]] = self._files.read(name)
        return content

    def _everywhere(self, change: Callable[[Databases], None]) -> None:
        with self._files.changing("nodes.json") as nodes:
            for databases in nodes.values():
                change(databases)

    def _version(self, name: str) -> str:
        found: str = self._files.read("nodes.json")["n1"][name][VERSION]["rows"][0]
        return found

    def _effects(self, context: StepContext, operation: str, *steps: str) -> Effects:
        journal = sqlite3.connect(f"file:{self._journal}?mode=ro", uri=True)
        return Effects(self._files, journal, context.run_id, steps, operation)


@dataclass(frozen=True, slots=True)
class _WayBack:
    """The stages that put one service back."""

    world: SimulatedWorld
    spec: UpgradeSpec
    upgrade: ServiceUpgrade
    prefix: str

    def look(self, context: StepContext) -> Facts:
        self.world._drop_migrator(self.upgrade.service, self._effects(context, "look"))
        now = checksums(self.world._files.read("nodes.json")["n1"], self.upgrade.databases)
        return {"method": "nothing" if now == self._before(context) else "import"}

    def before_moving(self, facts: Mapping[str, Facts]) -> Facts:
        databases = self.world._files.read("nodes.json")["n1"]
        return {"tables": {name: sorted(databases[name]) for name in self.upgrade.databases}}

    def move_aside(self, context: StepContext) -> Facts:
        if self._nothing(context):
            return {}
        effect = self._effects(context, "aside")
        for name in self.upgrade.databases:
            effect(service=self.upgrade.service)
            self.world._everywhere(partial(_create_database, _aside(name)))
            for table in context.intent["tables"][name]:
                effect(service=self.upgrade.service)
                self.world._everywhere(partial(_move, name, table))
                if f"restore:{self.upgrade.service}" in self.world._files.read("fails.json"):
                    raise DbhaError("no node can take writes")
        return {}

    def import_on(self, node: str, context: StepContext) -> Facts:
        """Import on one node; what is there is dropped first, whatever it is."""
        if self._nothing(context):
            return {"imported": 0}
        effect = self._effects(context, f"import:{node}")
        good = self.world._prepare(self.spec, effect)
        for name in self.upgrade.databases:
            effect(service=self.upgrade.service)
            self._locally(node, partial(_empty_database, name))
            for table in good[name]:
                effect(service=self.upgrade.service)
                if f"import:{node}" in self.world._fails:
                    return {"imported": None}
                self._locally(node, partial(_put, name, table, good[name][table]))
        return {"imported": len(self.upgrade.databases)}

    def load(self, context: StepContext) -> Facts:
        if all(context.facts[f"{self.prefix}:import:{node}"]["imported"] is not None for node in NODES):
            return {"loaded": False}
        effect = self._effects(context, "load")
        good = self.world._prepare(self.spec, effect)
        for name in self.upgrade.databases:
            effect(service=self.upgrade.service)
            self.world._everywhere(partial(_empty_database, name))
            for table in good[name]:
                effect(service=self.upgrade.service)
                self.world._everywhere(partial(_put, name, table, good[name][table]))
        return {"loaded": True}

    def prove(self, context: StepContext) -> Facts:
        """Prove all nodes equal to what was recorded, with a write that must not stay behind."""
        effect = self._effects(context, "prove")
        probe = partial(_write_row, self.upgrade.databases[-1], "a probe")
        unprobe = partial(_remove_row, self.upgrade.databases[-1], "a probe")
        effect(service=self.upgrade.service)
        self.world._everywhere(unprobe)
        nodes = self.world._files.read("nodes.json")
        for node in NODES:
            if checksums(nodes[node], self.upgrade.databases) != self._before(context):
                raise DbhaError(f"{node}: not what it was before")
        effect(service=self.upgrade.service)
        self.world._everywhere(probe)
        effect(service=self.upgrade.service)
        self.world._everywhere(unprobe)
        return {}

    def drop(self, context: StepContext) -> Facts:
        self.world._drop_aside(self.upgrade, self._effects(context, "drop"))
        return {}

    def _before(self, context: StepContext) -> dict[str, str]:
        recorded: dict[str, str] = context.facts[RECORD]["checksums"]
        return {name: sum_ for name, sum_ in recorded.items() if name.split(".")[0] in self.upgrade.databases}

    def _nothing(self, context: StepContext) -> bool:
        return bool(context.facts[f"{self.prefix}:look"]["method"] == "nothing")

    def _locally(self, node: str, change: Callable[[Databases], None]) -> None:
        with self.world._files.changing("nodes.json") as nodes:
            change(nodes[node])

    def _effects(self, context: StepContext, part: str) -> Effects:
        return self.world._effects(context, f"restore-{self.upgrade.service}-{part}", f"{self.prefix}:{part}")


def checksums(databases: Databases, names: tuple[str, ...]) -> dict[str, str]:
    """Return a checksum of every table of these databases."""
    return {
        f"{name}.{table}": hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]
        for name in names
        for table, content in databases[name].items()
    }


def _backup(backup_id: str) -> str:
    return f"backup-{backup_id}"


def _aside(name: str) -> str:
    return f"aside_{name}"


def _add_table(name: str, databases: Databases) -> None:
    databases[name][ADDED] = {"columns": ["id"], "rows": []}


def _add_column(name: str, databases: Databases) -> None:
    databases[name][THINGS]["columns"].append("note")


def _migrate_rows(name: str, databases: Databases) -> None:
    table = databases[name][THINGS]
    table["rows"] = [f"{row}, noted" for row in table["rows"]]


def _stamp(name: str, databases: Databases) -> None:
    databases[name][VERSION]["rows"] = [AFTER]


def _create_database(name: str, databases: Databases) -> None:
    databases.setdefault(name, {})


def _drop_database(name: str, databases: Databases) -> None:
    databases.pop(name, None)


def _empty_database(name: str, databases: Databases) -> None:
    databases[name] = {}


def _move(name: str, table: str, databases: Databases) -> None:
    if table in databases[name]:
        databases[_aside(name)][table] = databases[name].pop(table)


def _put(name: str, table: str, content: Table, databases: Databases) -> None:
    databases[name][table] = content


def _write_row(name: str, row: str, databases: Databases) -> None:
    databases[name][THINGS]["rows"].append(row)


def _remove_row(name: str, row: str, databases: Databases) -> None:
    rows = databases[name][THINGS]["rows"]
    rows[:] = [each for each in rows if each != row]
