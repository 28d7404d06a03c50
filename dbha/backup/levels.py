"""How much a verification proves, and which of several verdicts on one backup counts. Pure."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Protocol, TypeVar

_REMEMBERED = 16  # verdicts, beside the newest of each kind


class Level(StrEnum):
    """What a verification does; each level includes the ones before it. Part of the command line and of `--json`."""

    HASH = "hash"  # every stored byte is read, and is the one that was written
    PREPARE = "prepare"  # it unpacks, prepares, and holds its position and the files of every table
    PAGES = "pages"  # every page of every prepared tablespace has its checksum
    BOOT = "boot"  # a server starts on it, and finds its tables, heads and rows

    def includes(self, other: "Level") -> bool:
        """Tell whether this level proves all that `other` does."""
        order = list(Level)
        return order.index(self) >= order.index(other)


class Judged(Protocol):
    """What is needed of a verdict to tell whether it counts."""

    @property
    def level(self) -> Level: ...
    @property
    def good(self) -> bool: ...
    @property
    def stream_sha256(self) -> str: ...


J = TypeVar("J", bound=Judged)


def standing(verdicts: Sequence[J]) -> J:
    """Return the verdict that counts, of all there are on one backup, in the order they were given.

    - Only verdicts on the stream of the newest one count.
    - A bad one stands until a good one at its level or a higher one: what only a server noticed is not
      disproved by a hash. Of several that stand the newest counts.
    - Else the highest level counts that was reached since the last bad one, and of equal ones the newest: a
      nightly hash does not hide that a server once started on this backup, and who was ever found bad begins anew.
    """
    same = [verdict for verdict in verdicts if verdict.stream_sha256 == verdicts[-1].stream_sha256]
    bad = [place for place, verdict in enumerate(same) if not verdict.good]
    open_ones = [place for place in bad if not _disproved(same[place], same[place + 1 :])]
    if open_ones:
        return same[open_ones[-1]]
    found = same[bad[-1] + 1 if bad else 0]
    for verdict in same[bad[-1] + 1 if bad else 0 :]:
        if verdict.good and verdict.level.includes(found.level):
            found = verdict
    return found


def remembered(verdicts: Sequence[J]) -> tuple[J, ...]:
    """Return the verdicts worth keeping: what counts, now or after any later one, is the same without the rest."""
    newest_of_kind = {(verdict.level, verdict.good): place for place, verdict in enumerate(verdicts)}
    kept = {*newest_of_kind.values(), *range(len(verdicts))[-_REMEMBERED:]}
    return tuple(verdicts[place] for place in sorted(kept))


def _disproved(bad: J, later: Sequence[J]) -> bool:
    return any(verdict.good and verdict.level.includes(bad.level) for verdict in later)
