"""The releases dbha knows, oldest first."""

from collections.abc import Collection, Mapping
from difflib import get_close_matches

from dbha.errors import UsageError
from dbha.releases.release import Release, matches
from dbha.services import Service

_FIRST_MAJORS = {"nova": 27, "keystone": 23, "glance": 26, "openstack-placement": 9}


def _versions(releases_later: int) -> dict[str, str]:
    """Return the ranges of a release so many after 2023.1; each service's major grew by one every time."""
    majors = {name: first + releases_later for name, first in _FIRST_MAJORS.items()}
    return {name: f">={major},<{major + 1}" for name, major in majors.items()}


def _heads(
    *, nova: str, nova_api: str, keystone: tuple[str, str], glance: str, placement: str
) -> dict[str, tuple[str, ...]]:
    return {
        "placement": (placement,),
        "keystone": tuple(sorted(keystone)),  # the expand and the contract branch
        "glance": (glance,),  # between expand and contract there are two
        "nova_api": (nova_api,),
        "nova": (nova,),
    }


RELEASES: tuple[Release, ...] = (
    Release(
        name="2023.1",
        codename="Antelope",
        slurp=True,
        versions=_versions(0),
        resolved_as_of="2023-10-30",
        extra_requirements=("sqlalchemy<2",),
        heads=_heads(
            nova="960aac0e09ea",
            nova_api="b30f573d3377",
            keystone=("29e87d24a316", "e25ffa003242"),
            glance="2023_1_contract01",
            placement="422ece571366",
        ),
    ),
    Release(
        name="2023.2",
        codename="Bobcat",
        slurp=False,
        versions=_versions(1),
        resolved_as_of="2023-11-20",
        extra_requirements=("sqlalchemy<2",),
        heads=_heads(
            nova="1acf2c98e646",
            nova_api="cdeec0c85668",
            keystone=("11c3b243b4cb", "c88cdce8f248"),
            glance="2023_1_contract01",
            placement="a082b8bb98d0",
        ),
    ),
    Release(
        name="2024.1",
        codename="Caracal",
        slurp=True,
        versions=_versions(2),
        resolved_as_of="2024-05-20",
        heads=_heads(
            nova="13863f4e1612",
            nova_api="cdeec0c85668",
            keystone=("47147121", "c88cdce8f248"),
            glance="2024_1_contract01",
            placement="a082b8bb98d0",
        ),
    ),
    Release(
        name="2024.2",
        codename="Dalmatian",
        slurp=False,
        versions=_versions(3),
        resolved_as_of="2024-10-15",
        heads=_heads(
            nova="13863f4e1612",
            nova_api="cdeec0c85668",
            keystone=("47147121", "c88cdce8f248"),
            glance="2024_1_contract01",
            placement="a082b8bb98d0",
        ),
    ),
    Release(
        name="2025.1",
        codename="Epoxy",
        slurp=True,
        versions=_versions(4),
        resolved_as_of="2025-05-20",
        heads=_heads(
            nova="2903cd72dc14",
            nova_api="cdeec0c85668",
            keystone=("47147121", "c88cdce8f248"),
            glance="2024_1_contract01",
            placement="a082b8bb98d0",
        ),
    ),
    Release(
        name="2025.2",
        codename="Flamingo",
        slurp=False,
        versions=_versions(5),
        resolved_as_of="2025-11-15",
        heads=_heads(
            nova="2903cd72dc14",
            nova_api="cdeec0c85668",
            keystone=("47147121", "c88cdce8f248"),  # e8725d6fa226 is shipped but never applied
            glance="2024_1_contract01",
            placement="a082b8bb98d0",
        ),
    ),
    Release(
        name="2026.1",
        codename="Gazpacho",
        slurp=True,
        versions=_versions(6),
        resolved_as_of="2026-05-15",
        extra_requirements=("cryptography<47",),
        heads=_heads(
            nova="2903cd72dc14",
            nova_api="cdeec0c85668",
            keystone=("742c857f1dfb", "c88cdce8f248"),
            glance="2024_1_contract01",
            placement="a082b8bb98d0",
        ),
    ),
    Release(
        name="2026.2",
        codename="Hibiscus",
        slurp=False,
        versions=_versions(7),
        resolved_as_of="2026-11-20",
        heads=_heads(
            nova="ab450ba04102",
            nova_api="cdeec0c85668",
            keystone=("742c857f1dfb", "c88cdce8f248"),
            glance="2024_1_contract01",
            placement="a082b8bb98d0",
        ),
    ),
)


def get_release(name: str) -> Release:
    """Return the release of this name. Raises UsageError with close matches, by codename too, and the list."""
    for release in RELEASES:
        if release.name == name:
            return release
    names = {release.name: release.name for release in RELEASES}
    names |= {release.codename.casefold(): release.name for release in RELEASES}
    close = list(dict.fromkeys(names[match] for match in get_close_matches(name.casefold(), names)))
    question = f"did you mean {' or '.join(close)}? " if close else ""
    known = ", ".join(release.name for release in RELEASES)
    raise UsageError(f"there is no release {name!r}", hint=f"{question}the releases are {known}")


def release_of_heads(service: Service, heads: Mapping[str, Collection[str]]) -> tuple[Release, ...]:
    """Return the releases whose schemas have exactly these heads in every database of the service, oldest first.

    Several releases can have the same schemas. None has those of an empty, half synced or foreign database.
    """
    return tuple(release for release in RELEASES if matches(release, service, heads))
