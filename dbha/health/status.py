"""The state of a cluster in one value: what `dbha status` prints and monitoring reads."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from dbha.backup.store import StoredBackup, complete_ones
from dbha.cluster.assess import Verdict
from dbha.cluster.desync import Desynced, left_behind
from dbha.errors import DbhaError, UnreachableError
from dbha.health.inside import ServiceStatus, ask_inside
from dbha.inventory import Node
from dbha.journal import RunRecord, RunState
from dbha.upgrade.site import Site


@dataclass(frozen=True, slots=True)
class ClusterStatus:
    """Everything `dbha status` says. Services and timeline are unknown while no node can be asked."""

    cluster: str
    timeline: str | None
    verdict: Verdict
    nodes: tuple[Node, ...]
    services: tuple[ServiceStatus, ...]
    last_backup: StoredBackup | None
    store_problem: str  # why the backup store could not be asked; empty when it could
    active_run: RunRecord | None
    interrupted_run: RunRecord | None
    left_desynced: tuple[Desynced, ...]  # by runs of dbha that are gone


def cluster_status(
    site: Site, unfinished: list[RunRecord], *, running: bool, knows: Callable[[str], bool]
) -> ClusterStatus:
    """Return the state now; `running` says whether a live process holds the controller's lock.

    `knows` tells whether a run is one of this controller.
    """
    verdict = site.verdict()
    timeline: str | None = None
    services: tuple[ServiceStatus, ...] = ()
    if verdict.writer is not None:
        timeline, services = _ask(site, site.cluster.node(verdict.writer))
    last_backup, store_problem = _last_backup(site)
    last = unfinished[-1] if unfinished else None
    active = last if last and running and last.state is RunState.RUNNING else None
    return ClusterStatus(
        cluster=site.configuration.cluster,
        timeline=timeline,
        verdict=verdict,
        nodes=site.cluster.nodes,
        services=services,
        last_backup=last_backup,
        store_problem=store_problem,
        active_run=active,
        interrupted_run=last if active is None else None,
        left_desynced=left_behind(site.cluster, lambda run_id: not running and knows(run_id))
        if verdict.writer is not None
        else (),
    )


def _last_backup(site: Site) -> tuple[StoredBackup | None, str]:
    """Return the newest complete backup of the whole cluster, and what kept the store from being asked.

    Neither hides the cluster.
    """
    try:
        complete = complete_ones(site.store_of("").list())
    except UnreachableError as error:
        return None, str(error)
    return (complete[-1] if complete else None), ""


def _ask(site: Site, node: Node) -> tuple[str | None, tuple[ServiceStatus, ...]]:
    try:
        found = ask_inside(site, node, site.configuration.limits.observe_timeout_s)
    except DbhaError:  # the verdict says what is wrong with the node; the services are simply not known
        return None, ()
    return found.timeline, found.services


def status_as_json(status: ClusterStatus) -> dict[str, Any]:
    """Return the status in the shape of the `--json` contract (design section 5)."""
    return {
        "cluster": status.cluster,
        "timeline": status.timeline,
        "verdict": status.verdict.level,
        "reasons": list(status.verdict.reasons),
        "nodes": nodes_as_json(status.nodes, status.verdict),
        "services": [
            {
                "name": service.name,
                "release": service.release,
                "heads": {database: list(heads) for database, heads in service.heads.items()},
                "fenced": service.fenced,
            }
            for service in status.services
        ],
        "last_backup": backup_as_json(status.last_backup) if status.last_backup else None,
        "backup_store_problem": status.store_problem or None,
        "active_run": _run(status.active_run),
        "interrupted_run": _run(status.interrupted_run),
        "left_desynced": [{"node": each.node, "run": each.run_id} for each in status.left_desynced],
    }


def nodes_as_json(nodes: Sequence[Node], verdict: Verdict) -> list[dict[str, Any]]:
    """Return the nodes in the shape of the `--json` contract."""
    judged = {node.name: node for node in verdict.nodes}
    return [
        {
            "name": node.name,
            "address": node.address,
            "port": node.port,
            "state": judged[node.name].state,
            "synced": judged[node.name].synced,
            "view_agrees": judged[node.name].view_agrees,
            "serves": judged[node.name].serves,
            "writer": node.name == verdict.writer,
            "why": judged[node.name].why,
        }
        for node in nodes
    ]


def backup_as_json(backup: StoredBackup) -> dict[str, Any]:
    """Return one backup in the shape of the `--json` contract (design section 5)."""
    manifest = backup.manifest
    mark = backup.mark if backup.mark and backup.mark.holds(datetime.now(UTC)) else None
    return {
        "id": backup.id,
        "kind": manifest.kind if manifest else None,
        "scope": manifest.scope.value if manifest else None,
        "base": manifest.base.id if manifest and manifest.base else None,
        "depth": manifest.depth if manifest else None,
        "status": backup.status.value,
        "reason": backup.reason,
        **_verification_as_json(backup),
        "created": backup.created.isoformat(),
        "label": manifest.label if manifest else "",
        "size_bytes": manifest.data_bytes if manifest else None,
        "stored_bytes": backup.stored_bytes,
        "services": sorted(manifest.services) if manifest else [],
        "timeline": manifest.timeline if manifest else None,
        "seqno": manifest.seqno if manifest else None,
        "donor": manifest.donor if manifest else None,
        "compression": manifest.stream.compression.value if manifest else None,
        "recipients": list(manifest.recipients) if manifest else [],
        "locked_until": backup.lock.until.isoformat() if backup.lock else None,
        "kept": mark is not None,
        "kept_until": mark.until.isoformat() if mark and mark.until else None,
        "kept_note": mark.note if mark else "",
    }


def _verification_as_json(backup: StoredBackup) -> dict[str, Any]:
    """Return how often it was looked at, and what counts of that: `verified` is when it last passed, at any level."""
    known = backup.verification
    verdicts = known.verdicts if known else ()
    passed = [verdict.when.isoformat() for verdict in verdicts if verdict.good]
    return {
        "verified": passed[-1] if backup.verified else None,
        "verified_level": known.level.value if known and backup.verified else None,
        "verified_at": known.when.isoformat() if known and backup.verified else None,
        "verdicts": [
            verdict.model_dump(mode="json", include={"when", "level", "outcome", "problem", "note"})
            for verdict in verdicts
        ],
    }


def _run(record: RunRecord | None) -> dict[str, str] | None:
    if record is None:
        return None
    return {
        "id": record.id,
        "workflow": record.workflow,
        "state": record.state.value,
        "started": record.started,
    }
