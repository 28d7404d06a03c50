"""Restoring services from a backup on request, as a plan."""

from functools import partial

from pydantic import BaseModel, ConfigDict

from dbha.backup.service_restore import ServiceRestore, Target
from dbha.cluster.home import record_release
from dbha.errors import DbhaError, FoundWrongError, UnsafeError, UpgradeRolledBackError
from dbha.journal import Facts
from dbha.schema.migration_account import remove_migration_account
from dbha.upgrade.fencing import FENCE, Fencing
from dbha.upgrade.plan import VERIFY
from dbha.upgrade.site import Site
from dbha.workflow import Plan, Step, StepContext
from dbha.workflow.plan import Stage, stage


class ServiceToRestore(BaseModel):
    """One service as it is in the backup."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    service: str
    release: str
    heads: dict[str, tuple[str, ...]]


class RestoreSpec(BaseModel):
    """What was decided before a restore began; the run's arguments in the journal."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    backup_id: str
    services: tuple[ServiceToRestore, ...]
    store: str = ""  # the one of the configuration

    @property
    def databases(self) -> tuple[str, ...]:
        """All databases that are replaced."""
        return tuple(database for each in self.services for database in each.heads)

    @property
    def names(self) -> str:
        """The services, in words."""
        return ", ".join(each.service for each in self.services)


def restore_plan(spec: RestoreSpec, site: Site) -> Plan:
    """Return the plan: everything about the backup is proven before the services notice anything.

    When a step fails, the tables that were there before come back.
    """
    names = spec.names
    fencing = Fencing(site.cluster, spec.databases, site.writer)

    def quiesce(service: str) -> None:
        remove_migration_account(site.cluster, site.writer(), service)
        fencing.require_up()

    restore = ServiceRestore(
        site.cluster, site.shelf_of(spec.store).source(spec.backup_id), site.verdict, quiesce
    )
    targets = [
        Target(each.service, tuple(each.heads), dict(each.heads), lambda facts: None)
        for each in spec.services
    ]

    def note(context: StepContext) -> Facts:
        with site.cluster.session(site.writer()) as session:
            for each in spec.services:
                record_release(session, each.service, each.release, context.run_id)
        return {}

    def tidy(context: StepContext) -> Facts:
        site.shelf.forget_prepared(spec.backup_id)
        return {}

    tidy_undo = Step("tidy-undo", "remove what only this run needed", tidy)
    lift = Step("unfence", f"lift the fence of {names}", fencing.down)
    lift_undo = Step("unfence-undo", lift.title, fencing.down)
    return Plan(
        title=f"restore {names} from backup {spec.backup_id}",
        forward=(
            stage(Step(VERIFY, "verify the backup", partial(_verify, spec, site), undo=(stage(tidy_undo),))),
            stage(
                Step(
                    FENCE, f"fence {names}", fencing.up, lambda _: fencing.intent(), undo=(stage(lift_undo),)
                )
            ),
            *_side_by_side([restore.stages(target, force=True) for target in targets]),
        ),
        finish=(
            stage(Step("note", "note the releases in the cluster", note)),
            stage(lift),
            stage(*(restore.clean_up(target) for target in targets)),
            stage(Step("tidy", "remove what only this run needed", tidy)),
        ),
        on_undone=partial(_explain, spec),
    )


def _verify(spec: RestoreSpec, site: Site, context: StepContext) -> Facts:
    try:
        return {"prepared": str(site.shelf_of(spec.store).prepared(spec.backup_id, context.measure))}
    except FoundWrongError as error:
        raise UnsafeError(str(error), hint=error.hint) from error


def _explain(spec: RestoreSpec, failure: DbhaError, begun: frozenset[str]) -> DbhaError:
    """Return what the operator is told when all was put back: exit 7 once the services noticed."""
    if FENCE not in begun:
        failure.unchanged = failure.unchanged or UnsafeError.unchanged
        return failure
    if failure.exit_code in (130, 143):
        failure.unchanged = failure.unchanged or UpgradeRolledBackError.unchanged
        return failure
    again = " ".join(f"--service {each.service}" for each in spec.services)
    return UpgradeRolledBackError(
        f"the restore of {spec.names} failed: {failure}",
        hint="dbha runs show latest     what failed, step by step\n"
        f"dbha restore {spec.backup_id} {again}     once the cause is gone",
    )


def _side_by_side(plans: list[tuple[Stage, ...]]) -> tuple[Stage, ...]:
    """Return the stages of several services zipped: all services take each stage together."""
    return tuple(
        Stage(tuple(step for part in parts for step in part.steps)) for parts in zip(*plans, strict=True)
    )
