"""Which node logs are fetched from, and from which of its logs on. The choice is pure; `read_source` asks a node."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from dbha.backup.binlog.gtid import Gtid, latest, parse_gtid, parse_gtids
from dbha.database import Session
from dbha.errors import UnreachableError, UnsafeError

_QUESTION = (
    "SELECT @@GLOBAL.log_bin AS log_bin, @@GLOBAL.log_slave_updates AS log_slave_updates,"
    " @@GLOBAL.wsrep_gtid_mode AS wsrep_gtid_mode, @@GLOBAL.wsrep_gtid_domain_id AS cluster_domain,"
    " @@GLOBAL.gtid_domain_id AS local_domain, @@GLOBAL.gtid_binlog_pos AS position, UTC_TIMESTAMP(6) AS now"
)
_WANTED = {"log_bin": "ON", "log_slave_updates": "ON", "wsrep_gtid_mode": "ON"}
_BEGINNING = 12  # events: the list of GTIDs is the second, the first transaction comes soon after
_FIRST_GTID = re.compile(r"\d+-\d+-\d+")


@dataclass(frozen=True, slots=True)
class LogOfNode:
    """A log on a node; it has the transactions after number `after`."""

    name: str
    after: int


@dataclass(frozen=True, slots=True)
class Source:
    """What a serving node says of its logs; `position` is the cluster's last transaction there at `now`."""

    node: str
    timeline: str
    is_writer: bool
    local_domain: int
    position: Gtid | None
    now: datetime
    logs: tuple[LogOfNode, ...]  # oldest first
    renumbered: bool = (
        False  # its numbers went down: a GTID means another transaction here than on other nodes
    )


def read_source(
    session: Session, *, timeline: str, is_writer: bool, local_domains: frozenset[int], wanted: int | None
) -> Source:
    """Ask a node for its logs; of them those from the one on that has the transaction after number `wanted`.

    Raises UnsafeError, naming what to set, when its logs are not such that they can be archived.
    """
    told = session.rows(_QUESTION)[0]
    _require_gtids(session.node.name, {name: str(value) for name, value in told.items()})
    local = local_domains | {int(told["local_domain"])}
    position = latest(parse_gtids(str(told["position"])), local)
    logs, renumbered = _logs(session, local, position, wanted)
    return Source(
        node=session.node.name,
        timeline=timeline,
        is_writer=is_writer,
        local_domain=int(told["local_domain"]),
        position=position,
        now=told["now"].replace(tzinfo=UTC),
        logs=logs,
        renumbered=renumbered,
    )


def choose_source(sources: Sequence[Source], archived: int | None, current: str = "") -> Source:
    """Return the node to fetch from: one that still has all that is not archived, then one that does not write.

    Among equals it stays with `current`, else takes the first in the order given. Where transactions are lost on
    every node it is the one that lost the fewest. Raises UnreachableError when there is no node.
    """
    if not sources:
        raise UnreachableError("no node serves, so no binary log can be fetched", hint="dbha status")

    def rank(source: Source) -> tuple[int, bool, bool]:
        lost = 0 if archived is None else max(0, source.logs[0].after - archived)
        return lost, source.is_writer, source.node != current

    return min(sources, key=rank)


def first_log(source: Source, archived: int | None) -> str:
    """Return the name of the newest log that has everything after number `archived`, else of the oldest."""
    fit = [log for log in source.logs if archived is not None and log.after <= archived]
    return (fit[-1] if fit else source.logs[0]).name


def _logs(
    session: Session, local: frozenset[int], position: Gtid | None, wanted: int | None
) -> tuple[tuple[LogOfNode, ...], bool]:
    """Return the logs, no older ones than are needed, and whether their numbers go down somewhere."""
    names = [str(row["Log_name"]) for row in session.rows("SHOW BINARY LOGS")]
    found: list[LogOfNode] = []
    for name in reversed(names):
        after, renumbered = begin_of(*_first_gtids(session, name, local), position)
        found.insert(0, LogOfNode(name, after))
        if renumbered:
            return tuple(found), True
        if wanted is not None and after <= wanted:
            break
    return tuple(found), False


def begin_of(listed: Gtid | None, first: Gtid | None, position: Gtid | None) -> tuple[int, bool]:
    """Return the number after which a log begins, and whether its numbers are not those of the cluster.

    `listed` is the latest GTID that it begins with, `first` its first transaction; one without any begins where
    the node is. A server that started on data without a GTID in it takes up an old number of its own log.
    """
    if first is None:
        last = listed or position
        return (last.sequence if last else 0), False
    if listed is None:
        return first.sequence - 1, False
    if first.sequence <= listed.sequence:
        return first.sequence - 1, True
    return listed.sequence, False


def _first_gtids(session: Session, name: str, local: frozenset[int]) -> tuple[Gtid | None, Gtid | None]:
    """Return the latest GTID that a log begins with, and that of the first transaction in it."""
    quoted = name.replace("'", "''")
    rows = session.rows(f"SHOW BINLOG EVENTS IN '{quoted}' LIMIT {_BEGINNING}")
    listed = next((str(row["Info"]) for row in rows if row["Event_type"] == "Gtid_list"), "")
    texts = [str(row["Info"]) for row in rows if row["Event_type"] == "Gtid"]
    gtids = [parse_gtid(found[0]) for text in texts if (found := _FIRST_GTID.search(text))]
    shared = [gtid for gtid in gtids if gtid.domain not in local]
    return latest(parse_gtids(listed), local), (shared[0] if shared else None)


def _require_gtids(node: str, told: dict[str, str]) -> None:
    wrong = [f"{name} = {wanted}" for name, wanted in _WANTED.items() if told[name] not in (wanted, "1")]
    if told["cluster_domain"] == told["local_domain"]:
        wrong.append("gtid_domain_id different from wsrep_gtid_domain_id")
    if wrong:
        raise UnsafeError(
            f"the binary logs of {node} cannot be archived: it needs {', '.join(wrong)}",
            hint="docs/how-to/archive-binary-logs.md     what the servers' configuration needs",
        )
