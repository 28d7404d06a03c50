"""Making databases and accounts, and the first sync of a service, as plans."""

from collections.abc import Callable, Mapping
from functools import partial

from pydantic import BaseModel, ConfigDict

from dbha.backup.aside import drop_tables, tables_of
from dbha.cluster.handle import Cluster
from dbha.cluster.home import ensure_home, record_release
from dbha.errors import UnsafeError
from dbha.heads import Heads, in_words
from dbha.inventory import Node
from dbha.journal import Facts
from dbha.schema.migration_account import remove_migration_account
from dbha.schema.provision import provision
from dbha.schema.sync import SyncJob, sync_service
from dbha.secrets import Secret
from dbha.services import Service
from dbha.workflow import Plan, Step, StepContext
from dbha.workflow.plan import Stage, UndoFirstError, stage


class ProvisionSpec(BaseModel):
    """Which services get databases and accounts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    services: tuple[str, ...]


class ServiceSync(BaseModel):
    """One service's sync: its release, its heads now, those it is to have."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    service: str
    release: str
    before: dict[str, tuple[str, ...]]
    expected: dict[str, tuple[str, ...]]


class SyncSpec(BaseModel):
    """What was decided before a sync began; the run's arguments in the journal."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    services: tuple[ServiceSync, ...]


def provision_plan(
    spec: ProvisionSpec,
    cluster: Cluster,
    writer: Callable[[], Node],
    services: Mapping[str, Service],
    passwords: Mapping[str, Secret],
) -> Plan:
    """Return the plan that makes what is missing; what is there already stays as it is."""

    def make(context: StepContext) -> Facts:
        node = writer()
        with cluster.session(node) as session:
            ensure_home(session)
        made = provision(cluster, node, [services[name] for name in spec.services], passwords)
        return {
            "databases": made.databases,
            "accounts": made.accounts,
            "note": f"{len(made.databases)} databases and {len(made.accounts)} accounts made or changed",
        }

    title = f"make databases and accounts of {', '.join(spec.services)}"
    return Plan(title=title, forward=(stage(Step("provision", title, make)),))


def require_first_or_current(service: str, release: str, heads: Heads, expected: Heads) -> None:
    """Raise UnsafeError when bringing the service to its release's schema would be an upgrade.

    An upgrade needs a verified backup first; a first installation and a schema that is current do not.
    """
    if any(heads.values()) and heads != expected:
        raise UnsafeError(
            f"{service} is at {in_words(heads)}, and release {release} has {in_words(expected)}:"
            " bringing it there is an upgrade, or puts right a schema that is half made",
            hint=f"dbha upgrade run --to {release} --service {service}\ndbha restore latest --service {service}",
        )


def sync_plan(
    spec: SyncSpec, cluster: Cluster, writer: Callable[[], Node], job: Callable[[ServiceSync], SyncJob]
) -> Plan:
    """Return the plan of the native syncs, independent services side by side.

    A first sync that fails half-way leaves what no retry can repair, so it is undone: databases that were empty
    are empty again.
    """

    def sync(each: ServiceSync, context: StepContext) -> Facts:
        node = writer()
        if context.interrupted and not any(each.before.values()):
            raise_if_tables(cluster, node, each)
        results = sync_service(cluster, node, job(each), run_id=context.run_id, guard=context.guard)
        with cluster.session(node) as session:
            record_release(session, each.service, each.release, context.run_id)
        return {"commands": [[" ".join(result.argv[-3:]), result.returncode] for result in results]}

    def empty(each: ServiceSync, context: StepContext) -> Facts:
        node = writer()
        remove_migration_account(cluster, node, each.service)
        with cluster.session(node) as session:
            for database in each.before:
                drop_tables(session, database, tables_of(session, database), guard=context.guard)
        return {}

    def step(each: ServiceSync) -> Step:
        undo: tuple[Stage, ...] = ()
        if not any(each.before.values()):
            name = f"sync:{each.service}:empty"
            undo = (stage(Step(name, f"empty the databases of {each.service} again", partial(empty, each))),)
        return Step(
            f"sync:{each.service}", f"sync {each.service} to {each.release}", partial(sync, each), undo=undo
        )

    names = ", ".join(each.service for each in spec.services)
    return Plan(title=f"sync {names}", forward=(Stage(tuple(map(step, spec.services))),))


def raise_if_tables(cluster: Cluster, node: Node, each: ServiceSync) -> None:
    """Raise UndoFirstError when an earlier attempt at a first sync left tables."""
    remove_migration_account(cluster, node, each.service)
    with cluster.session(node) as session:
        if any(tables_of(session, database) for database in each.before):
            raise UndoFirstError(f"the sync of {each.service} was cut off: its databases are emptied first")
