"""Which nodes of a sandbox form the cluster again: as a recovery would decide, as far as no data has to be moved."""

from dataclasses import dataclass

from dbha.cluster.evidence import Evidence
from dbha.cluster.recover_decide import decide
from dbha.errors import UnsafeError


@dataclass(frozen=True, slots=True)
class Beginning:
    """The nodes that have to be Synced before the others start, and the one that has to form a new cluster."""

    first: tuple[str, ...] = ()
    new_cluster_node: str | None = None


def choose_beginning(evidence: Evidence) -> Beginning:
    """Return which nodes start first; none where a server answers, for then the others join it.

    Raises UnsafeError when no node is known to hold everything, also where `dbha cluster recover` would choose one:
    that begins a new timeline, and is journaled.
    """
    decision = decide(evidence)
    if decision.way in ("nothing", "join", "promote"):
        return Beginning()
    if decision.way == "reform":
        return Beginning(decision.first)
    chosen = next(member for member in evidence.members if member.name == decision.chosen)
    alone = chosen.view is not None and len(chosen.view.members) == 1
    if not (chosen.was_last or alone):
        raise UnsafeError(
            f"no node was the last to stop, and no last cluster is complete: {'; '.join(decision.why)}",
            hint="dbha cluster recover     forms a new cluster on the furthest",
        )
    return Beginning((chosen.name,), chosen.name)
