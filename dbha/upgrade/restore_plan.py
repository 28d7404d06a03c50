"""Restoring services from a backup on request, as a plan."""

from dataclasses import asdict
from functools import partial

from pydantic import BaseModel, ConfigDict

from dbha.backup.accounts import belonging_to, bring_back, stored_accounts
from dbha.backup.binlog.gtid import parse_gtid
from dbha.backup.binlog.replay_plan import ReplayPlan, plan_replay
from dbha.backup.binlog.target import UpTo, in_words
from dbha.backup.replayed_source import ReplayedSource
from dbha.backup.service_restore import ServiceRestore, Target
from dbha.cluster.home import record_release
from dbha.errors import DbhaError, FoundWrongError, UnsafeError, UpgradeRolledBackError
from dbha.heads import Heads
from dbha.journal import Facts
from dbha.schema.migration_account import remove_migration_account
from dbha.upgrade.fencing import FENCE, Fencing
from dbha.upgrade.plan import VERIFY
from dbha.upgrade.site import Site
from dbha.workflow import Plan, Step, StepContext
from dbha.workflow.plan import Stage, stage

REPLAY = "replay"


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
    to: str = ""  # the point in time, as it was asked for; empty for that of the backup
    until: str = ""  # the last transaction before it, in the archived logs

    @property
    def point(self) -> str:
        """What is restored, in words."""
        return in_words(self.backup_id, self.to)

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

    replayed = _replayed(spec, site) if spec.until else None
    source = replayed or site.shelf_of(spec.store).source(spec.backup_id)
    restore = ServiceRestore(site.cluster, source, site.verdict, quiesce)
    targets = [
        Target(each.service, tuple(each.heads), partial(_heads_of, each, replayed), lambda facts: None)
        for each in spec.services
    ]

    def note(context: StepContext) -> Facts:
        releases: dict[str, str] = {}
        with site.cluster.session(site.writer()) as session:
            for each in spec.services:
                release = each.release
                if replayed:
                    release = context.facts[REPLAY]["releases"].get(each.service, release)
                record_release(session, each.service, release, context.run_id)
                releases[each.service] = release
        return {"releases": releases}

    def bring_back_accounts(context: StepContext) -> Facts:
        store = site.store_of(spec.store)
        recorded = stored_accounts(store, store.manifest(spec.backup_id), site.identities)
        if recorded is None:
            return {"note": "the backup is of dbha 0.1, which recorded none"}
        found = {each.service: site.secrets.find(f"{each.service}_password") for each in spec.services}
        passwords = {
            site.services[service].account: password
            for service, password in found.items()
            if service in site.services and password is not None
        }
        with site.cluster.session(site.writer()) as session:
            brought = bring_back(session, belonging_to(recorded, spec.databases), passwords)
        return {**asdict(brought), "note": str(brought) or "none was missing"}

    def tidy(context: StepContext) -> Facts:
        site.shelf.forget_prepared(spec.backup_id)
        if replayed:
            replayed.forget()
        return {}

    tidy_undo = Step("tidy-undo", "remove what only this run needed", tidy)
    lift = Step("unfence", f"lift the fence of {names}", fencing.down)
    lift_undo = Step("unfence-undo", lift.title, fencing.down)
    return Plan(
        title=f"restore {names} to {spec.point}" if spec.to else f"restore {names} from {spec.point}",
        forward=(
            stage(
                Step(
                    VERIFY,
                    "verify the backup",
                    partial(_verify, spec, site, replayed),
                    undo=(stage(tidy_undo),),
                )
            ),
            *_replays(replayed),
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
            stage(Step("accounts", f"bring back missing accounts of {names}", bring_back_accounts)),
            stage(*(restore.clean_up(target) for target in targets)),
            stage(Step("tidy", "remove what only this run needed", tidy)),
        ),
        on_undone=partial(_explain, spec),
    )


def _replayed(spec: RestoreSpec, site: Site) -> ReplayedSource:
    """Return the backup with the logs replayed on it, as the source of the restore."""
    shelf = site.shelf_of(spec.store)

    def plan() -> ReplayPlan:
        return plan_replay(site.archive, shelf.store.manifest(spec.backup_id), UpTo(parse_gtid(spec.until)))

    return ReplayedSource(shelf, spec.backup_id, spec.until, spec.databases, plan)


def _replays(replayed: ReplayedSource | None) -> tuple[Stage, ...]:
    """Return the stage that replays the logs, where a point in time is asked for."""
    if replayed is None:
        return ()

    def act(context: StepContext) -> Facts:
        return {"reached": replayed.until, "releases": replayed.replay(context).releases}

    return (stage(Step(REPLAY, "replay the logs on a private server", act)),)


def _heads_of(each: ServiceToRestore, replayed: ReplayedSource | None) -> Heads:
    """Return the schema heads that the service will have: those of the backup, or of the point in time."""
    heads = replayed.state().heads if replayed else each.heads
    return {database: heads[database] for database in each.heads}


def _verify(spec: RestoreSpec, site: Site, replayed: ReplayedSource | None, context: StepContext) -> Facts:
    try:
        if replayed:
            replayed.prepare(context)
            return {}
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
    again += f" --store {spec.store}" if spec.store else ""
    return UpgradeRolledBackError(
        f"the restore of {spec.names} failed: {failure}",
        hint="dbha runs show latest     what failed, step by step\n"
        f"dbha restore {spec.backup_id} {again}{f' --to {spec.to}' if spec.to else ''}     once the cause is gone",
    )


def _side_by_side(plans: list[tuple[Stage, ...]]) -> tuple[Stage, ...]:
    """Return the stages of several services zipped: all services take each stage together."""
    return tuple(
        Stage(tuple(step for part in parts for step in part.steps)) for parts in zip(*plans, strict=True)
    )
