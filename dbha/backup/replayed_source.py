"""A backup with archived logs replayed on it, on this machine, as the source of a service's restore.

All databases are replayed, so that a statement that reads another one finds what it found. Then the service's tables
are made ready for import: `FLUSH TABLES ... FOR EXPORT` writes all of them out, with the description of each beside
it. The server is killed while it holds them still; so no byte of them changes afterwards.
"""

import shutil
import subprocess
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dbha.backup.binlog.replay import ReplayPlace, replay
from dbha.backup.binlog.replay_plan import ReplayPlan
from dbha.backup.definitions import Definitions, read_definitions
from dbha.backup.manifest import Record, sealed, unsealed
from dbha.backup.prepared import MARKER
from dbha.backup.private_server import private_server
from dbha.backup.shelf import Shelf
from dbha.backup.tool_files import layout_options
from dbha.cluster.home import recorded_releases
from dbha.database import Session, identifier
from dbha.errors import FoundWrongError, UsageError
from dbha.heads import Heads, read_heads
from dbha.host import boot_id
from dbha.transport import LocalTransport
from dbha.workflow import StepContext

_REPLAYING = threading.Lock()  # all nodes ask for the tree side by side
_POOL_BYTES = 512 << 20


class ReplayedState(Record):
    """What the services are at after the replay; `boot_id` is of the life of this host that the files are from."""

    until: str
    boot_id: str
    definitions: Definitions
    heads: dict[str, tuple[str, ...]]
    releases: dict[str, str]


@dataclass(frozen=True, slots=True)
class ReplayedSource:
    """One backup, brought to one point in time in a place of its own; `plan` reads the archive."""

    shelf: Shelf
    backup_id: str
    until: str
    databases: tuple[str, ...]
    plan: Callable[[], ReplayPlan]

    @property
    def place(self) -> Path:
        """Where the tree is, and what is known of it."""
        return self.shelf.point(self.backup_id, self.until)

    @property
    def _tree(self) -> Path:
        return self.place / self.backup_id

    @property
    def _mark(self) -> Path:
        return self.place / "replay.json"

    @property
    def _state(self) -> Path:
        return self.place / "state.json"

    def prepare(self, context: StepContext) -> None:
        """Unpack and prepare the backup here, unless an earlier attempt went on from there."""
        if self._known() is None and not self._goes_on():
            shutil.rmtree(self.place, ignore_errors=True)
            replace(self.shelf, staging=self.place).prepared(self.backup_id, context.measure)

    def replay(self, context: StepContext) -> ReplayedState:
        """Return what the services are at, once all is replayed and ready for import.

        Raises ReplayFailedError when it does not come to exactly there, UsageError when a database was not there at
        that time.
        """
        known = self._known()
        if known is not None:
            return known
        self.prepare(context)
        (self._tree / MARKER).unlink(missing_ok=True)
        for description in self._tree.rglob(
            "*.cfg"
        ):  # of tables as they were; a DROP DATABASE trips over them
            description.unlink()
        replay(self._replay_place(), self.plan(), on_bytes=context.measure, guard=context.guard)
        state = self._export()
        self._state.write_bytes(sealed(state))
        return state

    def state(self) -> ReplayedState:
        """Return what `replay` found. Raises FoundWrongError when that is gone."""
        try:
            return unsealed(self._state.read_bytes(), ReplayedState, str(self._state))
        except FileNotFoundError as error:
            raise FoundWrongError(
                f"what was replayed is not in {self.place} any more",
                hint="dbha runs resume --roll-back     then restore again",
            ) from error

    def definitions(self) -> Definitions:
        """Return the structure of the databases at that time."""
        return self.state().definitions

    def prepared(self, context: StepContext) -> Path:
        """Return the tree with the service's tables ready for import, made again when it is gone."""
        with _REPLAYING:
            self.replay(context)
        return self._tree

    def prepared_apart(self, context: StepContext) -> Path:
        """Return a copy of the tree, which a server may write to."""
        apart = self.place / "apart"
        tree = self.prepared(context)
        shutil.rmtree(apart, ignore_errors=True)
        subprocess.run(("cp", "-a", "--reflink=auto", "--", tree, apart), check=True)
        return apart

    def _known(self) -> ReplayedState | None:
        """Return what an earlier attempt found, if the files that belong to it are as it left them."""
        try:
            known = self.state()
        except FoundWrongError:
            return None
        whole = known.boot_id == boot_id() and known.until == self.until and self._tree.is_dir()
        return known if whole else None

    def _goes_on(self) -> bool:
        """Tell whether a replay was begun here that can go on: the host was not restarted since."""
        return self._mark.exists() and boot_id() in self._mark.read_text() and self._tree.is_dir()

    def _replay_place(self) -> ReplayPlace:
        layout = (self._tree / "backup-my.cnf").read_text()
        return ReplayPlace(
            LocalTransport(), str(self._tree), str(self._mark), _POOL_BYTES, layout_options(layout)
        )

    def _export(self) -> ReplayedState:
        with private_server(self._tree, pool_bytes=_POOL_BYTES) as server, server.session() as session:
            self._require_databases(session)
            definitions = read_definitions(session, self.databases)
            heads: Heads = read_heads(session, self.databases)
            releases = recorded_releases(session)
            _hold_for_export(session, definitions)
            server.kill()
        return ReplayedState(
            until=self.until,
            boot_id=boot_id(),
            definitions=definitions,
            heads=dict(heads),
            releases=releases,
        )

    def _require_databases(self, session: Session) -> None:
        there = set(session.column("SELECT schema_name FROM information_schema.schemata"))
        if missing := [name for name in self.databases if name not in there]:
            raise UsageError(
                f"after {self.until} there was no database {', '.join(missing)}",
                hint="dbha restore --to     with another point in time",
            )


def _hold_for_export(session: Session, definitions: Definitions) -> None:
    """Write out every table that can be imported; nothing changes them while the session lasts."""
    tables = [
        f"{identifier(database)}.{identifier(table)}"
        for database, known in definitions.databases.items()
        for table in known.tables
        if not _is_unusual(table, known.unusual)
    ]
    if tables:
        session.execute(f"FLUSH TABLES {', '.join(tables)} FOR EXPORT")


def _is_unusual(table: str, unusual: Sequence[str]) -> bool:
    return any(each.startswith(f"table {table} (") for each in unusual)
