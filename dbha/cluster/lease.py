"""One mutating run at a time on a cluster, from any controller: a row that its holder must keep renewing.

GET_LOCK is not replicated and SELECT ... FOR UPDATE locks on one node only. What Galera does guarantee: of two
transactions that changed the same row on different nodes, only the first passes certification at COMMIT. So the
lease changes hands by one UPDATE that demands the row just read, and counts as taken when a causal read after
the commit shows it. The token grows with every change of hands: it is the fencing token.
"""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Self, TypeVar

from dbha.cluster.assess import assess
from dbha.cluster.handle import Cluster
from dbha.cluster.home import MISSING, ensure_home
from dbha.cluster.observe import observe
from dbha.cluster.turns import DEADLOCK, NodesInTurn, after, now_s
from dbha.database import Session, SqlError
from dbha.errors import BusyError, InterruptedRunError, LeaseLostError, UnreachableError, UnsafeError

T = TypeVar("T")
log = logging.getLogger(__name__)

_NAME = "cluster"
_OBSERVE_TIMEOUT_S = 3.0
_ANSWER_TIMEOUT_S = 1.0
_ACQUIRE_WITHIN_S = 30.0  # longer than the cluster needs to drop a dead member, 6 to 8 s by default
_RELEASE_WITHIN_S = 10.0


@dataclass(frozen=True, slots=True)
class LeaseRow:
    """The lease as the cluster has it; `run_id` is None while it is free, `expired` by the server's clock."""

    token: int
    holder: str
    run_id: str | None
    workflow: str
    acquired_at: datetime | None
    expires_at: datetime | None
    expired: bool

    def __str__(self) -> str:
        since = f"{self.acquired_at:%Y-%m-%d %H:%M:%S} UTC" if self.acquired_at else "an unknown time"
        return f"run {self.run_id} ({self.workflow}) of controller {self.holder}, since {since}"


@dataclass(frozen=True, slots=True)
class Claim:
    """Who wants the lease; `holder` is `HOST:PID`."""

    run_id: str
    workflow: str
    holder: str
    ttl_s: float

    def owns(self, row: LeaseRow | None, token: int) -> bool:
        """Return whether the row is this claim's own; a restored backup may repeat a token, but not a run."""
        return row is not None and (row.token, row.run_id, row.holder) == (token, self.run_id, self.holder)


def refuse_unless_free(
    row: LeaseRow,
    claim: Claim,
    *,
    take_over_run: str | None,
    proven_dead: bool,
    has_ended: Callable[[str], bool],
) -> None:
    """Return if `claim` may take the lease over from `row`; raise BusyError or InterruptedRunError if not.

    A lease that ran out is no permission: its run may have left the cluster half changed. It passes to that
    same run, taken up again, or to anyone once the run is known to have ended. `proven_dead` stands in for
    running out, and counts only for a holder on the claimant's own host.
    """
    if row.run_id is None or has_ended(row.run_id):
        return
    dead = proven_dead and _host(row.holder) == _host(claim.holder)
    if not (row.expired or dead):
        raise BusyError(
            f"the cluster is held by {row}",
            hint=f"dbha runs show {row.run_id}     on {_host(row.holder)}: how far it is",
        )
    if row.run_id != take_over_run:
        raise InterruptedRunError(
            f"the cluster is held by {row}, which stopped without an end",
            hint=f"dbha runs resume {row.run_id}     on {_host(row.holder)}: finishes it, or puts everything back",
        )


def read_lease(session: Session) -> LeaseRow | None:
    """Return the lease as the session's node sees it; None where nobody ever took one.

    Raises SqlError 1049 or 1146 where dbha's database is missing.
    """
    rows = session.rows(
        "SELECT token, holder, run_id, workflow, acquired_at, expires_at,"
        " COALESCE(expires_at <= UTC_TIMESTAMP(6), 1) AS expired FROM dbha.lease WHERE name = %s",
        [_NAME],
    )
    return LeaseRow(**rows[0] | {"expired": bool(rows[0]["expired"])}) if rows else None


