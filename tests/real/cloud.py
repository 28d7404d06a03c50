"""A small cloud on a real cluster for tests of the main job, through the command line only.

All tests of a process share one sandbox: four services synced at 2025.1 and a synthetic cloud. A test may leave
anything behind; `Cloud.reset` puts right what is different before the next one begins.
"""

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from dbha.backup.aside import asides_in
from dbha.backup.proof import checksums_everywhere
from dbha.cluster.handle import Cluster
from dbha.cluster.home import record_release
from dbha.database import Account, Session
from dbha.heads import read_heads
from dbha.journal import Journal, RunRecord
from dbha.sandbox import up
from dbha.sandbox.ledger import TABLES, LedgerReport, WriterProcess, WriterSettings, check, erase
from dbha.secrets import Secret
from tests.real.commands import DBHA, Said, Started
from tests.real.conftest import RunningSandbox
from tests.real.processes import command_line
from tests.real.snapshot import Snapshot, assert_same, part_of, structure_of

OLD, NEW = "2025.1", "2026.2"
INSTANCES = 300
DATABASES: Mapping[str, tuple[str, ...]] = {
    "placement": ("placement",),
    "keystone": ("keystone",),
    "glance": ("glance",),
    "nova": ("nova_api", "nova_cell0", "nova"),
}
ALL_DATABASES = tuple(name for names in DATABASES.values() for name in names)

# Names that the second statement of a migration creates: it fails there, and what the first one did stays.
LEFT_OVER_IN_KEYSTONE = ("keystone", "revocation_event", "ix_revocation_event_composite", "audit_id")
LEFT_OVER_IN_NOVA = ("nova", "migrations", "migrations_by_src_host_nodes_and_status_idx", "uuid")


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
            command = Started(self.session, arguments, process)
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
            structure=self._on_each(lambda session: structure_of(session, ALL_DATABASES)),
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
            if part_of(now, databases) != part_of(self.before, databases):
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


EXPECTED_HEADS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "placement": {"placement": ("a082b8bb98d0",)},
    "keystone": {"keystone": ("742c857f1dfb", "c88cdce8f248")},
    "glance": {"glance": ("2024_1_contract01",)},
    "nova": {"nova_api": ("cdeec0c85668",), "nova_cell0": ("ab450ba04102",), "nova": ("ab450ba04102",)},
}
