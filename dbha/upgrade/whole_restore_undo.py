"""Going back from a restored cluster to the old data that was kept, as a plan."""

from collections.abc import Callable, Mapping

from pydantic import BaseModel, ConfigDict

from dbha.backup.proof import checksums_everywhere, require_equal
from dbha.backup.whole_restore import Directories
from dbha.cluster.handle import side_by_side
from dbha.cluster.lease import Claim
from dbha.errors import DbhaError, UnsafeError
from dbha.inventory import Node
from dbha.journal import Facts, RunRecord, RunState, controller_name
from dbha.upgrade.gone_back import gone_back
from dbha.upgrade.site import Site
from dbha.upgrade.whole_restore_plan import (
    STOP_SERVERS,
    WholeRestoreSpec,
    give_back,
    on_each,
    playbooks_of,
    take_lease,
)
from dbha.upgrade.whole_restore_plan import WORKFLOW as RESTORE
from dbha.workflow import Plan, Step, StepContext
from dbha.workflow.plan import once, stage

WORKFLOW = "restore cluster undo"


class WholeRestoreUndoSpec(BaseModel):
    """Which restore is undone; the run's arguments in the journal."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: str
    restored: WholeRestoreSpec
    served: tuple[str, ...]  # the nodes that serve now


def kept_by(site: Site, record: RunRecord) -> WholeRestoreSpec:
    """Return the restore whose old data is kept. Raises UnsafeError when the run is none, or a node has none."""
    if record.workflow != RESTORE or record.state is not RunState.DONE:
        raise UnsafeError(
            f"run {record.id} is no restore of the whole cluster that succeeded: {record.workflow}, {record.state}",
            hint="dbha runs list",
        )
    spec = WholeRestoreSpec.model_validate(record.arguments)
    places = _directories(site, spec, record.id)
    found = side_by_side(lambda node: places.place(node).has("old"), places.cluster.nodes)
    if without := [name for name, is_there in found.items() if not is_there]:
        raise UnsafeError(
            f"the old data is not there any more: {', '.join(without)}", hint="dbha backup list"
        )
    return spec


def forget_kept(site: Site, record: RunRecord) -> tuple[str, ...]:
    """Remove what an ended restore of the whole cluster keeps on the nodes, and return their names."""
    if record.workflow != RESTORE or record.state in (RunState.RUNNING, RunState.FAILED):
        raise UnsafeError(f"run {record.id} keeps nothing that may go: {record.workflow}, {record.state}")
    spec = WholeRestoreSpec.model_validate(record.arguments)
    places = _directories(site, spec, record.id)
    side_by_side(lambda node: places.place(node).forget(), places.cluster.nodes)
    return spec.nodes


class _World:
    """The steps of going back."""

    def __init__(self, spec: WholeRestoreUndoSpec, site: Site, has_ended: Callable[[str], bool]) -> None:
        self.spec, self.site, self.has_ended = spec, site, has_ended
        self.directories = _directories(site, spec.restored, spec.run)
        self.nodes = self.directories.cluster.nodes

    def hold(self, context: StepContext) -> Facts:
        if not self.spec.served:
            return {"note": "no cluster serves: there is nobody to hold off"}
        ttl_s = self.site.configuration.limits.lease_ttl_s
        claim = Claim(context.run_id, WORKFLOW, controller_name(), ttl_s)
        return {
            "token": take_lease(self.directories.cluster, claim, self.has_ended, again=context.interrupted)
        }

    def let_go(self, context: StepContext) -> Facts:
        give_back(self.site, context.run_id, self.spec.run)  # the old data has the lease of the restore in it
        return {}

    def stop(self, context: StepContext) -> Facts:
        self.directories.stop(context.say)
        return {}

    def start(self, context: StepContext) -> Facts:
        self.directories.start(context.intent["first"], context.say)
        return {}

    def first_of_old(self, _: Mapping[str, Facts]) -> Facts:
        served = self.spec.restored.served or [node.name for node in self.nodes]
        return {"first": self.directories.first_of(served)}

    def first_of_restored(self, _: Mapping[str, Facts]) -> Facts:
        return {"first": self.directories.first_of(self.spec.served)}

    def return_old(self, node: Node, context: StepContext) -> Facts:
        place = self.directories.place(node)
        place.return_old()
        return {"restored": f"{place.path}/restored"}

    def take_back(self, node: Node, context: StepContext) -> Facts:
        self.directories.place(node).take_back()
        return {}

    def prove(self, context: StepContext) -> Facts:
        databases = tuple(self.spec.restored.heads)
        found = checksums_everywhere(self.directories.cluster, databases, self.nodes)
        expected = found[self.nodes[0].name]
        require_equal(expected, found)
        return {"note": f"{len(expected)} tables on {len(self.nodes)} nodes"}

    def explain(self, failure: DbhaError, begun: frozenset[str]) -> DbhaError:
        """Return what the operator is told when all was put back: exit 7 once servers were stopped."""
        again = f"dbha restore --undo {self.spec.run}"
        return gone_back(failure, "going back to the old data", again, noticed=STOP_SERVERS in begun)


def undo_plan(spec: WholeRestoreUndoSpec, site: Site, has_ended: Callable[[str], bool]) -> Plan:
    """Return the plan. When a step fails, the restored data directories are put back and started again."""
    world = _World(spec, site, has_ended)
    return Plan(
        title=f"go back to the data of before run {spec.run}",
        forward=(
            once("hold", "hold the cluster", world.hold, Step("give-back", "let the cluster go", world.let_go)),
            once(STOP_SERVERS, "stop all servers", world.stop,
                 Step("start-undo", "start the restored cluster again", world.start, world.first_of_restored)),
            on_each(world.nodes, "return", "return to the old data directory of", world.return_old,
                    ("return-undo", "put the restored data directory back on", world.take_back)),
            stage(
                Step("start", "start the cluster of the old data", world.start, world.first_of_old,
                     undo=(stage(Step("stop-undo", "stop the servers again", world.stop)),))
            ),
            once("prove", "prove all nodes equal", world.prove),
        ),
        finish=(once("let-go", "let the cluster go", world.let_go),),
        on_undone=world.explain,
    )  # fmt: skip


def _directories(site: Site, spec: WholeRestoreSpec, run_id: str) -> Directories:
    return Directories(site.cluster.only(spec.nodes), playbooks_of(site), run_id)
