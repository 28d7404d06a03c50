"""Deciding about a new backup: where it is read from, what it holds, and whether there is room for it."""

import shutil
from collections.abc import Sequence

from dbha.backup.encryption import recipients_of
from dbha.backup.estimate import (
    check_room,
    incremental_estimate,
    local_room,
    room_in,
    staging_needs,
    store_needs,
    with_margin,
)
from dbha.backup.levels import Level
from dbha.backup.manifest import new_backup_id
from dbha.backup.plans import BackupSpec
from dbha.backup.store import StoredBackup, incremental_ratio, stored_ratio
from dbha.cli.app import App
from dbha.cli.incremental import Chosen, Wanted, choose
from dbha.errors import UnreachableError
from dbha.upgrade.site import Site


def decide(
    app: App,
    label: str,
    wanted: Wanted,
    services: tuple[str, ...],
    *,
    verify: Level | None,
    store_name: str,
) -> BackupSpec:
    """Return where the backup is read from. Raises UnsafeError when no node will do, or there is no room."""
    site: Site = app.site
    services = tuple(site.chosen_services(services)) if services else ()
    if missing := [tool for tool in site.backup_tools if shutil.which(tool) is None]:
        raise UnreachableError(f"not installed: {', '.join(missing)}", hint="dbha check")
    _require_openable(site, verify)
    states = site.observe()
    verdict = site.verdict_of(states)
    site.writer_by(verdict)  # where nobody serves, that is the reason, and not what each candidate lacks
    store = site.store_of(store_name)
    backups = store.list()
    chosen = choose(app, backups, states, verdict, wanted)
    size = site.data_bytes(site.cluster.node(chosen.donor.node), services)
    rooms = [*room_in(store, _store_needs(size, backups, chosen))]
    if not rooms:
        app.console.say(f"{store.where} does not tell how much room it has: not checked", style="dim")
    if verify and verify is not Level.HASH:
        needed = staging_needs(size) + (size // 2 if chosen.base else 0)
        rooms.append(local_room("the place to prepare it in", site.shelf.staging, needed))
    check_room(rooms)
    return BackupSpec(
        backup_id=new_backup_id(),
        donor=chosen.donor.node,
        donor_reasons=chosen.donor.rejected,
        desync=chosen.desync,
        label=label,
        backup_bytes=size,
        verify=verify,
        services=services,
        store=store_name,
        base=chosen.base.id if chosen.base else "",
        why_full=chosen.why_full,
    )


def _store_needs(size_bytes: int, backups: Sequence[StoredBackup], chosen: Chosen) -> int:
    ratio = stored_ratio(backups)
    if chosen.base is None:
        return store_needs(size_bytes, ratio)
    return with_margin(incremental_estimate(size_bytes, incremental_ratio(backups), ratio))


def _require_openable(site: Site, verify: Level | None) -> None:
    """Raise unless age takes the recipients, and what is to be verified can be opened here."""
    recipients = recipients_of(site.configuration.backup.encryption)
    if recipients and verify and verify is not Level.HASH:
        site.identities.require_for(recipients, "a new backup")
