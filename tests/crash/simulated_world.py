"""A world for upgrades that is cheap enough to be cut off at every point: a directory of small JSON files.

Each operation is as many small changes as the real one has, with a fault point before each, so that what is half
done looks half done. A change is one file replaced as a whole: servers finish a statement whether or not the
controller lives.
"""

from functools import partial

from dbha.errors import BackupFailedError, DbhaError
from dbha.journal import Facts
from dbha.upgrade.fencing import FENCE
from dbha.upgrade.plan import BACKUP, VERIFY, sync_name
from dbha.upgrade.spec import ServiceUpgrade, UpgradeSpec
from dbha.workflow import Step, StepContext
from dbha.workflow.plan import Stage, UndoFirstError, stage
from tests.crash.simulated_databases import (
    AFTER,
    BEFORE,
    DATABASES,
    NODES,
    THINGS,
    VERSION,
    add_column,
    add_table,
    checksums,
    migrate_rows,
    stamp,
    write_row,
)
from tests.crash.simulated_ground import MIGRATOR, Effects, Ground, backup_name
from tests.crash.simulated_way_back import WayBack


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


class SimulatedWorld(Ground):
    """See World. `journal` is only looked at."""

    # --- the fence ---

    def accounts(self, spec: UpgradeSpec) -> Facts:
        names = [each.service for each in spec.services] + ["nova_old"]
        accounts = self.files.read("accounts.json")
        return {"accounts": [[name, accounts[name]["locked"]] for name in names]}

    def raise_fence(self, spec: UpgradeSpec, context: StepContext) -> Facts:
        effect = self.effects(context, "fence", FENCE)
        for name, _ in context.intent["accounts"]:
            effect()
            with self.files.changing("accounts.json") as accounts:
                accounts[name]["locked"] = True
        return dict(context.intent)

    def lift_fence(self, spec: UpgradeSpec, context: StepContext) -> Facts:
        """Unlock; a service that gets in again writes at once, and no restore may ever take that from it."""
        effect = self.effects(context, "unfence", "unfence", "unfence-undo")
        for name, was_locked in context.begun[FENCE].get("accounts", ()):
            if not was_locked:
                effect()
                with self.files.changing("accounts.json") as accounts:
                    let_in, accounts[name]["locked"] = accounts[name]["locked"], False
                    if let_in:
                        self.everywhere(partial(write_row, DATABASES[name][-1], f"{name} writes again"))
        return {}

    # --- the backup ---

    def record(self, spec: UpgradeSpec, context: StepContext) -> Facts:
        return {"checksums": checksums(self.files.read("nodes.json")["n2"], spec.databases)}

    def take_backup(self, spec: UpgradeSpec, context: StepContext) -> Facts:
        effect = self.effects(context, "backup", BACKUP)
        whole, partial_file = backup_name(spec.backup_id), f"{backup_name(spec.backup_id)}.partial.json"
        if self.files.has(f"{whole}.json"):  # an interrupted attempt completed it
            return {"id": spec.backup_id}
        effect()
        self.files.remove(partial_file)
        effect()
        self.files.write(partial_file, {})
        for name, tables in self.files.read("nodes.json")[spec.donor].items():
            effect()
            if "backup" in self.fails and name == "nova_cell0":
                self.files.rename(partial_file, f"{whole}.failed.json")
                raise BackupFailedError("the stream was cut off")
            with self.files.changing(partial_file) as content:
                content[name] = tables
        effect()
        self.files.rename(partial_file, f"{whole}.json")
        return {"id": spec.backup_id}

    def verify_backup(self, spec: UpgradeSpec, context: StepContext) -> Facts:
        effect = self.effects(context, "verify", VERIFY)
        bad = "verify" in self.fails
        if not bad:
            self.prepare(spec, effect)
        effect()
        self.files.write(f"{backup_name(spec.backup_id)}.verification.json", "bad" if bad else "good")
        if bad:
            raise BackupFailedError("the stream was changed since it was taken")
        return {}

    def tidy(self, spec: UpgradeSpec, context: StepContext) -> Facts:
        effect = self.effects(context, "tidy", "tidy", "tidy-undo")
        for name in self.files.names("prepared"):
            effect()
            self.files.remove(name)
        return {}

    # --- the sync ---

    def sync(self, spec: UpgradeSpec, upgrade: ServiceUpgrade, context: StepContext) -> Facts:
        service = upgrade.service
        effect = self.effects(context, f"sync-{service}", sync_name(service))
        verified = f"{backup_name(spec.backup_id)}.verification.json"
        effect.require(self.files.has(verified) and self.files.read(verified) == "good", "no good backup")
        if context.interrupted:
            self.drop_migrator(service, effect)
            self._require_whole(upgrade)
        self.drop_what_is_aside(upgrade, effect)
        effect()
        with self.files.changing("accounts.json") as accounts:
            accounts[f"{MIGRATOR}{service}"] = {"locked": False}
        try:
            for name in upgrade.databases:
                if f"sync:{service}" in self.fails and name == upgrade.databases[-1]:
                    raise DbhaError(f"`sync {name}` exited 255")
                self._sync_database(name, service, effect)
        finally:
            self.drop_migrator(service, effect)
        return {}

    def _sync_database(self, name: str, service: str, effect: Effects) -> None:
        """Do what alembic does: statement by statement, each for itself, and the version last."""
        for change in (add_table, add_column, migrate_rows, stamp):
            if self.version(name) != AFTER:
                effect(service=service)
                self.everywhere(partial(change, name))

    def _require_whole(self, upgrade: ServiceUpgrade) -> None:
        databases = self.files.read("nodes.json")["n1"]
        versions = {self.version(name) for name in upgrade.databases}
        plain = all(set(databases[name]) == {VERSION, THINGS} for name in upgrade.databases)
        if versions != {AFTER} and not (versions == {BEFORE} and plain):
            raise UndoFirstError(f"the sync of {upgrade.service} is half done")

    def prove(self, spec: UpgradeSpec, context: StepContext) -> Facts:
        nodes = self.files.read("nodes.json")
        if wrong := [
            (node, name)
            for node, databases in nodes.items()
            for name in spec.databases
            if databases[name][VERSION]["rows"] != [AFTER] or databases[name] != nodes["n1"][name]
        ]:
            raise DbhaError(f"not at {AFTER} everywhere: {wrong}")
        if "prove" in self.fails:
            raise DbhaError("the structure differs between nodes")
        return {}

    def note_releases(self, spec: UpgradeSpec, context: StepContext) -> Facts:
        effect = self.effects(context, "note", "note")
        for upgrade in spec.services:
            effect()
            with self.files.changing("releases.json") as releases:
                releases[upgrade.service] = upgrade.target
        return {}

    # --- the way back ---

    def restore(self, spec: UpgradeSpec, upgrade: ServiceUpgrade) -> tuple[Stage, ...]:
        prefix = f"restore:{upgrade.service}"
        back = WayBack(self, spec, upgrade, prefix)
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
        return Step(f"{prefix}:drop", "drop", WayBack(self, spec, upgrade, prefix).drop)
