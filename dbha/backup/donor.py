"""Which node a backup is read from. Pure; the caller observes the nodes."""

from collections.abc import Sequence
from dataclasses import dataclass

from dbha.config.model import DesyncPolicy
from dbha.errors import UnsafeError

LAGS_FROM = (
    4  # write sets: a quarter of what gcs.fc_limit, from which on a node stops the others, is by default
)
RECEIVE_QUEUE_LIMIT = 32  # write sets; a node with more is behind already, and reading slows it further


@dataclass(frozen=True, slots=True)
class Candidate:
    """What was observed of a node, as far as the choice needs it."""

    name: str
    synced: bool
    view_agrees: bool  # it sees the same members, configuration and state UUID as the others
    is_writer: bool
    is_donor: bool  # it serves as a donor, or is desynced, for somebody else
    receive_queue: float
    free_bytes: int
    lacks: tuple[str, ...] = ()  # tools of a backup that its host has not
    problem: str = ""  # why its host cannot be used


@dataclass(frozen=True, slots=True)
class DonorChoice:
    """The chosen node, and why each of the others was passed over."""

    node: str
    rejected: dict[str, str]


def choose_donor(candidates: Sequence[Candidate], *, only: str = "") -> DonorChoice:
    """Return the node to read from: the one least behind, then the one with most room; or `only` that one.

    Raises UnsafeError with the reason for every node when none will do. The writer is only ever chosen when
    it is the only node there is: reading from it would slow down every client.
    """
    rejected = {
        candidate.name: reason
        for candidate in candidates
        if (reason := _why_not(candidate, alone=len(candidates) == 1, only=only))
    }
    fit = [candidate for candidate in candidates if candidate.name not in rejected]
    if not fit:
        reasons = "; ".join(f"{name} {reason}" for name, reason in rejected.items())
        raise UnsafeError(
            f"no node can be read for a backup: {reasons or 'the cluster has no nodes'}",
            hint="dbha status     shows what the nodes wait for",
        )
    chosen = min(fit, key=lambda candidate: (candidate.receive_queue, -candidate.free_bytes, candidate.name))
    rejected |= {
        candidate.name: _why_behind(candidate, chosen) for candidate in fit if candidate is not chosen
    }
    return DonorChoice(chosen.name, rejected)


def why_desync(policy: DesyncPolicy, donor: Candidate, candidates: Sequence[Candidate]) -> str:
    """Return why the donor is to be kept out of flow control while it is read; empty when it is not.

    It is not needed for a consistent backup: the server itself leaves flow control for the moment in which the copy
    ends. But a node that lags already would, read at full speed, hold up every writer of the cluster. The last
    synced node is never desynced: there would be nobody left that a proxy sends clients to.
    """
    others = [each for each in candidates if each.name != donor.name and each.synced]
    if policy == "never" or not others:
        return ""
    if policy == "always":
        return "the configuration says so"
    if donor.receive_queue >= LAGS_FROM:
        return f"it is {donor.receive_queue:g} write sets behind, and would hold up the others"
    return ""


def _why_behind(candidate: Candidate, chosen: Candidate) -> str:
    if candidate.receive_queue > chosen.receive_queue:
        return "is further behind"
    return "has less room" if candidate.free_bytes < chosen.free_bytes else "would do as well"


def _why_not(candidate: Candidate, *, alone: bool, only: str) -> str:
    """Return why a node must not be read from; empty when it may."""
    reasons = (
        (only not in ("", candidate.name), "was not read for the base"),
        (not candidate.synced, "is not synced"),
        (not candidate.view_agrees, "does not see the cluster as the others do"),
        (bool(candidate.problem), candidate.problem),
        (candidate.is_donor, "is already a donor"),
        (candidate.receive_queue > RECEIVE_QUEUE_LIMIT, f"is {candidate.receive_queue:g} write sets behind"),
        (bool(candidate.lacks), f"has no {', '.join(candidate.lacks)}"),
        (candidate.is_writer and not alone, "takes the writes"),
    )
    return next((reason for is_true, reason in reasons if is_true), "")
