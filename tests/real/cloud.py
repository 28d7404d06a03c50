"""A small cloud on a real cluster for tests of the main job, through the command line only.

All tests of a process share one sandbox: four services synced at 2025.1 and a synthetic cloud. A test may leave
anything behind; `Cloud.reset` puts right what is different before the next one begins.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

from dbha.backup.aside import asides_in
from dbha.backup.proof import Checksums, checksums_everywhere
from dbha.cluster.handle import Cluster
from dbha.cluster.home import record_release
from dbha.database import Account, Session
from dbha.heads import read_heads
from dbha.journal import Journal, RunRecord
from dbha.sandbox import up
from dbha.sandbox.ledger import TABLES, LedgerReport, WriterProcess, WriterSettings, check, erase
from dbha.secrets import Secret
from tests.real.conftest import RunningSandbox

T = TypeVar("T")

DBHA = Path(sys.executable).with_name("dbha")
OLD, NEW = "2025.1", "2026.2"
INSTANCES = 300
DATABASES: Mapping[str, tuple[str, ...]] = {
    "placement": ("placement",),
    "keystone": ("keystone",),
    "glance": ("glance",),
    "nova": ("nova_api", "nova_cell0", "nova"),
}
ALL_DATABASES = tuple(name for names in DATABASES.values() for name in names)
PATIENCE_S = 240.0  # for one command, on a machine that does other things as well

# Names that the second statement of a migration creates: it fails there, and what the first one did stays.
LEFT_OVER_IN_KEYSTONE = ("keystone", "revocation_event", "ix_revocation_event_composite", "audit_id")
LEFT_OVER_IN_NOVA = ("nova", "migrations", "migrations_by_src_host_nodes_and_status_idx", "uuid")


@dataclass(frozen=True)
class Said:
    """What a command said, and its exit code."""

    arguments: tuple[str, ...]
    code: int
    stdout: str
    stderr: str
    seconds: float

    @property
    def json(self) -> Any:
        """What it printed with `--json`."""
        return json.loads(self.stdout)

    def __str__(self) -> str:
        return f"dbha {' '.join(self.arguments)}: exit {self.code}\n{self.stdout}\n{self.stderr}"


@dataclass(frozen=True)
class Snapshot:
    """Everything of the services that a command which failed must leave as it was."""

    checksums: Mapping[str, Checksums]  # by node
    heads: Mapping[str, Mapping[str, tuple[str, ...]]]  # by node
    structure: Mapping[str, tuple[tuple[str, str], ...]]  # by node: (table or database, definition)
    releases: Mapping[str, str]
    locked: frozenset[str]


@dataclass
class Cloud:
    """The shared sandbox. `configuration` can be another file, for tests that need a policy of their own."""

    running: RunningSandbox
    configuration: Path
    backup: str = ""
    before: Snapshot | None = field(default=None, repr=False)

    @property
    def cluster(self) -> Cluster:
        return self.running.cluster

    @property
    def directory(self) -> Path:
        return self.running.directory

    @property
    def state(self) -> Path:
        return self.directory / "state"

    @property
    def backups(self) -> Path:
        return self.directory / "backups"

    # --- commands ----------------------------------------------------------------------------------------

    def run(
        self, *arguments: str, expect: int | None = 0, fault: str = "", configuration: Path | None = None,
        wrapper: tuple[str, ...] = (), **environment: str,
    ) -> Said:  # fmt: skip
        """Run a command to its end and require its exit code; `fault` is where it is killed."""
        with self.started(
            *arguments, fault=fault, configuration=configuration, wrapper=wrapper, **environment
        ) as command:
            return command.end(expect=-signal.SIGKILL if fault else expect)

    @contextmanager
    def started(
        self, *arguments: str, fault: str = "", configuration: Path | None = None,
        wrapper: tuple[str, ...] = (), **environment: str,
    ) -> Iterator["Started"]:  # fmt: skip
        """Start a command without a terminal; it is gone afterwards, whatever happens."""
        surroundings = {**os.environ, **environment, "NO_COLOR": "1", "COLUMNS": "200"}
        if fault:
            surroundings["DBHA_FAULT"] = fault
        argv = [*wrapper, str(DBHA), "-c", str(configuration or self.configuration), *arguments]
        with subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=surroundings, cwd=self.directory, start_new_session=True,
        ) as process:  # fmt: skip
            command = Started(self, arguments, process)
            try:
                yield command
            finally:
                command.kill_all()

    def upgrade(self, *services: str, expect: int = 0, fault: str = "", target: str = NEW) -> Said:
        """Upgrade the services, all when none is named."""
        named = [word for service in services for word in ("--service", service)]
        return self.run(
            "upgrade", "run", "--to", target, *named, "--yes", "--json", expect=expect, fault=fault
        )

    def json(self, *arguments: str) -> Any:
        """Return what a command that must succeed printed as JSON."""
        return self.run(*arguments, "--json").json

    def last_run(self) -> dict[str, Any]:
        """Return the newest run as the journal has it."""
        found: dict[str, Any] = self.json("runs", "show")
        return found

    # --- SQL ---------------------------------------------------------------------------------------------

    def session(self, number: int = 0) -> contextlib.AbstractContextManager[Session]:
        """Return a session on a node as administrator."""
        return self.cluster.session(self.cluster.nodes[number])

    def execute(self, *statements: str) -> None:
        """Run statements on the first node."""
        with self.session() as session:
            for statement in statements:
                session.execute(statement)

    def leave_index(self, left_over: tuple[str, str, str, str]) -> None:
        """Leave an index behind with the name that a migration is going to create."""
        database, table, name, column = left_over
        self.execute(f"CREATE INDEX {name} ON {database}.{table} ({column})")

    def drop_index(self, left_over: tuple[str, str, str, str]) -> None:
        """Remove the cause of that failure."""
        database, table, name, _ = left_over
        self.execute(f"DROP INDEX {name} ON {database}.{table}")

    # --- what is there -----------------------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        """Return what the services are on every node now."""
        with self.session() as session:
            releases = {
                row["service"]: row["release"]
                for row in session.rows("SELECT service, `release` FROM dbha.service_release")
            }
        return Snapshot(
            checksums=checksums_everywhere(self.cluster, ALL_DATABASES, self.cluster.nodes),
            heads=self._on_each(lambda session: read_heads(session, ALL_DATABASES)),
            structure=self._on_each(_structure),
            releases=releases,
            locked=frozenset(self.locked_accounts()),
        )

    def locked_accounts(self) -> list[str]:
        """Return the accounts that are locked."""
        with self.session() as session:
            return session.column(
                "SELECT User FROM mysql.global_priv WHERE User <> 'mariadb.sys'"
                " AND COALESCE(JSON_VALUE(Priv, '$.account_locked'), '') IN ('true', '1')"
            )

    def leftovers(self) -> list[str]:
        """Return everything that a run leaves only while it has not come to its end."""
        with self.session() as session:
            found = [f"database {name}" for name in asides_in(session)]
            found += [
                f"account {user}"
                for user in session.column(
                    "SELECT User FROM mysql.global_priv WHERE User LIKE 'dbha\\_migrate%'"
                )
            ]
            held = session.value("SELECT run_id FROM dbha.lease WHERE run_id IS NOT NULL")
        found += [f"lease of {held}"] if held else []
        found += [f"staging {path.name}" for path in self._staged()]
        found += [f"backup {path.name}" for path in self.backups.iterdir() if ".partial" in path.name]
        found += [f"process {pid}: {words}" for pid, words in self.processes()]
        found += [f"run {run.id} {run.state}" for run in self._unfinished()]
        return found

    def processes(self) -> list[tuple[int, str]]:
        """Return the processes, other than the cluster's servers, that still work on this sandbox."""
        found = []
        for entry in Path("/proc").iterdir():
            words = command_line(int(entry.name)) if entry.name.isdecimal() else ""
            places = (str(self.state), *(f"={node.datadir}" for node in self.cluster.nodes))
            is_server = "mariadbd " in words and str(self.state) not in words
            if any(place in words for place in places) and not is_server:
                found.append((int(entry.name), words))
        return found

    def assert_whole(self) -> None:
        """Require a healthy cluster without a trace of an unfinished run."""
        left = self.leftovers()
        assert not left, left
        status = self.json("status")
        assert (status["verdict"], status["reasons"]) == ("healthy", [])
        assert status["active_run"] is None
        assert status["interrupted_run"] is None
        assert self.locked_accounts() == []
        assert not any(service["fenced"] for service in status["services"])

    def assert_as_before(self, before: Snapshot | None = None) -> None:
        """Require that every row, table, head, release and lock is as it was, on every node, and nothing else."""
        expected = before or self.before
        assert expected is not None
        assert_same(expected, self.snapshot())
        self.assert_whole()

    def assert_upgraded(self, *services: str) -> None:
        """Require these services at the new release on every node, the same everywhere, and nothing left over."""
        now = self.snapshot()
        for service in services:
            expected = EXPECTED_HEADS[service]
            assert {
                node: {name: heads[name] for name in expected} for node, heads in now.heads.items()
            } == dict.fromkeys(now.heads, expected)
            assert now.releases[service] == NEW
        first, *others = now.checksums.values()
        assert all(other == first for other in others)
        assert len(set(now.structure.values())) == 1
        self.assert_whole()

    # --- writers -----------------------------------------------------------------------------------------

    @contextmanager
    def writers(self, *services: str) -> Iterator[dict[str, LedgerReport]]:
        """Write as the services' own accounts meanwhile, then require that nothing acknowledged was lost."""
        reports: dict[str, LedgerReport] = {}
        with ExitStack() as stack:
            running = {
                service: stack.enter_context(WriterProcess(self._writer(service))) for service in services
            }
            yield reports
            reports |= {service: writer.stop() for service, writer in running.items()}
        with ExitStack() as stack:
            sessions = [stack.enter_context(self.cluster.session(node)) for node in self.cluster.nodes]
            for service, report in reports.items():
                found = check(report, TABLES[service], sessions)
                erase(sessions[0], TABLES[service], report.run)
                assert found.is_intact, f"{service}: {found}"
                assert len(report.acknowledged) > 10

    def _writer(self, service: str) -> WriterSettings:
        account = Account(service, Secret(self.passwords()[f"{service}_password"]))
        return WriterSettings(TABLES[service], self.cluster.nodes, account, rate_per_s=50.0)

    def passwords(self) -> dict[str, str]:
        """Return every password of the sandbox by its name."""
        found: dict[str, str] = yaml.safe_load((self.directory / "secrets.yml").read_text())
        return found

    # --- making and resetting ----------------------------------------------------------------------------

    def build(self) -> None:
        """Make the cloud and the backup that `reset` goes back to."""
        for release in (OLD, NEW):
            self.run("release", "install", release)
        self.run("database", "create")
        self.run("sync")
        self.run("sandbox", "load", "--instances", str(INSTANCES))
        self.backup = self.json("backup", "create", "--verify", "--label", "base")["backup"]["id"]
        self.before = self.snapshot()

    def reset(self) -> None:
        """Put right whatever a test left different; does nearly nothing where nothing is."""
        assert self.before is not None
        up(self.directory)
        for _ in self._unfinished():
            self.run("runs", "abandon", "--yes", expect=None)
        self._sweep()
        now = self.snapshot()
        for service, databases in DATABASES.items():
            if _part(now, databases) != _part(self.before, databases):
                self.run("restore", self.backup, "--service", service, "--yes")
            elif now.releases.get(service) != OLD:
                with self.session() as session:
                    record_release(session, service, OLD, "reset")
        left = self.leftovers()
        assert not left, left

    def _sweep(self) -> None:
        with self.session() as session:
            for name in asides_in(session):
                session.execute(f"DROP DATABASE {name}")
            for user in self.locked_accounts():
                session.execute(f"ALTER USER '{user}'@'%' ACCOUNT UNLOCK")
        for path in [*self._staged(), *self.backups.glob("*.partial")]:
            subprocess.run(["rm", "-rf", path], check=True)
        for pid, _ in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _unfinished(self) -> list[RunRecord]:
        journal = Journal(self.state / "journal.sqlite")
        try:
            return journal.unfinished()
        finally:
            journal.close()

    def _staged(self) -> list[Path]:
        staging = self.state / "staging"
        trees = [path for place in (staging, staging / "apart") for path in place.glob("*")]
        return [path for path in trees if path.name not in (".lock", "apart")]

    def _on_each(self, ask: Callable[[Session], Any]) -> dict[str, Any]:
        found = {}
        for node in self.cluster.nodes:
            with self.cluster.session(node) as session:
                session.execute("SET SESSION wsrep_sync_wait = 1")
                found[node.name] = ask(session)
        return found


