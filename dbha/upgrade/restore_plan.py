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
from dbha.errors import DbhaError, FoundWrongError, UnsafeError
from dbha.heads import Heads
from dbha.journal import Facts
from dbha.schema.migration_account import remove_migration_account
from dbha.upgrade.fencing import FENCE, Fencing
from dbha.upgrade.gone_back import gone_back
from dbha.upgrade.plan import VERIFY
from dbha.upgrade.site import Site
from dbha.workflow import Plan, Step, StepContext
from dbha.workflow.plan import Stage, once, stage

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

    @property
    def command(self) -> str:
        """What to type for the same once more."""
        words = [
            self.backup_id,
            *(f"--service {each.service}" for each in self.services),
            *((f"--to {self.to}",) if self.to else ()),
            *((f"--store {self.store}",) if self.store else ()),
        ]
        return f"dbha restore {' '.join(words)}"


class _World:
    """The steps of one restore of services, and where their data comes from."""

    def __init__(self, spec: RestoreSpec, site: Site) -> None:
        self.spec, self.site = spec, site
        self.fencing = Fencing(site.cluster, spec.databases, site.writer)
        self.shelf = site.shelf_of(spec.store)
        self.replayed = self._replayed() if spec.until else None
        source = self.replayed or self.shelf.source(spec.backup_id)
        self.restore = ServiceRestore(site.cluster, source, site.verdict, self.quiesce)

    @property
    def targets(self) -> list[Target]:
        """What is to be put back of each service."""
        return [
            Target(each.service, tuple(each.heads), partial(self.heads_of, each), lambda facts: None)
            for each in self.spec.services
        ]

    def heads_of(self, each: ServiceToRestore) -> Heads:
        """Return the schema heads that a service will have: those of the backup, or of the point in time."""
        heads = self.replayed.state().heads if self.replayed else each.heads
        return {database: heads[database] for database in each.heads}

    def quiesce(self, service: str) -> None:
        """See that nobody writes to a service any more."""
        remove_migration_account(self.site.cluster, self.site.writer(), service)
        self.fencing.require_up()

    def verify(self, context: StepContext) -> Facts:
        """Prove the backup, and leave what it is imported from, or replayed upon."""
        try:
            if self.replayed:
                self.replayed.prepare(context)
                return {}
            return {"prepared": str(self.shelf.prepared(self.spec.backup_id, context.measure))}
        except FoundWrongError as error:
            raise UnsafeError(str(error), hint=error.hint) from error

    def replay(self, replayed: ReplayedSource, context: StepContext) -> Facts:
        """Bring the backup to the point in time."""
        return {"reached": replayed.until, "releases": replayed.replay(context).releases}

    def note(self, context: StepContext) -> Facts:
        """Record the releases of what was restored."""
        found = context.facts[REPLAY]["releases"] if self.replayed else {}
        releases = {each.service: found.get(each.service, each.release) for each in self.spec.services}
        with self.site.cluster.session(self.site.writer()) as session:
            for service, release in releases.items():
                record_release(session, service, release, context.run_id)
        return {"releases": releases}

    def bring_back_accounts(self, _: StepContext) -> Facts:
        """Make those accounts and grants again that are missing; the present passwords count."""
        recorded = stored_accounts(
            self.shelf.store, self.shelf.store.manifest(self.spec.backup_id), self.site.identities
        )
        if recorded is None:
            return {"note": "the backup is of dbha 0.1, which recorded none"}
        services = [each.service for each in self.spec.services if each.service in self.site.services]
        found = {name: self.site.secrets.find(f"{name}_password") for name in services}
        passwords = {
            self.site.services[name].account: password
            for name, password in found.items()
            if password is not None
        }
        with self.site.cluster.session(self.site.writer()) as session:
            brought = bring_back(session, belonging_to(recorded, self.spec.databases), passwords)
        return {**asdict(brought), "note": str(brought) or "none was missing"}

    def tidy(self, _: StepContext) -> Facts:
        """Remove what only this run needed."""
        self.shelf.forget_prepared(self.spec.backup_id)
        return {}

    def explain(self, failure: DbhaError, begun: frozenset[str]) -> DbhaError:
        """Return what the operator is told when all was put back: exit 7 once the services noticed."""
        return gone_back(
            failure, f"the restore of {self.spec.names}", self.spec.command, noticed=FENCE in begun
        )

    def _replayed(self) -> ReplayedSource:
        shelf, spec = self.shelf, self.spec

        def plan() -> ReplayPlan:
            manifest = shelf.store.manifest(spec.backup_id)
            return plan_replay(self.site.archive, manifest, UpTo(parse_gtid(spec.until)))

        return ReplayedSource(shelf, spec.backup_id, spec.until, spec.databases, plan)


def restore_plan(spec: RestoreSpec, site: Site) -> Plan:
    """Return the plan: everything about the backup is proven before the services notice anything.

    When a step fails, the tables that were there before come back.
    """
    names, world = spec.names, _World(spec, site)
    fencing, restore = world.fencing, world.restore
    tidy, lift = "remove what only this run needed", f"lift the fence of {names}"
    lift_undo = stage(Step("unfence-undo", lift, fencing.down))
    return Plan(
        title=f"restore {names} {'to' if spec.to else 'from'} {spec.point}",
        forward=(
            once(VERIFY, "verify the backup", world.verify, Step("tidy-undo", tidy, world.tidy)),
            *_replays(world),
            stage(Step(FENCE, f"fence {names}", fencing.up, lambda _: fencing.intent(), undo=(lift_undo,))),
            *_side_by_side([restore.stages(target, force=True) for target in world.targets]),
        ),
        finish=(
            once("note", "note the releases in the cluster", world.note),
            once("unfence", lift, fencing.down),
            once("accounts", f"bring back missing accounts of {names}", world.bring_back_accounts),
            stage(*(restore.clean_up(target) for target in world.targets)),
            once("tidy", tidy, world.tidy),
        ),
        on_undone=world.explain,
    )


def _replays(world: _World) -> tuple[Stage, ...]:
    """Return the stage that replays the logs, where a point in time is asked for."""
    if world.replayed is None:
        return ()
    return (once(REPLAY, "replay the logs on a private server", partial(world.replay, world.replayed)),)


def _side_by_side(plans: list[tuple[Stage, ...]]) -> tuple[Stage, ...]:
    """Return the stages of several services zipped: all services take each stage together."""
    return tuple(
        Stage(tuple(step for part in parts for step in part.steps)) for parts in zip(*plans, strict=True)
    )