class Lease:
    """The lease, held and renewed in the background until `release` or `close`.

    It is lost, for good, when the cluster shows another token, or when two thirds of the time to live have passed
    since the last renewal began and no node can be asked. A schema change is no such loss, however long: it
    stops all writes and causal reads of the cluster, and so nobody else can take the lease before it has ended
    and the renewals that queue behind it are through.
    """

    def __init__(self, nodes: NodesInTurn, claim: Claim, token: int, *, taken_at_s: float) -> None:
        self.token = token
        self._nodes = nodes
        self._claim = claim
        self._valid_until_s = taken_at_s + claim.ttl_s * 2 / 3
        self._lost = ""
        self._stopping = threading.Event()
        self._renewal = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._renewal.start()

    @classmethod
    def acquire(
        cls,
        cluster: Cluster,
        *,
        run_id: str,
        workflow: str,
        holder: str,
        ttl_s: float,
        take_over_run: str | None = None,
        proven_dead: bool = False,
        has_ended: Callable[[str], bool] = lambda run_id: False,
    ) -> Self:
        """Take the lease on a cluster that has a writer.

        `has_ended` says whether this controller's own journal knows that a run came to its end: such a run
        needs no lease any more, and only failed to give it back. Raises BusyError for a lease in use,
        InterruptedRunError for one whose run stopped, UnsafeError or UnreachableError where the cluster is in
        no state to hold one.
        """
        claim = Claim(run_id, workflow, holder, ttl_s)
        nodes = _serving_nodes(cluster, max(_ANSWER_TIMEOUT_S, ttl_s / 6))
        attempts = _Attempts(claim, take_over_run, proven_dead, has_ended)
        token = nodes.ask(attempts.take, until_s=after(_ACQUIRE_WITHIN_S))
        return cls(nodes, claim, token, taken_at_s=attempts.sent_at_s)

    def check(self) -> None:
        """Return if the cluster says that the lease is this run's; raise LeaseLostError if it is not.

        Waits for the answer while the cluster stalls. A lease that was not renewed in time is renewed first.
        """
        self._raise_if_lost()
        if now_s() < self._valid_until_s:
            row = self._ask(read_lease)
            if not self._claim.owns(row, self.token):
                raise self._lose(
                    f"it is now of {row}" if row and row.run_id else "it was given back elsewhere"
                )
        if now_s() >= self._valid_until_s:
            self.renew()

    def renew(self) -> None:
        """Move the end of the lease to a full time to live from now. Raises LeaseLostError."""
        self._raise_if_lost()
        sent_at_s = now_s()
        if not self._ask(self._extend):
            raise self._lose("the cluster has it under another token")
        self._valid_until_s = max(self._valid_until_s, sent_at_s + self._claim.ttl_s * 2 / 3)

    def release(self) -> None:
        """Give the lease back. Never raises for a cluster out of reach: then the lease runs out by itself."""
        self.close()
        if self._lost:
            return
        try:
            self._nodes.ask(self._give_back, until_s=after(_RELEASE_WITHIN_S))
        except (UnreachableError, SqlError) as error:
            log.warning("the lease of run %s was not given back and runs out: %s", self._claim.run_id, error)

    def close(self) -> None:
        """Stop renewing and leave the lease as it is, for a run that is to be resumed."""
        self._stopping.set()
        self._renewal.join(timeout=_RELEASE_WITHIN_S)

    def _keep(self) -> None:
        while not self._stopping.wait(self._claim.ttl_s / 3):
            try:
                self.renew()
            except LeaseLostError as error:
                log.error("%s", error)
                return

    def _ask(self, question: Callable[[Session], T]) -> T:
        try:
            return self._nodes.ask(question, until_s=lambda: self._valid_until_s, outlast_stalls=True)
        except (UnreachableError, SqlError) as error:
            raise self._lose(f"it could not be confirmed in time: {error}") from error

    def _raise_if_lost(self) -> None:
        if self._lost:
            raise LeaseLostError(self._lost)

    def _lose(self, why: str) -> LeaseLostError:
        self._lost = self._lost or f"run {self._claim.run_id} lost the lease on the cluster: {why}"
        return LeaseLostError(self._lost)

    def _extend(self, session: Session) -> bool:
        session.execute(
            "UPDATE dbha.lease SET expires_at = UTC_TIMESTAMP(6) + INTERVAL %s MICROSECOND"
            " WHERE name = %s AND token = %s AND run_id = %s AND holder = %s",
            [_microseconds(self._claim.ttl_s), *self._ours()],
        )
        return self._claim.owns(read_lease(session), self.token)

    def _give_back(self, session: Session) -> None:
        session.execute(
            "UPDATE dbha.lease SET run_id = NULL, expires_at = NULL"
            " WHERE name = %s AND token = %s AND run_id = %s AND holder = %s",
            self._ours(),
        )

    def _ours(self) -> list[object]:
        return [_NAME, self.token, self._claim.run_id, self._claim.holder]


