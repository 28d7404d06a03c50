"""Look at everything that decides whether an upgrade may begin; changes nothing."""

import shutil
from concurrent.futures import ThreadPoolExecutor

from dbha.backup.aside import asides_in
from dbha.backup.encryption import recipients_of
from dbha.backup.estimate import (
    Room,
    data_size,
    local_room,
    node_needs,
    room_at,
    room_in,
    staging_needs,
    store_needs,
)
from dbha.backup.store import stored_ratio
from dbha.errors import DbhaError
from dbha.inventory import Node
from dbha.releases.release import Release
from dbha.services import Service
from dbha.upgrade.decide import ServiceSurvey, Survey
from dbha.upgrade.site import Site


def survey_upgrade(site: Site, target: Release, names: tuple[str, ...], allow_hops: frozenset[str]) -> Survey:
    """Return what was seen. Raises UnreachableError when no node can even be asked."""
    services = site.chosen_services(names)
    states = site.observe()
    verdict = site.verdict_of(states)
    node = site.cluster.node(verdict.writer) if verdict.writer else site.writer()
    releases, heads = site.releases_now(node), site.heads_now(node)

    def look(service: Service) -> ServiceSurvey:
        name = service.name
        try:
            expected = site.code_heads(name, target.name)
            site.runner(name, target.name)
        except DbhaError as error:
            return ServiceSurvey(service, releases[name], heads[name], {}, str(error), error.hint)
        return ServiceSurvey(service, releases[name], heads[name], expected)

    with ThreadPoolExecutor(max_workers=max(1, len(services))) as pool:
        found = tuple(pool.map(look, services.values()))
    with site.cluster.session(node) as session:
        leftovers = asides_in(session)
    databases = [database for service in services.values() for database in service.database_names]
    return Survey(
        target=target,
        verdict=verdict,
        services=found,
        candidates=site.candidates(states, verdict),
        rooms=_rooms(site, node, databases, verdict.serving),
        data_bytes=site.data_bytes(node),
        missing_tools=tuple(tool for tool in site.backup_tools if shutil.which(tool) is None),
        leftovers=tuple(f"database {name}" for name in leftovers),
        cannot_open=_cannot_open(site),
        allowed_hops=frozenset(site.configuration.upgrade.allow_hops) | allow_hops,
    )


def _cannot_open(site: Site) -> str:
    """Return why the backup that the upgrade would take could not be opened here; empty when it could be."""
    recipients = recipients_of(site.configuration.backup.encryption)
    if site.identities.open(recipients):
        return ""
    return (
        f"its backup would be encrypted for {', '.join(recipients)}, and no identity here opens that: it could not be"
        " verified, and nothing could be put back"
    )


def _rooms(site: Site, node: Node, databases: list[str], serving: tuple[str, ...]) -> tuple[Room, ...]:
    """Return the room that an upgrade with a way back may need: the store, the prepared backup, every node."""
    with site.cluster.session(node) as session:
        size = data_size(session, databases)
    shelf = site.shelf
    return (
        *room_in(shelf.store, store_needs(size.all_bytes, stored_ratio(shelf.store.list()))),
        local_room("the place to prepare it in", shelf.staging, staging_needs(size.all_bytes)),
        *(
            room_at(
                f"node {each}", site.cluster.transport(each), each.datadir, node_needs(size.database_bytes)
            )
            for each in site.cluster.nodes
            if each.name in serving
        ),
    )
