"""What was observed of everything, and when: one frozen value that metrics, endpoints and pages are made from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Generic, TypeVar

from dbha.backup.binlog.windows import Restorable
from dbha.backup.store import StoredBackup
from dbha.cluster.assess import Verdict
from dbha.cluster.state import NodeState
from dbha.config.model import BackupCheckPolicy
from dbha.health.inside import Inside
from dbha.inventory import Node
from dbha.journal import RunRecord, RunState

Seen_co = TypeVar("Seen_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Moment:
    """A point in time by two clocks: the calendar's, which may jump, and one that only goes on."""

    wall: datetime
    monotonic_s: float


@dataclass(frozen=True, slots=True)
class Look(Generic[Seen_co]):
    """The last look at one part: what was seen and when that was complete; None while nothing was.

    `problem` says why the last look failed. Then `value` is what an earlier one saw, if that is still worth knowing.
    """

    value: Seen_co | None = None
    seen: Moment | None = None
    duration_s: float = 0.0
    problem: str = "no answer yet"

    def age_s(self, now: Moment) -> float | None:
        """Return how old the value is, whatever the calendar's clock did meanwhile; None without one."""
        return None if self.seen is None else max(0.0, now.monotonic_s - self.seen.monotonic_s)


@dataclass(frozen=True, slots=True)
class NodesSeen:
    """What the nodes said, and the judgement on it."""

    nodes: tuple[Node, ...]
    states: tuple[NodeState, ...]
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class RunsSeen:
    """What this controller's journal has: how many runs, the newest of each workflow, and those without an end."""

    counts: Mapping[tuple[str, RunState], int]
    last: tuple[RunRecord, ...]
    unfinished: tuple[RunRecord, ...]
    active: RunRecord | None  # the one that a live process is at


@dataclass(frozen=True, slots=True)
class StoreSeen:
    """What a backup store has; `reach` is up to where the newest complete backup can be brought by archived logs."""

    backups: tuple[StoredBackup, ...]
    free_bytes: int | None
    policy: BackupCheckPolicy
    reach: Restorable | None


@dataclass(frozen=True, slots=True)
class ArchiveSeen:
    """The archived binary logs of the cluster's newest timeline."""

    busy: bool
    windows: int
    begins: datetime | None
    until: datetime | None
    stored_bytes: int


@dataclass(frozen=True, slots=True)
class Observation:
    """Everything that was observed of one cluster."""

    cluster: str
    nodes: Look[NodesSeen] = Look()
    inside: Look[Inside] = Look()
    runs: Look[RunsSeen] = Look()
    archive: Look[ArchiveSeen] = Look()
    stores: Mapping[str, Look[StoreSeen]] = field(default_factory=dict)

    def parts(self) -> dict[str, Look[object]]:
        """Return every look by the name of what was looked at."""
        return {
            "nodes": self.nodes,
            "cluster": self.inside,
            "journal": self.runs,
            "archive": self.archive,
            **{f"store:{name}": look for name, look in self.stores.items()},
        }
