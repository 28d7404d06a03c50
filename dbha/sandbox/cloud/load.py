"""Fill the databases of a sandbox with a synthetic cloud.

A batch of servers, with everything of theirs in all databases, is one transaction: a load that was interrupted
has whole batches, and goes on from the last of them.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType

from dbha.database import Session
from dbha.sandbox.cloud.inspection import count_complete, count_servers, inspect_target
from dbha.sandbox.cloud.rules import DATABASES, Rules, read_rules
from dbha.sandbox.cloud.statements import Batch, Target, batches, statements

SAME_NAMES: Mapping[str, str] = MappingProxyType({name: name for name in DATABASES})
BATCH_SERVERS = 1000  # about 20 MB of rows: the other nodes apply one batch while the next is being made

_SETTINGS = {
    "foreign_key_checks": "0",  # tests check the keys; the server would check them again for every row
    "optimizer_switch": "'derived_merge=off'",  # a thing's values are made once, not for each of its rows
    # Id 0 is placement's number of the resource class VCPU; a sequence's numbers are unsigned, and what is
    # subtracted from them may go below 0.
    "sql_mode": "'STRICT_TRANS_TABLES,NO_AUTO_VALUE_ON_ZERO,NO_UNSIGNED_SUBTRACTION'",
    "wsrep_sync_wait": "1",  # what is there is counted after all that other nodes have committed
}


@dataclass(frozen=True, slots=True)
class CloudCounts:
    """What the cloud has after a load; `rows` counts the rows that were added, by database."""

    instances: int
    added: int
    hosts: int
    projects: int
    users: int
    images: int
    rows: Mapping[str, int]


def load_cloud(
    session: Session,
    *,
    instances: int,
    on_progress: Callable[[int, int], None],
    databases: Mapping[str, str] = SAME_NAMES,
    batch_servers: int = BATCH_SERVERS,
) -> CloudCounts:
    """Bring the cloud to `instances` servers, and return what it has then.

    Adds only what is missing, and never takes anything away. `on_progress` hears (servers there, servers
    wanted) before the first batch and after each. Raises UnsafeError, before any change, when a schema is
    missing or nova holds servers of another origin.
    """
    rules = read_rules()
    rows: Counter[str] = Counter()
    with _bulk_settings(session):
        target = inspect_target(session, rules, databases)
        there = count_servers(session, databases)
        complete = count_complete(session, rules, databases, there)
        wanted = max(instances, there)
        on_progress(complete, wanted)
        for batch in batches(complete, wanted, batch_servers):
            rows += _load_batch(session, rules, batch, target)
            on_progress(batch.last, wanted)
    return _counts(rules, wanted, wanted - there, rows)


@contextmanager
def _bulk_settings(session: Session) -> Iterator[None]:
    session.execute("SET SESSION " + ", ".join(f"{name} = {value}" for name, value in _SETTINGS.items()))
    try:
        yield
    finally:
        session.execute("SET SESSION " + ", ".join(f"{name} = DEFAULT" for name in _SETTINGS))


def _load_batch(session: Session, rules: Rules, batch: Batch, target: Target) -> Counter[str]:
    rows: Counter[str] = Counter()
    with session.transaction():
        for table, sql in statements(rules, batch, target):
            affected = session.execute(sql)
            if table is not None:
                rows[table.database] += affected
    return rows


def _counts(rules: Rules, instances: int, added: int, rows: Counter[str]) -> CloudCounts:
    blocks = -(-instances // rules.block_servers)
    each = {name: source.per_block * blocks for name, source in rules.sources.items()}
    return CloudCounts(
        instances, added, each["host"], each["project"], each["user"], each["image"], dict(rows)
    )