def hand_over(session: Session, claim: Claim, *, at_least: int) -> None:
    """Make the lease in restored data this claim's, whoever had it when the data was backed up.

    The token goes beyond `at_least`, the one of before the restore: fencing tokens never go back.
    """
    session.execute("INSERT IGNORE INTO dbha.lease (name, token) VALUES (%s, 0)", [_NAME])
    session.execute(
        "UPDATE dbha.lease SET token = GREATEST(token, %s) + 1, holder = %s, run_id = %s, workflow = %s,"
        " acquired_at = UTC_TIMESTAMP(6), expires_at = UTC_TIMESTAMP(6) + INTERVAL %s MICROSECOND WHERE name = %s",
        [at_least, claim.holder, claim.run_id, claim.workflow, _microseconds(claim.ttl_s), _NAME],
    )


def free(session: Session, run_id: str) -> None:
    """Give the lease of a run back, if it has it; where there is none, nothing is done."""
    try:
        session.execute(
            "UPDATE dbha.lease SET run_id = NULL, expires_at = NULL WHERE name = %s AND run_id = %s",
            [_NAME, run_id],
        )
    except SqlError as error:
        if error.code not in MISSING:
            raise


class _Attempts:
    """The attempts of one process to take the lease; they know each other's tokens.

    An attempt whose answer was lost may have succeeded. The next one, on another node, then finds the row
    with the token that it tried for and recognizes it.
    """

    def __init__(
        self, claim: Claim, take_over_run: str | None, proven_dead: bool, has_ended: Callable[[str], bool]
    ) -> None:
        self.sent_at_s = now_s()
        self._claim = claim
        self._take_over_run = take_over_run
        self._proven_dead = proven_dead
        self._has_ended = has_ended
        self._tried: set[int] = set()

    def take(self, session: Session) -> int:
        """Return the token of the lease taken. Raises what `refuse_unless_free` raises, SqlError 1213 to retry."""
        ensure_home(session)
        row = read_lease(session)
        if row is None:
            session.execute("INSERT IGNORE INTO dbha.lease (name, token) VALUES (%s, 0)", [_NAME])
            row = read_lease(session)
        assert row is not None
        if not any(self._claim.owns(row, token) for token in self._tried):
            refuse_unless_free(
                row, self._claim, take_over_run=self._take_over_run, proven_dead=self._proven_dead,
                has_ended=self._has_ended,
            )  # fmt: skip
        written = self._write(session, row)
        if not (written and self._claim.owns(read_lease(session), row.token + 1)):
            raise SqlError(session.node, DEADLOCK, "another controller was first")
        return row.token + 1

    def _write(self, session: Session, row: LeaseRow) -> bool:
        self._tried.add(row.token + 1)
        self.sent_at_s = now_s()
        changed = session.execute(
            "UPDATE dbha.lease SET token = token + 1, holder = %s, run_id = %s, workflow = %s,"
            " acquired_at = UTC_TIMESTAMP(6), expires_at = UTC_TIMESTAMP(6) + INTERVAL %s MICROSECOND"
            " WHERE name = %s AND token = %s AND expires_at <=> %s",
            [
                self._claim.holder, self._claim.run_id, self._claim.workflow, _microseconds(self._claim.ttl_s),
                _NAME, row.token, row.expires_at,
            ],
        )  # fmt: skip
        return changed == 1


def _serving_nodes(cluster: Cluster, answer_timeout_s: float) -> NodesInTurn:
    verdict = assess(observe(cluster, _OBSERVE_TIMEOUT_S))
    told = "; ".join(verdict.reasons)
    if verdict.level == "unsafe":
        raise UnsafeError(f"the cluster is unsafe: {told}", hint="dbha status")
    if not verdict.may_write:
        raise UnreachableError(f"the cluster cannot be written to: {told}", hint="dbha status")
    others = [node for node in cluster.nodes if node.name not in verdict.serving]
    return NodesInTurn(cluster, [*map(cluster.node, verdict.serving), *others], answer_timeout_s)


def _host(holder: str) -> str:
    return holder.rpartition(":")[0]


def _microseconds(duration_s: float) -> int:
    return round(duration_s * 1_000_000)
