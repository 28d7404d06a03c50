"""What restores of the whole cluster keep on the nodes, and whether it may go."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from dbha.backup.node_place import NodePlace
from dbha.backup.store import Status, StoredBackup
from dbha.cluster.assess import Verdict
from dbha.cluster.handle import side_by_side
from dbha.errors import DbhaError
from dbha.inventory import Node
from dbha.journal import RunRecord
from dbha.upgrade.site import Site

OLD, RESTORED = "old", "restored"


@dataclass(frozen=True, slots=True)
class KeptOn:
    """What one node keeps of a run: `old` data, `restored` data, nothing (empty), or why it cannot be asked."""

    node: str
    what: str = ""
    problem: str = ""


@dataclass(frozen=True, slots=True)
class KeptData:
    """What a restore keeps, and in `why_not` all that speaks against removing it now."""

    run: str
    on: tuple[KeptOn, ...]
    why_not: tuple[str, ...]

    @property
    def lines(self) -> tuple[str, ...]:
        """What an operator is told."""
        keeping = {what: [each.node for each in self.on if each.what == what] for what in (OLD, RESTORED)}
        silent = [f"{each.node}: {each.problem}" for each in self.on if each.problem]
        if not any(keeping.values()) and not silent:
            return ("nothing of this run is kept on the nodes any more",)
        found = [f"it is not known what is kept on {each}" for each in silent]
        if nodes := keeping[OLD]:
            found.append(f"{', '.join(nodes)}: the data of before this run is kept")
            found.append(f"  go back to it: dbha restore --undo {self.run}")
        if nodes := keeping[RESTORED]:
            found.append(f"{', '.join(nodes)}: what was restored is kept; the data of before is in use again")
        if self.why_not:
            return (*found, f"  it should stay for now: {'; '.join(self.why_not)}")
        return (*found, f"  it may go: dbha restore --forget {self.run}")

    def as_json(self) -> dict[str, Any]:
        """Return it in the shape of the `--json` contract."""
        return {
            "nodes": {each.node: each.what or None for each in self.on if not each.problem},
            "unknown": {each.node: each.problem for each in self.on if each.problem},
            "may_go": any(each.what for each in self.on) and not self.why_not,
            "why_not": list(self.why_not),
        }


def why_it_stays(
    verdict: Verdict, on: Sequence[KeptOn], backups: Sequence[StoredBackup] | None, since: datetime
) -> tuple[str, ...]:
    """Return all that speaks against removing what a restore that ended at `since` kept; nothing when it may go.

    It is the only way back until the cluster is well and has a proven backup of its own. `backups` is None where
    the store cannot be asked: then nobody knows of one.
    """
    reasons = [] if verdict.level == "healthy" else [f"the cluster is {verdict.level}"]
    reasons += [f"{each.node} cannot be asked" for each in on if each.problem]
    if backups is None:
        reasons.append("the backup store cannot be asked")
    elif not any(
        backup.status is Status.COMPLETE and backup.verified and backup.created >= since for backup in backups
    ):
        reasons.append("no backup was taken and verified since (dbha backup create --verify)")
    return tuple(reasons)


def kept_data(site: Site, record: RunRecord) -> KeptData:
    """Return what the run of a restore of the whole cluster keeps now. Never raises for a node or a store."""
    nodes = [node for node in site.cluster.nodes if node.name in record.arguments["nodes"]]
    on = tuple(side_by_side(lambda node: _on(site, node, record.id), nodes).values())
    since = datetime.fromisoformat(record.ended or record.started)
    return KeptData(record.id, on, why_it_stays(site.verdict(), on, _backups(site), since))


def _on(site: Site, node: Node, run_id: str) -> KeptOn:
    place = NodePlace(site.cluster, node, run_id)
    try:
        what = next((name for name in (OLD, RESTORED) if place.has(name)), "")
    except DbhaError as error:
        return KeptOn(node.name, problem=str(error))
    return KeptOn(node.name, what)


def _backups(site: Site) -> Sequence[StoredBackup] | None:
    try:
        return site.store.list()
    except DbhaError:
        return None