class Started:
    """A command that runs; its output is read when it ended."""

    def __init__(self, cloud: Cloud, arguments: tuple[str, ...], process: "subprocess.Popen[str]") -> None:
        self.cloud = cloud
        self.arguments = arguments
        self.process = process
        self.tools: list[int] = []  # native tools that were frozen, and outlive a killed controller
        self._started = time.monotonic()

    def end(self, *, expect: int | None) -> Said:
        """Wait for the end and require the exit code."""
        stdout, stderr = self.process.communicate(timeout=PATIENCE_S)
        said = Said(self.arguments, self.process.returncode, stdout, stderr, time.monotonic() - self._started)
        assert expect is None or said.code == expect, f"expected exit {expect}\n{said}"
        return said

    def freeze(self, tool: str) -> int:
        """Stop the native tool of an upgrade in the middle of its work, and return its id.

        It would be through in no time, so a lock keeps it from its table; it is stopped while it waits for that.
        """
        eventually(lambda: self._forks(tool), f"{tool} was never started")
        with self.cloud.session() as session:
            session.execute(f"LOCK TABLES {tool.removesuffix('-manage')}.alembic_version WRITE")
            pid = eventually(lambda: self._connected(tool), f"{tool} was never seen at work")
            os.kill(pid, signal.SIGSTOP)
            session.execute("UNLOCK TABLES")
        self.tools.append(pid)
        return pid

    def kill(self) -> None:
        """Kill the controller as a crash would; what it started lives on."""
        self.process.kill()
        self.end(expect=-signal.SIGKILL)

    def kill_all(self) -> None:
        """Kill the controller, and the tools that were frozen."""
        if self.process.poll() is None:
            self.process.kill()
        for pid in self.tools:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _connected(self, tool: str) -> int | None:
        return next((pid for pid in self._forks(tool) or () if _has_connection(pid)), None)

    def _forks(self, tool: str) -> list[int] | None:
        """Return the processes of a native tool: the one that waits for commands, and those that are one."""
        assert self.process.poll() is None, f"it ended before {tool} was seen: {self.end(expect=None)}"
        found = [
            pid
            for pid in descendants(self.process.pid)
            if command_line(pid).rstrip().endswith(f"/bin/{tool}")
        ]
        return found or None


