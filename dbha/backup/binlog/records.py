"""What is known of the logs in an archive, as sealed records beside them."""

from collections.abc import Collection, Iterable
from datetime import UTC, datetime
from typing import Literal

from pydantic import Field

from dbha.backup.binlog.events import LogReader, Transaction
from dbha.backup.binlog.gtid import Gtid, latest, parse_gtid
from dbha.backup.manifest import Record, Sha256


class Run(Record):
    """Transactions as one server logged them: all that there are with a number above `after`, up to `last`.

    A number within that it does not have was given to no transaction: a statement that failed used it up. Times are
    those of the transactions, in UTC.
    `restarts`: the first of them begins the restore of a service. The rows that such a restore imports are in no
    log, so nobody can replay from before it to after it.
    """

    after: int
    first: str
    last: str
    first_time: datetime
    last_time: datetime
    restarts: bool = False

    @property
    def begin(self) -> int:
        """The number of the first transaction, or one before it that no transaction has."""
        return self.after + 1

    @property
    def end(self) -> int:
        """The number of the last transaction."""
        return parse_gtid(self.last).sequence


class ArchivedLog(Record):
    """One log of a node in the archive; `file` is its name there, and has no byte after a whole transaction."""

    schema_version: Literal[1] = Field(default=1, alias="schema")
    timeline: str  # the cluster's state UUID: after a restore the same GTIDs mean other transactions
    node: str
    name: str  # as the node calls it
    file: str
    size_bytes: int
    content_sha256: Sha256
    local_domains: tuple[int, ...]  # in which nodes log what they did for themselves alone; not replayed
    runs: tuple[Run, ...]
    archived: datetime
    dbha_version: str

    @property
    def begin(self) -> int:
        """The number of its first transaction."""
        return self.runs[0].begin

    @property
    def end(self) -> int:
        """The number of its last transaction."""
        return self.runs[-1].end


class Sighting(Record):
    """At `time` a node had nothing newer than `gtid`, and all of that was archived."""

    schema_version: Literal[1] = Field(default=1, alias="schema")
    timeline: str
    node: str
    gtid: str
    time: datetime
    local_domains: tuple[int, ...]


class RunBuilder:
    """Puts transactions together to runs, as they come."""

    def __init__(self, local_domains: Collection[int]) -> None:
        self._local_domains = local_domains
        self._done: list[Run] = []
        self._first: Transaction | None = None
        self._last: Transaction | None = None
        self.renumbered = False  # a number went down: what follows are not the cluster's numbers

    def add(self, transactions: Iterable[Transaction]) -> None:
        """Take the next transactions of one log; those of single nodes are left out."""
        for found in transactions:
            if found.gtid.domain in self._local_domains:
                continue
            if self.renumbered or (self._last and found.gtid.sequence <= self._last.gtid.sequence):
                self.renumbered = True
                continue
            if self._last and found.moves_aside:
                self._done.append(self._run())
                self._first = None
            self._first, self._last = self._first or found, found

    @property
    def last(self) -> Gtid | None:
        """The last transaction so far."""
        return self._last.gtid if self._last else None

    def runs(self, reader: LogReader) -> tuple[Run, ...]:
        """Return the runs so far of the log that the transactions are from.

        A log that a running server began has everything after the GTIDs that it begins with. After a start nobody
        knows that: the server may have got other data meanwhile. Then it is certain only from its first number on.
        A log whose numbers are lower than what it begins with has none of the cluster's numbers.
        """
        found = (*self._done, self._run()) if self._last else ()
        listed = latest(reader.listed, self._local_domains)
        if found and listed and found[0].begin <= listed.sequence:
            self.renumbered = True
            return ()
        if found and listed and reader.rotated and not found[0].restarts:
            return (found[0].model_copy(update={"after": listed.sequence}), *found[1:])
        return found

    def _run(self) -> Run:
        assert self._first is not None
        assert self._last is not None
        return Run(
            after=self._first.gtid.sequence - 1,
            first=str(self._first.gtid),
            last=str(self._last.gtid),
            first_time=in_utc(self._first.time_s),
            last_time=in_utc(self._last.time_s),
            restarts=self._first.moves_aside,
        )


def in_utc(time_s: int) -> datetime:
    """Return a time in a log, which are in seconds since 1970."""
    return datetime.fromtimestamp(time_s, UTC)
