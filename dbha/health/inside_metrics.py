"""Metrics of what the writer knows: timeline, services, fence, lease."""

from collections.abc import Iterator
from datetime import UTC

from dbha.health.inside import Inside
from dbha.health.metric import Metric, Sample

TIMELINE = Metric(
    "dbha_cluster_timeline_info", "The identity of the cluster's present history.", ("timeline",)
)
HELD = Metric("dbha_lease_held", "Whether a run, of any controller, has the lease on the cluster.")
EXPIRED = Metric(
    "dbha_lease_expired", "Whether the lease is held and was not renewed in time: its run was cut off."
)
ACQUIRED = Metric("dbha_lease_acquired_timestamp_seconds", "When the run that has the lease took it.")
HOLDER = Metric(
    "dbha_lease_info",
    "Who has the lease: the controller's host, and the workflow.",
    ("controller", "workflow"),
)
SERVICE = Metric("dbha_service_info", "The release that the service's schema is of.", ("service", "release"))
CURRENT = Metric(
    "dbha_service_schema_current",
    "Whether all databases of the service have exactly the schema heads of its release.",
    ("service",),
)
FENCED = Metric("dbha_service_fenced", "Whether all accounts of the service are locked.", ("service",))

METRICS = (TIMELINE, HELD, EXPIRED, ACQUIRED, HOLDER, SERVICE, CURRENT, FENCED)


def samples_of_inside(seen: Inside) -> Iterator[Sample]:
    """Yield what the writer knows."""
    if seen.timeline:
        yield from TIMELINE.of(1, seen.timeline)
    lease = seen.lease if seen.lease and seen.lease.run_id else None
    yield from HELD.of(lease is not None)
    yield from EXPIRED.of(lease is not None and lease.expired)
    if lease:
        if lease.acquired_at:
            yield from ACQUIRED.of(lease.acquired_at.replace(tzinfo=UTC))
        yield from HOLDER.of(1, lease.holder.rpartition(":")[0], lease.workflow)
    for status in seen.services:
        yield from SERVICE.of(1, status.name, status.release)
        yield from CURRENT.of(status.current, status.name)
        yield from FENCED.of(status.fenced, status.name)
