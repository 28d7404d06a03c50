"""Compare what a writer was told with what every node has."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from dbha.database import Session
from dbha.sandbox.ledger.report import LedgerReport
from dbha.sandbox.ledger.tables import LedgerTable, row_key, row_number


@dataclass(frozen=True, slots=True)
class LedgerCheck:
    """What is wrong, as row numbers by node name; a node without anything wrong is in none of them."""

    missing: Mapping[str, tuple[int, ...]] = field(default_factory=dict)  # acknowledged, and not there
    duplicates: Mapping[str, tuple[int, ...]] = field(default_factory=dict)  # there more than once
    unexpected: Mapping[str, tuple[int, ...]] = field(default_factory=dict)  # refused, and there all the same
    disputed: tuple[int, ...] = ()  # of unknown outcome, and not the same on all nodes

    @property
    def is_intact(self) -> bool:
        """True when every acknowledged row is on every node exactly once, and the nodes agree."""
        return not (self.missing or self.duplicates or self.unexpected or self.disputed)


def check(report: LedgerReport, table: LedgerTable, sessions: Iterable[Session]) -> LedgerCheck:
    """Return what is wrong with the report's rows on the sessions' nodes, each after it has caught up."""
    return judge(report, {session.node.name: read_rows(session, table, report.run) for session in sessions})


def read_rows(session: Session, table: LedgerTable, run: str) -> Counter[int]:
    """Return how often each row of a run is on the node. Waits until the node has applied all that came before."""
    session.execute("SET SESSION wsrep_sync_wait = 1")
    keys = session.column(
        f"SELECT {table.key} FROM {table.qualified} WHERE {table.key} BETWEEN %s AND %s",
        (row_key(run, 0), row_key(run, 999_999_999)),
    )
    return Counter(map(row_number, keys))


def judge(report: LedgerReport, rows: Mapping[str, Mapping[int, int]]) -> LedgerCheck:
    """Return what is wrong with `rows`, which says for each node how often it has each row."""
    refused, unknown = set(report.refused), set(report.unknown)
    missing = {node: tuple(n for n in report.acknowledged if n not in there) for node, there in rows.items()}
    twice = {node: tuple(sorted(n for n in there if there[n] > 1)) for node, there in rows.items()}
    unexpected = {node: tuple(sorted(refused.intersection(there))) for node, there in rows.items()}
    seen = [unknown.intersection(there) for there in rows.values()]
    disputed = set().union(*seen) - set(unknown).intersection(*seen)
    return LedgerCheck(_wrong(missing), _wrong(twice), _wrong(unexpected), tuple(sorted(disputed)))


def erase(session: Session, table: LedgerTable, run: str) -> int:
    """Delete the rows of a run, and return how many there were."""
    return session.execute(
        f"DELETE FROM {table.qualified} WHERE {table.key} BETWEEN %s AND %s",
        (row_key(run, 0), row_key(run, 999_999_999)),
    )


def _wrong(numbers: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    return {node: found for node, found in numbers.items() if found}
