"""What a node that serves can be asked about the cluster: its history, its services, who holds it."""

from dataclasses import dataclass

from dbha.cluster.fence import accounts_writing_to
from dbha.cluster.home import MISSING, current_timeline, recorded_releases
from dbha.cluster.lease import LeaseRow, read_lease
from dbha.database import Session, SqlError
from dbha.heads import Heads, read_heads
from dbha.inventory import Node
from dbha.releases.catalogue import RELEASES
from dbha.releases.release import matches
from dbha.schema.migration_account import PREFIX
from dbha.services import Service
from dbha.upgrade.site import Site


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """A service as the cluster has it now; `current` is None for a release that dbha does not know."""

    name: str
    release: str
    heads: Heads
    fenced: bool
    current: bool | None  # whether the heads are those of the release, as dbha's catalogue has them


@dataclass(frozen=True, slots=True)
class Inside:
    """The answers. A timeline is None where dbha gave the cluster none, a lease where nobody ever took it."""

    timeline: str | None
    services: tuple[ServiceStatus, ...]
    lease: LeaseRow | None


def ask_inside(site: Site, node: Node, timeout_s: float) -> Inside:
    """Return what the node says, with at most `timeout_s` for each answer. Raises DbhaError."""
    with site.cluster.session(node, read_timeout_s=timeout_s) as session:
        return Inside(current_timeline(session), _services(site, session), _lease(session))


def _services(site: Site, session: Session) -> tuple[ServiceStatus, ...]:
    recorded = recorded_releases(session)
    found = []
    for name, service in site.services.items():
        locked = [
            account.locked
            for account in accounts_writing_to(session, service.database_names)
            if not account.user.startswith(PREFIX)
        ]
        release = recorded.get(name, site.configuration.services_policy(name).release)
        heads = read_heads(session, service.database_names)
        current = is_current(service, release, heads)
        found.append(ServiceStatus(name, release, heads, bool(locked) and all(locked), current))
    return tuple(found)


def is_current(service: Service, release: str, heads: Heads) -> bool | None:
    """Return whether these are the heads of a release; None for one that dbha does not know."""
    known = next((each for each in RELEASES if each.name == release), None)
    return matches(known, service, heads) if known else None


def _lease(session: Session) -> LeaseRow | None:
    try:
        return read_lease(session)
    except SqlError as error:
        if error.code in MISSING:
            return None
        raise
