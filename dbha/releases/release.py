"""A release: which versions belong to it and which schemas its code makes."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from dbha.services import Service

Heads = Mapping[str, tuple[str, ...]]

# Later setuptools have no pkg_resources, which older releases import. Constraints files do not name setuptools.
_COMMON_REQUIREMENTS = ("PyMySQL", "setuptools<81")


@dataclass(frozen=True, slots=True)
class Release:
    """An OpenStack release. `heads` are by schema: what its code is expected to hold, for planning.

    Proof of a sync goes by what the installed code answers (`probe`), not by these.
    """

    name: str
    codename: str
    slurp: bool  # has a tested upgrade straight to the next such release
    versions: Mapping[str, str] = field(compare=False, repr=False)  # requirement by distribution
    resolved_as_of: str  # dependencies newer than this day break it
    heads: Heads = field(compare=False, repr=False)
    extra_requirements: tuple[str, ...] = ()

    def requirements(self, *, constrained: bool = False) -> tuple[str, ...]:
        """Return what to install; `constrained` leaves the dependencies' versions to a constraints file."""
        services = tuple(f"{name}{versions}" for name, versions in self.versions.items())
        return (*services, *_COMMON_REQUIREMENTS, *(() if constrained else self.extra_requirements))

    def heads_of(self, service: Service) -> dict[str, tuple[str, ...]]:
        """Return the expected heads of each database of a service, sorted."""
        return {database.name: self.heads[database.schema.name] for database in service.databases}


def matches(release: Release, service: Service, heads: Mapping[str, Collection[str]]) -> bool:
    """Tell whether all databases of the service have exactly the heads of this release."""
    expected = release.heads_of(service)
    return all(set(heads.get(name, ())) == set(revisions) for name, revisions in expected.items())
