"""The restore of a whole cluster as a plan, and going back to what was there before."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property, partial

from pydantic import BaseModel, ConfigDict, Field

from dbha.backup.binlog.gtid import latest, parse_gtid, parse_gtids
from dbha.backup.binlog.replay_plan import ReplayPlan, plan_replay
from dbha.backup.binlog.target import UpTo, in_words
from dbha.backup.manifest import Manifest
from dbha.backup.whole_restore import Directories, Playbooks, WholeRestore
from dbha.cluster.fence import ServiceAccount, lift_fence
from dbha.cluster.handle import Cluster
from dbha.cluster.home import begin_timeline, ensure_home, timeline_chain
from dbha.cluster.lease import Claim, Lease, free, hand_over
from dbha.cluster.timeline_notes import note_timeline
from dbha.errors import DbhaError
from dbha.heads import Heads
from dbha.inventory import Node
from dbha.journal import Facts, controller_name
from dbha.schema.migration_account import remove_migration_account
from dbha.schema.provision import provision
from dbha.secrets import Secret
from dbha.services import Service
from dbha.upgrade.fencing import FENCE, Fencing
from dbha.upgrade.gone_back import gone_back
from dbha.upgrade.restore_plan import ServiceToRestore
from dbha.upgrade.site import Site
from dbha.workflow import Plan, Step, StepContext
from dbha.workflow.plan import Stage, once, stage

NodeAction = Callable[[Node, StepContext], Facts]

WORKFLOW = "restore cluster"
HOLD, STOP_SERVERS = "hold", "stop-servers"


class WholeRestoreSpec(BaseModel):
    """What was decided before the cluster was touched; the run's arguments in the journal."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    backup_id: str
    nodes: tuple[str, ...]
    missing: tuple[str, ...] = ()  # accepted by name; the new history keeps them out
    served: tuple[str, ...]  # the nodes that were a cluster before
    history: str
    view: dict[str, str]
    services: tuple[ServiceToRestore, ...]
    store: str = ""  # the one of the configuration
    to: str = ""  # the point in time, as it was asked for; empty for that of the backup
    until: str = ""  # the last transaction before it, in the archived logs
    began: datetime = Field(default_factory=lambda: datetime.now(UTC))

    @property
    def point(self) -> str:
        """What is restored, in words."""
        return in_words(self.backup_id, self.to)

    @property
    def command(self) -> str:
        """What to type for the same once more."""
        words = [
            self.backup_id,
            *(f"--accept-missing {node}" for node in self.missing),
            *((f"--to {self.to}",) if self.to else ()),
            *((f"--store {self.store}",) if self.store else ()),
        ]
        return f"dbha restore {' '.join(words)}"

    @property
    def heads(self) -> Heads:
        """The schema heads that every database must have."""
        return {name: found for each in self.services for name, found in each.heads.items()}


def playbooks_of(site: Site) -> Playbooks:
    """Return where Ansible finds the site's hosts."""
    return Playbooks(site.configuration.inventory, site.configuration.state / "ansible")


def take_lease(cluster: Cluster, claim: Claim, has_ended: Callable[[str], bool], *, again: bool) -> int:
    """Take the lease, leave it taken, and return its token: nobody else begins a run until it is given back.

    `again`: an earlier process of this run may have taken it, and is gone.
    """
    lease = Lease.acquire(
        cluster, run_id=claim.run_id, workflow=claim.workflow, holder=claim.holder, ttl_s=claim.ttl_s,
        take_over_run=claim.run_id, proven_dead=again, has_ended=has_ended,
    )  # fmt: skip
    lease.close()
    return lease.token


def give_back(site: Site, *run_ids: str) -> None:
    """Give the leases of these runs back in the cluster that serves now, if one does."""
    if writer := site.verdict().writer:
        with site.cluster.session(site.cluster.node(writer)) as session:
            for run_id in run_ids:
                free(session, run_id)


