"""Choosing what a new backup is read from and, for an incremental one, what it goes on from."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from dbha.backup.base import choose_base, require_descent
from dbha.backup.donor import Candidate, DonorChoice, choose_donor, why_desync
from dbha.backup.lineage import look_at_directory
from dbha.backup.manifest import Manifest
from dbha.backup.store import StoredBackup
from dbha.cli.app import App
from dbha.cluster.assess import Verdict
from dbha.cluster.state import NodeState
from dbha.errors import UnsafeError

_OR_FULL = "dbha backup create --incremental --or-full     takes a full one where no incremental one can be"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What was asked for: an incremental backup, upon one that may be named, and a full one rather than none."""

    incremental: bool = False
    base: str = ""
    or_full: bool = False


@dataclass(frozen=True, slots=True)
class Chosen:
    """The donor, the base of an incremental backup, and why it is a full one although another was asked for."""

    donor: DonorChoice
    base: Manifest | None = None
    why_full: str = ""
    desync: str = ""  # why the donor is kept out of flow control meanwhile


def choose(
    app: App, backups: Sequence[StoredBackup], states: tuple[NodeState, ...], verdict: Verdict, wanted: Wanted
) -> Chosen:
    """Return donor and base. Raises UnsafeError when no node will do, or when no incremental backup can be taken
    and a full one was not allowed instead."""
    candidates = app.site.candidates(states, verdict)
    chosen = _choose(app, backups, candidates, wanted)
    donor = next(each for each in candidates if each.name == chosen.donor.node)
    return replace(chosen, desync=why_desync(app.configuration.backup.desync, donor, candidates))


def _choose(
    app: App, backups: Sequence[StoredBackup], candidates: Sequence[Candidate], wanted: Wanted
) -> Chosen:
    site = app.site
    if not wanted.incremental:
        return Chosen(choose_donor(candidates))
    try:
        base = choose_base(backups, wanted.base, app.configuration.backup.incremental)
        donor = choose_donor(candidates, only=base.donor)
        assert base.origin is not None
        node = site.cluster.node(donor.node)
        require_descent(base, look_at_directory(site.cluster, node, base.id, base.origin))
    except UnsafeError as refusal:
        if not wanted.or_full:
            raise UnsafeError(str(refusal), hint=f"{refusal.hint}\n{_OR_FULL}") from refusal
        app.console.say(f"a full backup instead of an incremental one: {refusal}")
        return Chosen(choose_donor(candidates), why_full=str(refusal))
    return Chosen(donor, base)
