"""A client of one service that writes a row, waits for the answer, and writes the next."""

import threading
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from secrets import token_hex

from dbha.database import Account, Session, SqlError, connect
from dbha.errors import UnreachableError
from dbha.inventory import Node
from dbha.sandbox.ledger.report import Acknowledgement, LedgerReport
from dbha.sandbox.ledger.tables import LedgerTable, row_key

# The server says so before it does anything, or after it has rolled the statement back.
_SURELY_NOT_WRITTEN = frozenset(
    {
        1044,  # no access to the database
        1047,  # the node is not part of a primary component
        1142,  # no right to insert
        1205,  # lock wait timeout
        1213,  # deadlock, or certification failed
        1290,  # read only
        1836,  # read only
    }
)


@dataclass(frozen=True, slots=True)
class WriterSettings:
    """Where a writer writes and how often; `nodes` are tried in turn, the first until it fails."""

    table: LedgerTable
    nodes: tuple[Node, ...]
    account: Account
    run: str = field(default_factory=lambda: token_hex(4))  # in each row's key: no two writers have the same
    rate_per_s: float = 100.0
    answer_timeout_s: float = 30.0
    pause_after_error_s: float = 0.05


class Writer:
    """Writes until told to stop. Every try has a number of its own, so no try can hide another's outcome.

    One write after another, as a service's worker does: while one waits, the next ones are not begun, and
    they are not made up for afterwards.
    """

    def __init__(self, settings: WriterSettings) -> None:
        self._settings = settings
        self._insert = settings.table.insert_sql()
        self._stop = threading.Event()
        self._next_number = 1
        self._preferred = 0
        self._session: Session | None = None
        self._resources = ExitStack()
        self._acknowledged: list[Acknowledgement] = []
        self._refused: list[int] = []
        self._unknown: list[int] = []
        self._errors: Counter[str] = Counter()
        self._unfinished_wait_s = 0.0

    def stop(self) -> None:
        """Make `write_until_stopped` return after the try it is at; any thread or signal handler may call."""
        self._stop.set()

    def write_until_stopped(self) -> None:
        """Write rows at the wanted rate until `stop` is called; no failure of the server ends it."""
        interval_s = 1 / self._settings.rate_per_s
        due = time.perf_counter()
        try:
            while not self._stop.wait(max(0.0, due - time.perf_counter())):
                self._write_one()
                due = max(due + interval_s, time.perf_counter() - interval_s)
        finally:
            self._disconnect()

    def report(self) -> LedgerReport:
        """Return what became of every row so far."""
        return LedgerReport(
            service=self._settings.table.service,
            run=self._settings.run,
            acknowledgements=tuple(self._acknowledged),
            refused=tuple(self._refused),
            unknown=tuple(self._unknown),
            errors=dict(self._errors),
            unfinished_wait_s=self._unfinished_wait_s,
        )

    def _write_one(self) -> None:
        """Try until one row is acknowledged or the writer is to stop."""
        began = time.perf_counter()
        while True:
            number = self._try()
            waited_s = time.perf_counter() - began
            if number is not None:
                self._acknowledged.append(Acknowledgement(number, time.time(), waited_s))
                return
            if self._stop.wait(self._settings.pause_after_error_s):
                self._unfinished_wait_s = waited_s
                return

    def _try(self) -> int | None:
        """Return the number of the row that was acknowledged, or None after noting why there is none."""
        try:
            session = self._session or self._connect()
        except UnreachableError as error:  # nothing was sent: no row is in doubt
            self._note(error)
            return None
        number, self._next_number = self._next_number, self._next_number + 1
        try:
            session.execute(self._insert, (row_key(self._settings.run, number),))
        except (SqlError, UnreachableError) as error:
            surely_not = isinstance(error, SqlError) and error.code in _SURELY_NOT_WRITTEN
            (self._refused if surely_not else self._unknown).append(number)
            self._note(error)
            return None
        return number

    def _connect(self) -> Session:
        nodes = self._settings.nodes
        node = nodes[self._preferred % len(nodes)]
        self._session = self._resources.enter_context(
            connect(
                node,
                self._settings.account,
                connect_timeout_s=1,
                read_timeout_s=self._settings.answer_timeout_s,
            )
        )
        return self._session

    def _note(self, error: SqlError | UnreachableError) -> None:
        """Count the error, and leave a connection or node that may be of no more use."""
        kind = f"error {error.code}" if isinstance(error, SqlError) else type(error).__name__
        self._errors[kind] += 1
        self._preferred += 1
        self._disconnect()

    def _disconnect(self) -> None:
        self._session = None
        self._resources.close()
