"""Deciding about a restore before it begins: which backup, and whether all that it needs is there."""

from collections.abc import Sequence

from dbha.backup.aside import asides_in
from dbha.backup.estimate import (
    REPLAY_GROWTH,
    check_room,
    data_size,
    local_room,
    node_needs,
    room_at,
    staging_needs,
)
from dbha.backup.manifest import Manifest
from dbha.backup.node_host import look_at
from dbha.backup.prepare import chain_in, unpacked_bytes
from dbha.backup.store import Status, Store, StoredBackup, resolve
from dbha.backup.tools_here import tools_for
from dbha.cluster.handle import side_by_side
from dbha.errors import FoundWrongError, UnsafeError, UsageError
from dbha.upgrade.point_in_time import point_of
from dbha.upgrade.restore_plan import RestoreSpec, ServiceToRestore
from dbha.upgrade.site import Site
from dbha.upgrade.whole_restore_decide import decide
from dbha.upgrade.whole_restore_plan import WholeRestoreSpec


def decide_whole(
    site: Site, name: str, to: str, accept_missing: tuple[str, ...], store_name: str
) -> WholeRestoreSpec:
    """Return how the whole cluster is restored; `to` is a point in time, or empty.

    Raises UnsafeError, UnreachableError or UsageError before anything is touched.
    """
    store, cluster = site.store_of(store_name), site.cluster
    backups = store.list()
    point = point_of(site, store, backups, name, to, here=False) if to else None
    chain = _chain(site, store, backups, point.backup_id if point else resolve(backups, name, store.where))
    # What is encrypted is decrypted here.
    needed = [tool for each in chain for tool in tools_for(each.stream.compression, encrypted=False)]
    tools = tuple(dict.fromkeys(needed))
    hosts = side_by_side(lambda node: look_at(cluster, node, tools), cluster.nodes)
    spec = decide(
        chain[-1],
        cluster.nodes,
        hosts,
        site.observe_settled(),
        accept_missing=accept_missing,
        bases=chain[:-1],
        replay_bytes=point.plan.size_bytes if point else 0,
    )
    until = point.until if point else ""
    return spec.model_copy(update={"store": store_name, "to": to, "until": until})


def decide_services(
    site: Site, name: str, to: str, services: tuple[str, ...], store_name: str
) -> RestoreSpec:
    """Return how services are restored; `to` is a point in time, or empty.

    Raises UnsafeError, UnreachableError or UsageError before anything is touched.
    """
    store, chosen = site.store_of(store_name), site.chosen_services(services)
    backups = store.list()
    point = point_of(site, store, backups, name, to, here=True) if to else None
    backup_id = point.backup_id if point else resolve(backups, name, store.where, services=services)
    chain = _chain(site, store, backups, backup_id)
    manifest = chain[-1]
    if absent := [service for service in chosen if service not in manifest.services]:
        raise UsageError(
            f"backup {backup_id} has no {', '.join(absent)}", hint=f"dbha backup show {backup_id}"
        )
    databases = [database for service in chosen.values() for database in service.database_names]
    staging_bytes = staging_needs(manifest.data_bytes) + unpacked_bytes(chain[1:])
    staging_bytes += REPLAY_GROWTH * point.plan.size_bytes if point else 0
    _require_ready(site, databases, staging_bytes)
    return RestoreSpec(
        backup_id=backup_id,
        services=tuple(
            ServiceToRestore(service=name, release=state.release, heads=state.heads)
            for name, state in ((name, manifest.services[name]) for name in chosen)
        ),
        store=store_name,
        to=to,
        until=point.until if point else "",
    )


def _chain(site: Site, store: Store, backups: Sequence[StoredBackup], backup_id: str) -> tuple[Manifest, ...]:
    """Return the manifests that a restore needs, the backup's own last.

    Raises UnsafeError for what is not good, KeyMissingError for what cannot be opened here.
    """
    stored = next(backup for backup in backups if backup.id == backup_id)
    if stored.status is Status.BAD:
        raise UnsafeError(f"backup {backup_id} is not good: {stored.reason}", hint="dbha backup list")
    try:
        chain = chain_in(store, backup_id)
    except FoundWrongError as error:
        raise UnsafeError(str(error), hint=error.hint) from error
    for each in chain:
        site.identities.require(each)
    return chain


def _require_ready(site: Site, databases: Sequence[str], staging_bytes: int) -> None:
    """Raise UnsafeError unless the cluster takes writes, nothing is aside, and there is room here and on nodes."""
    verdict = site.verdict()
    writer = site.writer_by(verdict)
    if not verdict.may_write:
        raise UnsafeError(f"the cluster is {verdict.level}: {'; '.join(verdict.reasons)}", hint="dbha status")
    with site.cluster.session(writer) as session:
        if left := asides_in(session):
            raise UnsafeError(
                f"tables of an earlier restore are still aside: {', '.join(left)}", hint="dbha runs list"
            )
        needed = node_needs(data_size(session, databases).database_bytes)
    serving = [node for node in site.cluster.nodes if node.name in verdict.serving]
    check_room(
        [
            local_room("the place to prepare it in", site.shelf.staging, staging_bytes),
            *(
                room_at(f"node {node}", site.cluster.transport(node), node.datadir, needed)
                for node in serving
            ),
        ]
    )
