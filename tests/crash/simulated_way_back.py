"""How a service of the simulated world is put back."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from dbha.errors import DbhaError
from dbha.journal import Facts
from dbha.upgrade.plan import RECORD
from dbha.upgrade.spec import ServiceUpgrade, UpgradeSpec
from dbha.workflow import StepContext
from tests.crash.simulated_databases import (
    NODES,
    Databases,
    aside,
    checksums,
    create_database,
    empty_database,
    move,
    put,
    remove_row,
    write_row,
)
from tests.crash.simulated_ground import Effects, Ground


@dataclass(frozen=True, slots=True)
class WayBack:
    """The stages that put one service back."""

    ground: Ground
    spec: UpgradeSpec
    upgrade: ServiceUpgrade
    prefix: str

    def look(self, context: StepContext) -> Facts:
        self.ground.drop_migrator(self.upgrade.service, self._effects(context, "look"))
        now = checksums(self.ground.files.read("nodes.json")["n1"], self.upgrade.databases)
        return {"method": "nothing" if now == self._before(context) else "import"}

    def before_moving(self, facts: Mapping[str, Facts]) -> Facts:
        databases = self.ground.files.read("nodes.json")["n1"]
        return {"tables": {name: sorted(databases[name]) for name in self.upgrade.databases}}

    def move_aside(self, context: StepContext) -> Facts:
        if self._nothing(context):
            return {}
        effect = self._effects(context, "aside")
        for name in self.upgrade.databases:
            effect(service=self.upgrade.service)
            self.ground.everywhere(partial(create_database, aside(name)))
            for table in context.intent["tables"][name]:
                effect(service=self.upgrade.service)
                self.ground.everywhere(partial(move, name, table))
                if f"restore:{self.upgrade.service}" in self.ground.files.read("fails.json"):
                    raise DbhaError("no node can take writes")
        return {}

    def import_on(self, node: str, context: StepContext) -> Facts:
        """Import on one node; what is there is dropped first, whatever it is."""
        if self._nothing(context):
            return {"imported": 0}
        effect = self._effects(context, f"import:{node}")
        good = self.ground.prepare(self.spec, effect)
        for name in self.upgrade.databases:
            effect(service=self.upgrade.service)
            self._locally(node, partial(empty_database, name))
            for table in good[name]:
                effect(service=self.upgrade.service)
                if f"import:{node}" in self.ground.fails:
                    return {"imported": None}
                self._locally(node, partial(put, name, table, good[name][table]))
        return {"imported": len(self.upgrade.databases)}

    def load(self, context: StepContext) -> Facts:
        if all(context.facts[f"{self.prefix}:import:{node}"]["imported"] is not None for node in NODES):
            return {"loaded": False}
        effect = self._effects(context, "load")
        good = self.ground.prepare(self.spec, effect)
        for name in self.upgrade.databases:
            effect(service=self.upgrade.service)
            self.ground.everywhere(partial(empty_database, name))
            for table in good[name]:
                effect(service=self.upgrade.service)
                self.ground.everywhere(partial(put, name, table, good[name][table]))
        return {"loaded": True}

    def prove(self, context: StepContext) -> Facts:
        """Prove all nodes equal to what was recorded, with a write that must not stay behind."""
        effect = self._effects(context, "prove")
        probe = partial(write_row, self.upgrade.databases[-1], "a probe")
        unprobe = partial(remove_row, self.upgrade.databases[-1], "a probe")
        effect(service=self.upgrade.service)
        self.ground.everywhere(unprobe)
        nodes = self.ground.files.read("nodes.json")
        for node in NODES:
            if checksums(nodes[node], self.upgrade.databases) != self._before(context):
                raise DbhaError(f"{node}: not what it was before")
        effect(service=self.upgrade.service)
        self.ground.everywhere(probe)
        effect(service=self.upgrade.service)
        self.ground.everywhere(unprobe)
        return {}

    def drop(self, context: StepContext) -> Facts:
        self.ground.drop_what_is_aside(self.upgrade, self._effects(context, "drop"))
        return {}

    def _before(self, context: StepContext) -> dict[str, str]:
        recorded: dict[str, str] = context.facts[RECORD]["checksums"]
        return {name: sum_ for name, sum_ in recorded.items() if name.split(".")[0] in self.upgrade.databases}

    def _nothing(self, context: StepContext) -> bool:
        return bool(context.facts[f"{self.prefix}:look"]["method"] == "nothing")

    def _locally(self, node: str, change: Callable[[Databases], None]) -> None:
        with self.ground.files.changing("nodes.json") as nodes:
            change(nodes[node])

    def _effects(self, context: StepContext, part: str) -> Effects:
        return self.ground.effects(context, f"restore-{self.upgrade.service}-{part}", f"{self.prefix}:{part}")
