"""Bootstrapping a cluster, as a plan; there is no cluster yet to hold a lease."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from dbha.cluster.bootstrap import bootstrap, wait_until_synced
from dbha.cluster.certificates import Certificates
from dbha.cluster.handle import Cluster
from dbha.cluster.home import begin_timeline, current_timeline, ensure_home
from dbha.cluster.timeline_notes import note_timeline
from dbha.journal import Facts
from dbha.workflow import Plan, Step, StepContext
from dbha.workflow.plan import stage

_SYNCED_WITHIN_S = 300.0


class BootstrapSpec(BaseModel):
    """The members of the first Primary component, by node name; the run's arguments in the journal."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    view: dict[str, str]


def bootstrap_plan(
    spec: BootstrapSpec, cluster: Cluster, inventory: Path, run_directory: Path,
    certificates: Certificates | None = None,
) -> Plan:  # fmt: skip
    """Return the plan that makes a new cluster of all nodes of the inventory."""

    def form(view: Mapping[str, str], context: StepContext) -> Facts:
        result = bootstrap(
            cluster,
            inventory=inventory,
            run_directory=run_directory,
            view=view,
            certificates=certificates,
            on_line=context.say,
        )
        return {"changed": dict(result.changed)}

    def settle(context: StepContext) -> Facts:
        wait_until_synced(cluster, cluster.nodes, _SYNCED_WITHIN_S)
        return {"timeline": settle_in(cluster, "bootstrap")}

    return Plan(
        title=f"bootstrap cluster {cluster.name} of {', '.join(map(str, cluster.nodes))}",
        forward=(
            stage(Step("bootstrap", "set up the nodes and start them", partial(form, spec.view))),
            stage(Step("settle", "wait until all are Synced, and begin a timeline", settle)),
        ),
    )


def settle_in(cluster: Cluster, reason: str) -> str:
    """Make dbha's own database in the cluster and return the timeline, beginning one where there is none."""
    with cluster.session(cluster.nodes[0]) as session:
        ensure_home(session)
        if known := current_timeline(session):
            return known
        begun = begin_timeline(session, reason)
    note_timeline(cluster, cluster.nodes, [begun])
    return begun
