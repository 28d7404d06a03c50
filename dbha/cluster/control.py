"""One mutating run at a time: the controller's lock, the cluster's lease, and the engine that runs under both."""

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from dbha import __version__
from dbha.cluster.desync import reap
from dbha.cluster.handle import Cluster
from dbha.cluster.lease import Lease
from dbha.cluster.lock import ControllerLock
from dbha.cluster.outlived import wait_for_outlived
from dbha.errors import DbhaError, InterruptedRunError, UpgradeRolledBackError, UsageError
from dbha.journal import Facts, Journal, RunRecord, RunState, controller_name
from dbha.workflow import Engine, Observer, Outcome, Plan, StopRequest
from dbha.workflow.plan import is_decided

log = logging.getLogger(__name__)

_GUARD_INTERVAL_S = 1.0


@dataclass(frozen=True, slots=True)
class Controller:
    """This process, as the one that may change the cluster; `cluster` is None where there is none yet."""

    journal: Journal
    lock_path: Path
    cluster: Cluster | None
    lease_ttl_s: float
    stop: StopRequest
    say: Callable[[str], None] = lambda _: None

    @contextmanager
    def holding(self, workflow: str, *, beside: Collection[str] = ()) -> Iterator["Holding"]:
        """Yield the right to start a run; unfinished ones of the workflows `beside` are no hindrance.

        Raises BusyError when another process holds the controller's lock, InterruptedRunError when an earlier
        run has not come to an end.
        """
        with self._locked(workflow) as lock:
            self._reap()
            if unfinished := [run for run in self.journal.unfinished() if run.workflow not in beside]:
                first = unfinished[0]
                raise InterruptedRunError(
                    f"run {first.id} ({first.workflow}) did not come to an end",
                    hint=f"dbha runs resume {first.id}     finishes it, or puts everything back\n"
                    f"dbha runs show {first.id}     what it did so far",
                )
            yield Holding(self, lock)

    def resume(self, record: RunRecord, plan: Plan, watch: "Watch", *, roll_back: bool = False) -> Outcome:
        """Take up a run that stopped; with `roll_back` it goes back, unless it has been decided already."""
        if record.state not in (RunState.RUNNING, RunState.FAILED):
            raise UsageError(f"run {record.id} has ended: {record.state.value}", hint="dbha runs list")
        if roll_back and is_decided(plan, record):
            raise UsageError(
                f"run {record.id} did its work, and services may be writing again: it can only be finished",
                hint=f"dbha runs resume {record.id}\ndbha restore ID --service NAME     goes back later, by a backup",
            )
        with self._locked(record.workflow) as lock:
            lock.note_run(record.id)
            self.journal.reopen_run(record.id)
            lease = self.lease(record.id, record.workflow, take_over=True)
            with self.released(lease, record.id), watch(plan) as observer:
                self._succeed(record.id)
                engine = self.engine(observer, lease)
                if roll_back:
                    engine.ask_to_go_back(record.id, "put back on request", UpgradeRolledBackError.exit_code)
                return engine.execute(plan, record.id)

    def abandon(self, record: RunRecord, loosen: Callable[[], None]) -> None:
        """Give up a run that stopped: `loosen` undoes what would keep services out, the data stays as it is."""
        with self._locked("abandon"):
            lease = self.lease(record.id, record.workflow, take_over=True)
            with self.released(lease, record.id):
                self._succeed(record.id)
                loosen()
                self._reap()
                self.journal.end_run(record.id, RunState.ABANDONED, "abandoned on request")

    def _succeed(self, run_id: str) -> None:
        """Become the one who acts for a run whose process is gone; its last statements may still go on."""
        if self.cluster is not None:
            wait_for_outlived(self.cluster, run_id)
            self.cluster.sign_as(run_id)

    def _reap(self) -> None:
        """Undo desyncs whose runs are gone; those of this controller are, because its lock is held here."""
        if self.cluster is not None:
            reap(self.cluster, self.journal.knows, self.say)

    def _locked(self, workflow: str) -> AbstractContextManager[ControllerLock]:
        return ControllerLock.acquire(self.lock_path, workflow=workflow)

    def lease(self, run_id: str, workflow: str, *, take_over: bool) -> Lease | None:
        """Return the cluster's lease for this run, or None where there is no cluster yet."""
        if self.cluster is None:
            return None
        return Lease.acquire(
            self.cluster,
            run_id=run_id,
            workflow=workflow,
            holder=controller_name(),
            ttl_s=self.lease_ttl_s,
            take_over_run=run_id if take_over else None,
            proven_dead=take_over,  # the lock of this controller is ours, so its old process is gone
            has_ended=self.has_ended,
        )

    def has_ended(self, run_id: str) -> bool:
        """Tell whether this controller's journal knows that the run came to its end."""
        return self.journal.has_ended(run_id)

    def engine(self, observer: Observer, lease: Lease | None) -> Engine:
        """Return an engine whose every step is guarded by the lease."""
        guard = Guard(lease.check) if lease else lambda: None
        return Engine(self.journal, observer, guard=guard, stop=self.stop)

    @contextmanager
    def released(self, lease: Lease | None, run_id: str) -> Iterator[None]:
        """Give the lease back at the end of a run; one that is to be taken up again keeps it."""
        try:
            yield
        finally:
            if lease is not None:
                if self.has_ended(run_id):
                    lease.release()
                else:
                    lease.close()


@dataclass(frozen=True, slots=True)
class Holding:
    """The controller's lock, held; what may be started under it."""

    controller: Controller
    lock: ControllerLock

    def start(self, workflow: str, arguments: Facts, plan: Plan, watch: "Watch") -> Outcome:
        """Record a new run, take the lease and execute the plan; raises what the engine raises."""
        controller = self.controller
        run_id = controller.journal.start_run(workflow, arguments, version=__version__)
        self.lock.note_run(run_id)
        try:
            lease = controller.lease(run_id, workflow, take_over=False)
        except DbhaError as error:
            controller.journal.end_run(run_id, RunState.REFUSED, str(error))
            raise
        if controller.cluster is not None:
            controller.cluster.sign_as(run_id)
        with controller.released(lease, run_id), watch(plan) as observer:
            return controller.engine(observer, lease).execute(plan, run_id)


Watch = Callable[[Plan], AbstractContextManager[Observer]]


class Guard:
    """Asks whether this controller still holds the cluster, at most once a second however often it is called."""

    def __init__(self, check: Callable[[], None]) -> None:
        self._check = check
        self._checked_at = float("-inf")
        self._lock = threading.Lock()

    def __call__(self) -> None:
        """Raise LeaseLostError when another controller took over."""
        with self._lock:
            if time.monotonic() - self._checked_at >= _GUARD_INTERVAL_S:
                self._check()
                self._checked_at = time.monotonic()
