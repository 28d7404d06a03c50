"""Restoring nova: dbha beside `mariadb < dump` and beside mydumper/myloader, while keystone is written to."""

import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import datetime

from benchmarks.cloud import NOVA, TARGET, Cloud, cloud, shell, timed
from dbha.sandbox.ledger import TABLES, LedgerReport, WriterProcess, WriterSettings, check, erase

_DUMP = (
    'mariadb-dump --defaults-extra-file="$CNF" --single-transaction --skip-lock-tables --skip-add-locks --hex-blob'
    ' --databases $DATABASES > "$OUT"'
)
_DROP = 'for db in $DATABASES; do mariadb --defaults-extra-file="$CNF" -e "DROP DATABASE $db"; done; '
_LOAD = _DROP + 'mariadb --defaults-extra-file="$CNF" < "$OUT"'
_MYDUMPER = (
    'mydumper --defaults-file="$CNF" --host "$HOST" --port "$PORT" --threads 2 --trx-consistency-only'
    " --regex '^(nova_api|nova_cell0|nova)\\.' --rows 20000 --outputdir \"$OUT\""
)
_MYLOADER = _DROP + (
    'myloader --defaults-file="$CNF" --host "$HOST" --port "$PORT" --threads 2 --directory "$OUT"'
)


_AUTOMATIC = "dbha, by itself in a failed upgrade"
_WHOLE_UPGRADE = "the whole of that upgrade, with backup and sync"
_IDLE = "nothing: what the machine itself makes a writer wait"
_IDLE_S = 30


def measure(instances: int) -> list[dict[str, object]]:
    """Return one row for each side and round: seconds, ratio to dbha, and the waits of keystone meanwhile."""
    with cloud(instances) as made:
        backup_id = _prepare(made)
        variables = {
            "CNF": made.options_file(), "DATABASES": " ".join(NOVA), "HOST": made.writer.address,
            "PORT": made.writer.port,
        }  # fmt: skip
        sides: dict[str, Callable[[], object]] = {
            _IDLE: lambda: time.sleep(_IDLE_S),
            _AUTOMATIC: lambda: _fail_an_upgrade(made),
            "dbha restore ID, whole command": lambda: made.dbha(
                "restore", backup_id, "--service", "nova", "--yes"
            ),
            "mariadb < dump": lambda: shell(_LOAD, OUT=made.directory / "nova.sql", **variables),
            "myloader": lambda: shell(_MYLOADER, OUT=made.directory / "mydumper", **variables),
        }
        shell(_DUMP, OUT=made.directory / "nova.sql", **variables)
        shell(_MYDUMPER, OUT=made.directory / "mydumper", **variables)
        size = made.data_bytes(NOVA)
        taken = {name: _with_writer(made, side) for name, side in sides.items()}
        began, ended = _going_back(made)
    seconds = {name: took for name, (took, _) in taken.items()}
    waits_s = {
        name: [*(each.wait_s for each in report.acknowledgements), report.unfinished_wait_s]
        for name, (_, report) in taken.items()
    }
    seconds[_WHOLE_UPGRADE], waits_s[_WHOLE_UPGRADE] = seconds[_AUTOMATIC], waits_s[_AUTOMATIC]
    base = seconds[_AUTOMATIC] = (ended - began).total_seconds()
    waits_s[_AUTOMATIC] = [
        each.wait_s
        for each in taken[_AUTOMATIC][1].acknowledgements
        if each.at >= began.timestamp() and each.at - each.wait_s <= ended.timestamp()
    ]
    return [
        {
            "nova": f"{size / 1e9:.2f} GB", "side": name, "seconds": round(seconds[name], 1),
            "times the automatic restore": "" if name == _IDLE else round(seconds[name] / base, 2),
            "longest wait of keystone (s)": round(max(waits_s[name]), 3),
            "999 of 1000 waits below (s)": round(_quantile(waits_s[name], 0.999), 3),
        }
        for name in (_IDLE, _AUTOMATIC, _WHOLE_UPGRADE, *(name for name in taken if name not in (_IDLE, _AUTOMATIC)))
    ]  # fmt: skip


def _quantile(waits_s: list[float], share: float) -> float:
    return sorted(waits_s)[int(share * (len(waits_s) - 1))]


def _fail_an_upgrade(made: Cloud) -> None:
    """Make nova's upgrade fail for a real reason; dbha puts nova back by itself."""
    with made.cluster.session(made.writer) as session:
        session.execute("CREATE INDEX migrations_by_src_host_nodes_and_status_idx ON nova.migrations (uuid)")
    made.dbha("upgrade", "run", "--to", TARGET, "--service", "nova", "--yes", expect=7)


def _going_back(made: Cloud) -> tuple[datetime, datetime]:
    """Return when the native command had failed and when nova could write again, by the journal."""
    (run,) = (run for run in made.runs() if run["workflow"] == "upgrade")
    ended = {step["name"]: datetime.fromisoformat(step["ended"]) for step in run["steps"]}
    return ended["sync:nova"], ended["unfence-undo"]


def _prepare(made: Cloud) -> str:
    made.dbha("backup", "create", "--verify")
    store = made.sandbox.layout.directory / "backups"
    return sorted(path.name for path in store.iterdir())[-1]


def _with_writer(made: Cloud, action: Callable[[], object]) -> tuple[float, LedgerReport]:
    """Return the seconds the action took and what a keystone writer saw meanwhile."""
    account = made.sandbox.account("keystone", os.environ)
    with WriterProcess(WriterSettings(TABLES["keystone"], made.cluster.nodes, account)) as writer:
        seconds = timed(action)
        report = writer.stop()
    _require_intact(made, report)
    return seconds, report


def _require_intact(made: Cloud, report: LedgerReport) -> None:
    with ExitStack() as stack:
        sessions = [stack.enter_context(made.cluster.session(node)) for node in made.cluster.nodes]
        if not check(report, TABLES["keystone"], sessions).is_intact:
            raise RuntimeError("rows of keystone were lost")
        erase(sessions[0], TABLES["keystone"], report.run)
