"""Look whether what a node has beyond a backup is what an earlier replay brought, and nothing else."""

import tempfile
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

from dbha.backup.binlog.events import LogReader, Transaction
from dbha.backup.binlog.fetch import fetching
from dbha.backup.binlog.gtid import Gtid
from dbha.backup.binlog.replay_plan import ReplayPlan
from dbha.cluster.handle import Cluster
from dbha.errors import UnreachableError, UnsafeError
from dbha.inventory import Node

_LOOK_S = 1.0


def require_replayed(cluster: Cluster, node: Node, plan: ReplayPlan, has: Gtid) -> None:
    """Return when the node's transactions after the backup, up to `has`, are those of the archive.

    A replayed transaction keeps its number and its time; what somebody else wrote to the restored node has the
    number of an archived one and another time. Raises UnsafeError then: a replay would leave that one out.
    """
    with tempfile.TemporaryDirectory(dir=plan.segments[0].part.path.parent, prefix=".replayed-") as directory:
        local = _fetch(cluster, node, Path(directory)) | plan.local_domains
        there = _of_node(Path(directory), plan.start.sequence, local)
        for meant, found in zip_longest(_meant(plan, has.sequence), there):
            if meant is None or found is None or _differ(meant, found):
                raise UnsafeError(
                    f"{node} was written to since backup {plan.backup_id} was restored:"
                    f" it has {found.gtid if found else 'nothing'}"
                    f" where the archive has {meant.gtid if meant else 'nothing'}",
                    hint="restore the backup again, and replay before anybody writes",
                )


def _differ(meant: Transaction, found: Transaction) -> bool:
    return (meant.gtid.sequence, meant.time_s) != (found.gtid.sequence, found.time_s)


def _fetch(cluster: Cluster, node: Node, directory: Path) -> frozenset[int]:
    """Fetch all logs of the node; return the domain of what it logs for itself alone."""
    with cluster.session(node) as session:
        first = str(session.rows("SHOW BINARY LOGS")[0]["Log_name"])
        local = int(session.value("SELECT @@GLOBAL.gtid_domain_id"))
    with fetching(cluster, node, directory, first, forever=False) as fetch:
        while not fetch.wait(_LOOK_S):
            pass
    if problem := fetch.problem():
        raise UnreachableError(f"the logs of {node} cannot be read: {problem}")
    return frozenset({local})


def _of_node(directory: Path, after: int, local_domains: frozenset[int]) -> Iterator[Transaction]:
    for path in sorted(directory.iterdir()):
        with LogReader(path) as reader:
            for found in reader.transactions():
                if found.gtid.domain not in local_domains and found.gtid.sequence > after:
                    yield found


def _meant(plan: ReplayPlan, until: int) -> Iterator[Transaction]:
    for segment in plan.segments:
        with LogReader(segment.part.path) as reader:
            for found in reader.transactions():
                if segment.begin <= found.begin < segment.end and found.gtid.domain not in plan.local_domains:
                    if found.gtid.sequence > until:
                        return
                    yield found