def assert_same(expected: Snapshot, found: Snapshot) -> None:
    """Require two snapshots to be equal, and name the first few differences."""
    for what in ("releases", "locked", "heads", "structure", "checksums"):
        before, after = getattr(expected, what), getattr(found, what)
        assert after == before, f"{what}: {_differences(before, after)[:4]}"


def _differences(before: Any, after: Any) -> list[str]:
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        return [
            f"{key}: {more}"
            for key in sorted({*before, *after})
            if before.get(key) != after.get(key)
            for more in _differences(before.get(key), after.get(key))
        ]
    if isinstance(before, tuple) and isinstance(after, tuple):
        return [f"was {row}" for row in before if row not in after] + [
            f"is {row}" for row in after if row not in before
        ]
    return [f"was {before}, is {after}"]


def _part(snapshot: Snapshot, databases: tuple[str, ...]) -> object:
    """Return what a snapshot says of some databases on all nodes."""
    return {
        node: (
            {table: sum_ for table, sum_ in tables.items() if table.partition(".")[0] in databases},
            [row for row in snapshot.structure[node] if row[0].partition(".")[0] in databases],
        )
        for node, tables in snapshot.checksums.items()
    }


def _structure(session: Session) -> tuple[tuple[str, str], ...]:
    """Return columns, keys, triggers, views and routines of the services' databases, as this node has them."""
    place = "table_schema IN %s"
    queries = {
        f"SELECT CONCAT(table_schema, '.', table_name), CONCAT_WS(' ', column_name, ordinal_position, column_type,"
        f" is_nullable, column_default, extra) FROM information_schema.columns WHERE {place}",
        "SELECT CONCAT(table_schema, '.', table_name), CONCAT_WS(' ', index_name, seq_in_index, column_name,"
        f" non_unique) FROM information_schema.statistics WHERE {place}",
        f"SELECT CONCAT(table_schema, '.', table_name), CONCAT_WS(' ', constraint_name, constraint_type)"
        f" FROM information_schema.table_constraints WHERE {place}",
        "SELECT CONCAT(trigger_schema, '.', event_object_table), action_statement"
        " FROM information_schema.triggers WHERE trigger_schema IN %s",
        f"SELECT CONCAT(table_schema, '.', table_name), view_definition FROM information_schema.views WHERE {place}",
        "SELECT CONCAT(routine_schema, '.', routine_name), routine_definition"
        " FROM information_schema.routines WHERE routine_schema IN %s",
        "SELECT CONCAT(event_schema, '.', event_name), CONCAT_WS(' ', event_definition, status)"
        " FROM information_schema.events WHERE event_schema IN %s",
    }
    rows = [
        tuple(map(str, row.values())) for query in queries for row in session.rows(query, [ALL_DATABASES])
    ]
    return tuple(sorted((name, text) for name, text in rows))


