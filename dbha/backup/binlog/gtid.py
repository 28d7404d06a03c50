"""MariaDB's global transaction ids, and the one sequence that a cluster numbers its transactions with.

Galera with `wsrep_gtid_mode=ON` gives a transaction the same GTID on every node. The number comes from one counter
of the cluster. The domain in front of it does not stay: a cluster made from prepared data writes `0-1-5` after
`1-1-4`. So a position in the cluster's history is the highest number over all domains but those in which single
nodes log what they did for themselves alone (`gtid_domain_id`, another one on each node).
"""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

_GTID = re.compile(r"(\d{1,10})-(\d{1,10})-(\d{1,20})")


@dataclass(frozen=True, slots=True)
class Gtid:
    """One transaction: `domain-server-sequence`."""

    domain: int
    server: int
    sequence: int

    def __str__(self) -> str:
        return f"{self.domain}-{self.server}-{self.sequence}"


def parse_gtid(text: str) -> Gtid:
    """Return the GTID that `text` is. Raises ValueError, fit for a message, when it is none."""
    found = _GTID.fullmatch(text.strip())
    if not found:
        raise ValueError(f"{text.strip() or 'nothing'} is not a GTID like 1-1-4711")
    return Gtid(*(int(number) for number in found.groups()))


def parse_gtids(text: str) -> tuple[Gtid, ...]:
    """Return the GTIDs of a list as servers print it, `1-1-4,102-2-7`; raises ValueError for anything else."""
    return tuple(parse_gtid(part) for part in text.strip().strip("[]").split(",") if part.strip())


def latest(gtids: Iterable[Gtid], local_domains: Collection[int]) -> Gtid | None:
    """Return the GTID with the cluster's highest number, None when all of them are of single nodes."""
    shared = [gtid for gtid in gtids if gtid.domain not in local_domains]
    return max(shared, key=lambda gtid: gtid.sequence, default=None)