class _World:
    """The steps of one restore of a whole cluster."""

    def __init__(self, spec: WholeRestoreSpec, site: Site, has_ended: Callable[[str], bool]) -> None:
        self.spec, self.site, self.has_ended = spec, site, has_ended
        self.cluster: Cluster = site.cluster.only(spec.nodes)
        self.store = site.store_of(spec.store)
        self.fencing = Fencing(self.cluster, tuple(spec.heads), lambda: self.cluster.nodes[0])

    @cached_property
    def manifest(self) -> Manifest:
        """Read when it is first needed: going back to the old data needs no store, which may be away then."""
        return self.store.manifest(self.spec.backup_id)

    @cached_property
    def replay_plan(self) -> ReplayPlan:
        """What is replayed; each log is verified again."""
        return plan_replay(self.site.archive, self.manifest, UpTo(parse_gtid(self.spec.until)))

    @property
    def last_gtid(self) -> int | None:
        """The number of the last transaction in the restored data; None where transactions have no numbers."""
        if self.spec.until:
            return parse_gtid(self.spec.until).sequence
        last = latest(parse_gtids(self.manifest.gtid), ())
        return last.sequence if last else None

    def directories(self, context: StepContext) -> Directories:
        return Directories(self.cluster, playbooks_of(self.site), context.run_id)

    def restore(self, context: StepContext) -> WholeRestore:
        return WholeRestore(
            self.cluster,
            playbooks_of(self.site),
            context.run_id,
            self.store,
            self.manifest,
            self.spec.history,
            self.site.identities,
        )

    def claim(self, context: StepContext) -> Claim:
        return Claim(context.run_id, WORKFLOW, controller_name(), self.site.configuration.limits.lease_ttl_s)

    def hold(self, context: StepContext) -> Facts:
        """Take the lease and leave it taken: nobody else begins a run on the cluster that is about to end."""
        if not self.spec.served:
            return {"token": 0, "locked": [], "note": "no cluster serves: there is nobody to hold off"}
        token = take_lease(self.cluster, self.claim(context), self.has_ended, again=context.interrupted)
        locked = [[user, host] for user, host, is_locked in self.fencing.intent()["accounts"] if is_locked]
        return {"token": token, "locked": locked}

    def give_back(self, context: StepContext) -> Facts:
        """Give the lease back, if a cluster serves now: the restored one, or the one of before."""
        give_back(self.site, context.run_id)
        return {}

    def stage(self, node: Node, context: StepContext) -> Facts:
        self.restore(context).stage(node, context.measure)
        return {"bytes": self.manifest.stream.stored_bytes}

    def replay(self, node: Node, context: StepContext) -> Facts:
        plan = self.replay_plan
        reached = self.restore(context).replay(node, plan, context.measure, context.guard)
        return {"reached": str(reached), "bytes": plan.size_bytes}

    def unstage(self, node: Node, context: StepContext) -> Facts:
        self.directories(context).place(node).exchange_back()
        return {}

    def stop(self, context: StepContext) -> Facts:
        self.directories(context).stop(context.say)
        return {}

    def start_old(self, context: StepContext) -> Facts:
        self.directories(context).start(context.intent["first"], context.say)
        return {}

    def first_of_old(self, _: Mapping[str, Facts]) -> Facts:
        directories = Directories(self.cluster, playbooks_of(self.site), "")
        return {"first": directories.first_of(self.spec.served)}

    def exchange(self, node: Node, context: StepContext) -> Facts:
        place = self.directories(context).place(node)
        place.exchange()
        return {"old": f"{place.path}/old"}

    def begin(self, context: StepContext) -> Facts:
        restore, databases = self.restore(context), tuple(self.spec.heads)
        restore.be_ready_to_restart()
        tables = restore.begin(self.spec.began, self.last_gtid, databases, partial(context.count, "tables"))
        return {"tables": tables, "note": f"{tables} tables are equal on {len(self.cluster.nodes)} nodes"}

    def form(self, context: StepContext) -> Facts:
        self.restore(context).form(self.spec.view, context.say)
        return {}

    def settle(self, context: StepContext) -> Facts:
        """Give the cluster its new identity, and this run its lease; drop what a run at backup time had made."""
        node = self.cluster.nodes[0]
        with self.cluster.session(node) as session:
            ensure_home(session)
            hand_over(session, self.claim(context), at_least=int(context.facts[HOLD]["token"]))
            timeline = begin_timeline(session, f"restore of {self.spec.point}")
            chain = timeline_chain(session)
        note_timeline(self.cluster, self.cluster.nodes, chain)
        for each in self.spec.services:
            remove_migration_account(self.cluster, node, each.service)
        return {"timeline": timeline}

    def prove(self, context: StepContext) -> Facts:
        tables = self.restore(context).prove(self.spec.heads, self.last_gtid, replayed=bool(self.spec.until))
        return {"tables": tables, "note": f"{tables} tables on {len(self.cluster.nodes)} nodes"}

    def reopen(self, context: StepContext) -> Facts:
        """Let the services in with their present passwords; who was locked before the restore stays locked."""
        node = self.cluster.nodes[0]
        locked = {tuple(each) for each in context.facts[HOLD]["locked"]}
        accounts = [
            ServiceAccount(user, host)
            for user, host, _ in context.facts[FENCE]["accounts"]
            if (user, host) not in locked
        ]
        lift_fence(self.cluster, node, accounts, guard=context.guard)
        changed = provision(self.cluster, node, *self._services_with_passwords()).accounts
        if not changed:
            return {"accounts": []}
        words = f"{', '.join(changed)}: the present passwords, not those of the backup"
        return {"accounts": list(changed), "note": words}

    def _services_with_passwords(self) -> tuple[list[Service], dict[str, Secret]]:
        """Return the services whose passwords dbha knows; the accounts of others stay as they are in the backup."""
        names = [each.service for each in self.spec.services if each.service in self.site.services]
        found = {name: self.site.secrets.find(f"{name}_password") for name in names}
        passwords = {name: password for name, password in found.items() if password is not None}
        return [self.site.services[name] for name in passwords], passwords

    def explain(self, failure: DbhaError, begun: frozenset[str]) -> DbhaError:
        """Return what the operator is told when all was put back: exit 7 once servers were stopped."""
        return gone_back(
            failure, "the restore of the cluster", self.spec.command, noticed=STOP_SERVERS in begun
        )


