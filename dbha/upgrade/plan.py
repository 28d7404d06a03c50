"""The upgrade as a plan. The world it acts on is given: the real cluster, or a simulated one in crash tests."""

from collections.abc import Mapping
from functools import partial
from typing import Protocol

from dbha.errors import DbhaError, UpgradeRolledBackError
from dbha.journal import Facts
from dbha.upgrade.fencing import FENCE
from dbha.upgrade.gone_back import gone_back
from dbha.upgrade.spec import ServiceUpgrade, UpgradeSpec
from dbha.workflow import Plan, Step, StepContext
from dbha.workflow.plan import Stage, stage

RECORD = "record"
BACKUP = "backup"
VERIFY = "verify"


class World(Protocol):
    """What an upgrade does, each thing safe to repeat after it was cut off anywhere."""

    def accounts(self, spec: UpgradeSpec) -> Facts:
        """Return the accounts to fence and which of them are locked already; changes nothing."""
        ...

    def raise_fence(self, spec: UpgradeSpec, context: StepContext) -> Facts:
        """Keep the services' accounts out."""
        ...

    def lift_fence(self, spec: UpgradeSpec, context: StepContext) -> Facts:
        """Let the accounts in again that were not locked before."""
        ...

    def record(self, spec: UpgradeSpec, context: StepContext) -> Facts:
        """Return the checksums of all tables as they are now."""
        ...

    def take_backup(self, spec: UpgradeSpec, context: StepContext) -> Facts:
        """Take the backup; raises BackupFailedError."""
        ...

    def verify_backup(self, spec: UpgradeSpec, context: StepContext) -> Facts:
        """Prove that the backup can be restored, and keep it prepared; raises BackupFailedError."""
        ...

    def sync(self, spec: UpgradeSpec, upgrade: ServiceUpgrade, context: StepContext) -> Facts:
        """Run the service's native sync; raises UndoFirstError when an earlier attempt left it half done."""
        ...

    def prove(self, spec: UpgradeSpec, context: StepContext) -> Facts:
        """Read back that every service is at its target, equally on all nodes."""
        ...

    def restore(self, spec: UpgradeSpec, upgrade: ServiceUpgrade) -> tuple[Stage, ...]:
        """Return the stages that put the service back from the backup; what they replaced stays aside."""
        ...

    def drop_aside(self, spec: UpgradeSpec, upgrade: ServiceUpgrade) -> Step:
        """Return the step that drops what a restore replaced, once it was proven."""
        ...

    def note_releases(self, spec: UpgradeSpec, context: StepContext) -> Facts:
        """Record in the cluster which releases the services have now."""
        ...

    def tidy(self, spec: UpgradeSpec, context: StepContext) -> Facts:
        """Remove what only this run needed."""
        ...


def upgrade_plan(spec: UpgradeSpec, world: World) -> Plan:
    """Return the plan of an upgrade.

    The fence goes up before the backup is taken: what is put back after a failure is then exactly what was there,
    and nothing that a service wrote in between can be lost. It is lifted as soon as all is proven to be back; what
    was moved aside is dropped after that.
    """
    names = ", ".join(each.service for each in spec.services)

    def fence_intent(_: Mapping[str, Facts]) -> Facts:
        return world.accounts(spec)

    lift = Step("unfence", f"lift the fence of {names}", partial(world.lift_fence, spec))
    lift_after_failure = Step("unfence-undo", lift.title, lift.run)
    tidy = Step("tidy", "remove what only this run needed", partial(world.tidy, spec))
    tidy_after_failure = Step("tidy-undo", tidy.title, tidy.run)
    drop_after_failure = stage(*(world.drop_aside(spec, each) for each in spec.services))
    return Plan(
        title=f"upgrade {names} to {spec.target}",
        forward=(
            stage(
                Step(
                    FENCE, f"fence {names}", partial(world.raise_fence, spec), fence_intent,
                    undo=(stage(lift_after_failure), drop_after_failure, stage(tidy_after_failure)),
                )
            ),
            stage(
                Step(BACKUP, f"take a backup on {spec.donor}", partial(world.take_backup, spec)),
                Step(RECORD, f"record the checksums of {names}", partial(world.record, spec)),
            ),
            stage(Step(VERIFY, "verify the backup", partial(world.verify_backup, spec))),
            stage(*(_sync_step(spec, each, world) for each in spec.services)),
            stage(Step("prove", f"prove {names} current on all nodes", partial(world.prove, spec))),
        ),
        finish=(
            stage(Step("note", "note the releases in the cluster", partial(world.note_releases, spec))),
            stage(lift),
            stage(tidy),
        ),
        on_undone=partial(_explain, spec),
    )  # fmt: skip


def sync_name(service: str) -> str:
    """Return the name of the step that syncs a service."""
    return f"sync:{service}"


def _sync_step(spec: UpgradeSpec, upgrade: ServiceUpgrade, world: World) -> Step:
    return Step(
        sync_name(upgrade.service),
        f"sync {upgrade.service} from {upgrade.source} to {upgrade.target} on {spec.writer}",
        partial(world.sync, spec, upgrade),
        undo=world.restore(spec, upgrade),
    )


def _explain(spec: UpgradeSpec, failure: DbhaError, begun: frozenset[str]) -> DbhaError:
    """Return what the operator is told when all was put back: exit 7 once a schema may have been touched."""
    return gone_back(
        failure,
        f"the upgrade to {spec.target}",
        f"dbha upgrade run --to {spec.target}",
        noticed=any(sync_name(each.service) in begun for each in spec.services),
        unnoticed=UpgradeRolledBackError.unchanged,  # the fence was up
    )