EXPECTED_HEADS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "placement": {"placement": ("a082b8bb98d0",)},
    "keystone": {"keystone": ("742c857f1dfb", "c88cdce8f248")},
    "glance": {"glance": ("2024_1_contract01",)},
    "nova": {"nova_api": ("cdeec0c85668",), "nova_cell0": ("ab450ba04102",), "nova": ("ab450ba04102",)},
}


def eventually(
    ask: Callable[[], T | None], complaint: str, *, within_s: float = PATIENCE_S, every_s: float = 0.02
) -> T:
    """Return the first answer that is not None."""
    deadline = time.monotonic() + within_s
    while (answer := ask()) is None:
        assert time.monotonic() < deadline, complaint
        time.sleep(every_s)
    return answer


def descendants(pid: int) -> list[int]:
    """Return the process ids below a process."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError, IndexError, ValueError):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    found, todo = [], [pid]
    while todo:
        below = children.get(todo.pop(), [])
        found += below
        todo += below
    return found


def command_line(pid: int) -> str:
    """Return the words of a process, empty for one that is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def _has_connection(pid: int) -> bool:
    """Tell whether a process holds a socket; a tool opens its first one to the database."""
    with contextlib.suppress(OSError):
        return any(
            "socket:" in str(descriptor.readlink()) for descriptor in Path(f"/proc/{pid}/fd").iterdir()
        )
    return False