def on_each(
    nodes: Sequence[Node], name: str, title: str, act: NodeAction, undo: tuple[str, str, NodeAction]
) -> Stage:
    """Return a stage with a step for each node, and for each one that undoes it; titles end with the node's name."""
    undo_name, undo_title, undo_act = undo
    return Stage(
        tuple(
            Step(
                f"{name}:{node}", f"{title} {node}", partial(act, node),
                undo=(stage(Step(f"{undo_name}:{node}", f"{undo_title} {node}", partial(undo_act, node))),),
            )
            for node in nodes
        )
    )  # fmt: skip


def whole_restore_plan(spec: WholeRestoreSpec, site: Site, has_ended: Callable[[str], bool]) -> Plan:
    """Return the plan: everything is unpacked and proven beside the old data before the first server stops.

    When a step fails, the old data directories are put back and their cluster is started again. When it succeeds,
    they stay where `exchange` says.
    """
    world = _World(spec, site, has_ended)
    nodes = world.cluster.nodes
    replays = (
        []
        if not spec.until
        else [
            Stage(
                tuple(
                    Step(f"replay:{node}", f"replay the logs beside {node}", partial(world.replay, node))
                    for node in nodes
                )
            )
        ]
    )

    return Plan(
        title=f"restore the whole cluster to {spec.point}" if spec.to
        else f"restore the whole cluster from {spec.point}",
        forward=(
            once(HOLD, "hold the cluster", world.hold, Step("give-back", "let the cluster go", world.give_back)),
            on_each(nodes, "unpack", "unpack and prove the backup beside", world.stage,
                    ("unpack-undo", "remove what was unpacked on", world.unstage)),
            *replays,
            once("begin", "begin a new history on every node for itself", world.begin),
            once(STOP_SERVERS, "stop all servers", world.stop,
                 Step("start-old", "start the cluster that was there before", world.start_old, world.first_of_old)),
            on_each(nodes, "exchange", "exchange the data directory of", world.exchange,
                    ("exchange-undo", "put the old data directory back on", world.unstage)),
            once("form", "form the cluster", world.form,
                 Step("form-undo", "stop the restored servers", world.stop)),
            stage(Step(FENCE, "keep the services out", world.fencing.up, lambda _: world.fencing.intent())),
            once("settle", "begin a new timeline", world.settle),
            once("prove", "prove all nodes equal", world.prove),
        ),
        finish=(
            once("reopen", "let the services in", world.reopen),
            once("let-go", "let the cluster go", world.give_back),
        ),
        on_undone=world.explain,
    )  # fmt: skip
