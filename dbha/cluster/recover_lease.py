"""The cluster's lease around a recovery, which mostly begins when there is no cluster that could hold one."""

from collections.abc import Callable
from dataclasses import dataclass

from dbha.cluster.handle import Cluster
from dbha.cluster.home import MISSING
from dbha.cluster.lease import Lease, LeaseRow, free, read_lease
from dbha.cluster.observe import observe
from dbha.cluster.state import PRIMARY
from dbha.database import SqlError
from dbha.errors import BusyError, DbhaError
from dbha.inventory import Node
from dbha.journal import Facts, controller_name
from dbha.workflow import StepContext

_OBSERVE_WITHIN_S = 3.0
_SQL_WITHIN_S = 10.0


@dataclass(frozen=True, slots=True)
class RecoverLease:
    """How the lease is taken, and left to a run that was cut off by the very outage that is being ended.

    `knows` and `has_ended` ask the journal of this controller.
    """

    workflow: str
    ttl_s: float
    knows: Callable[[str], bool]
    has_ended: Callable[[str], bool]

    def take(self, cluster: Cluster, context: StepContext) -> Facts:
        """Take the lease and leave it taken: nobody begins a run meanwhile.

        One that another run has stays with it when that run is known not to be at work; bringing members back
        changes nothing of what it does. Raises BusyError for a run of another controller that is at work.
        """
        row = self._row(cluster)
        if row and row.run_id and row.run_id != context.run_id and not self.has_ended(row.run_id):
            return self._beside(row)
        lease = Lease.acquire(
            cluster, run_id=context.run_id, workflow=self.workflow, holder=controller_name(), ttl_s=self.ttl_s,
            take_over_run=context.run_id, proven_dead=context.interrupted, has_ended=self.has_ended,
        )  # fmt: skip
        lease.close()
        return {"token": lease.token}

    def give_back(self, cluster: Cluster, run_id: str) -> None:
        """Give the lease back, if this run has it and a cluster serves."""
        for node in _primary(cluster):
            try:
                with cluster.session(node, read_timeout_s=_SQL_WITHIN_S) as session:
                    free(session, run_id)
                return
            except DbhaError:
                continue

    def _beside(self, row: LeaseRow) -> Facts:
        if not (row.expired or self.knows(row.run_id or "")):  # our lock says that no run of ours is at work
            raise BusyError(
                f"the cluster is held by {row}",
                hint=f"dbha runs show {row.run_id}     on {row.holder.rpartition(':')[0]}: how far it is",
            )
        return {"note": f"it stays with run {row.run_id}, which was cut off: dbha runs resume {row.run_id}"}

    def _row(self, cluster: Cluster) -> LeaseRow | None:
        for node in _primary(cluster):
            try:
                with cluster.session(node, read_timeout_s=_SQL_WITHIN_S) as session:
                    return read_lease(session)
            except SqlError as error:
                if error.code in MISSING:
                    return None
                raise
        return None


def _primary(cluster: Cluster) -> list[Node]:
    states = observe(cluster, _OBSERVE_WITHIN_S)
    return [cluster.node(state.name) for state in states if state.cluster_status == PRIMARY and state.ready]
