"""How far one upgrade may go: OpenStack tests a release to the next, and a SLURP release to the next SLURP.

Everything else has to stop on the way. Going back is no upgrade at all: no service can downgrade its schema.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from dbha.releases.catalogue import RELEASES
from dbha.releases.release import Release


class HopKind(StrEnum):
    """What an upgrade from one release straight to another is."""

    SAME = "same"
    ADJACENT = "adjacent"
    SLURP = "slurp"
    BACKWARDS = "backwards"
    UNTESTED = "untested"


@dataclass(frozen=True, slots=True)
class Hop:
    """A verdict on one upgrade; `via` are the releases to upgrade to, in order, the target last."""

    kind: HopKind
    explanation: str
    via: tuple[str, ...]

    @property
    def is_allowed(self) -> bool:
        """True when the target can be reached in at most one tested upgrade."""
        return self.kind in (HopKind.SAME, HopKind.ADJACENT, HopKind.SLURP)


def check_hop(source: Release, target: Release, releases: Sequence[Release] = RELEASES) -> Hop:
    """Return whether OpenStack tests this upgrade, and the shortest route of tested ones if it does not."""
    if source == target:
        return Hop(HopKind.SAME, f"the schemas are those of {target.name} already", ())
    if releases.index(source) > releases.index(target):
        explanation = f"no service can take its schema back to {target.name}: that is a restore of a backup"
        return Hop(HopKind.BACKWARDS, explanation, ())
    via = _shortest_route(source, target, releases)
    kind = _kind_of_step(source, target, releases)
    if kind is HopKind.UNTESTED:
        route = ", then ".join(via)
        explanation = f"OpenStack does not test {source.name} to {target.name}: upgrade to {route}"
        return Hop(kind, explanation, via)
    pair = "neighbours" if kind is HopKind.ADJACENT else "neighbouring SLURP releases"
    return Hop(kind, f"{source.name} and {target.name} are {pair}: OpenStack tests this upgrade", via)


def _kind_of_step(source: Release, target: Release, releases: Sequence[Release]) -> HopKind:
    later = releases[releases.index(source) + 1 :]
    if later[:1] == (target,):
        return HopKind.ADJACENT
    next_slurp = next((release for release in later if release.slurp), None)
    return HopKind.SLURP if source.slurp and target == next_slurp else HopKind.UNTESTED


def _shortest_route(source: Release, target: Release, releases: Sequence[Release]) -> tuple[str, ...]:
    routes: deque[tuple[Release, tuple[str, ...]]] = deque([(source, ())])
    while routes:
        here, via = routes.popleft()
        if here == target:
            return via
        for step in releases[releases.index(here) + 1 : releases.index(target) + 1]:
            if _kind_of_step(here, step, releases) is not HopKind.UNTESTED:
                routes.append((step, (*via, step.name)))
    raise AssertionError(f"{target.name} is not after {source.name}")
