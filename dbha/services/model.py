"""What a service is, as data: databases, the schemas they hold, native commands, what exit codes mean.

Nothing here runs anything, and nothing here knows a service by name.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

# A server's default collation changes between versions (MariaDB 11.5, MySQL 8.4); a new table's foreign key
# to an old table then fails in the middle of a sync. So databases say what OpenStack's tables were made with.
CHARACTER_SET = "utf8mb3"
COLLATION = "utf8mb3_general_ci"

_HIGHEST_SIGNAL = 64


class SyncMethod(StrEnum):
    """How schemas are brought up to date: in one go, or in expand, migrate and contract."""

    OFFLINE = "offline"
    PHASES = "phases"


class Outcome(StrEnum):
    """What a native command's exit code says about the state it left behind."""

    DONE = "done"
    ALREADY = "already"  # it was so before; nothing was changed
    MORE = "more"  # it worked, or looked, and there is more to do
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Meaning:
    """What one exit code of one command means, with a sentence for the operator."""

    outcome: Outcome
    sentence: str

    @property
    def is_success(self) -> bool:
        """True when the command has nothing left to do."""
        return self.outcome in (Outcome.DONE, Outcome.ALREADY)


ExitTable = Mapping[int, Meaning]


@dataclass(frozen=True, slots=True)
class Schema:
    """A line of alembic migrations in a service's code; several databases can share one (nova's cells)."""

    name: str
    package: str
    alembic_ini: str  # below the package
    config_function: str = ""  # `module:function` of the service that returns the configuration alembic gets


@dataclass(frozen=True, slots=True)
class Database:
    """One database of a service and the schema it holds; `cell` is its name in nova's cell mappings."""

    name: str
    schema: Schema
    cell: str = ""
    character_set: str = CHARACTER_SET
    collation: str = COLLATION


@dataclass(frozen=True, slots=True)
class Connection:
    """The configuration section through which a command finds a database.

    `password_apart` is for tools that cannot read a URL with a percent sign, as in an encoded password; it then
    goes into the section's `connection_parameters`.
    """

    section: str
    database: str
    password_apart: bool = False


@dataclass(frozen=True, slots=True)
class NativeCommand:
    """A command of the service's own tool, the connections it needs, and what its exit codes mean."""

    title: str
    tool: str
    arguments: tuple[str, ...]
    connections: tuple[Connection, ...]
    exits: ExitTable = field(repr=False, hash=False)
    options: tuple[tuple[str, str, str], ...] = ()  # further (section, option, value)

    @property
    def argv(self) -> tuple[str, ...]:
        """The tool and its arguments; the configuration, and so the password, comes on standard input.

        The empty configuration directory keeps the machine's drop-in files out: they would win over ours.
        """
        return (self.tool, "--config-file", "/dev/stdin", "--config-dir", "/dev/null", *self.arguments)

    def meaning_of(self, returncode: int) -> Meaning:
        """Return what the exit code means; a code that no table has is a failure."""
        if returncode in self.exits:
            return self.exits[returncode]
        signal = -returncode if returncode < 0 else returncode - 128
        if 0 < signal <= _HIGHEST_SIGNAL:
            return failed(f"it was ended by signal {signal}: what it was changing may be half changed")
        return failed(f"exit code {returncode} is none that this tool is known to use")


Stage = tuple[NativeCommand, ...]  # may run side by side; a stage starts when the one before it is done


@dataclass(frozen=True, slots=True)
class Service:
    """A service's databases (one consistency group), its processes' account, and its native commands."""

    name: str
    distribution: str  # its name as a Python package
    databases: tuple[Database, ...]
    account: str
    sync: Mapping[SyncMethod, tuple[Stage, ...]] = field(repr=False, hash=False)
    check: NativeCommand | None = None  # asks the tool itself whether the schema is current
    online_migrations: NativeCommand | None = (
        None  # moves data in batches, once the services run the new code
    )

    @property
    def database_names(self) -> tuple[str, ...]:
        """The names of all databases, in the order they are synced."""
        return tuple(database.name for database in self.databases)

    @property
    def tools(self) -> tuple[str, ...]:
        """The tools its commands call."""
        stages = self.sync[SyncMethod.OFFLINE]
        return tuple(dict.fromkeys(command.tool for stage in stages for command in stage))

    def stages(self, method: SyncMethod = SyncMethod.OFFLINE) -> tuple[Stage, ...]:
        """Return the stages of a sync; a service whose tool knows no phases is synced in one go."""
        return self.sync.get(method, self.sync[SyncMethod.OFFLINE])


def exits(done: str, others: ExitTable) -> ExitTable:
    """Return an exit table in which 0 means `done`."""
    return MappingProxyType({0: Meaning(Outcome.DONE, done), **others})


def failed(sentence: str) -> Meaning:
    """Return the meaning of a code that says it failed."""
    return Meaning(Outcome.FAILED, sentence)


def more(sentence: str) -> Meaning:
    """Return the meaning of a code that says there is more to do."""
    return Meaning(Outcome.MORE, sentence)


HALF_APPLIED = "the migration it stopped in may be half applied, and then every retry fails: restore"
BAD_ARGUMENTS = failed("the tool refused its arguments or its configuration; nothing was changed")

SYNC_EXITS = exits(
    "the schema is synced",
    {1: failed(f"the sync stopped with an error; {HALF_APPLIED}"), 2: BAD_ARGUMENTS},
)
MIGRATION_EXITS = exits(
    "no data is left to migrate",
    {
        1: more("a batch was migrated and there may be more: run it again"),
        2: failed("some rows could not be migrated and no others made progress; the schema is untouched"),
        255: failed("the data migration stopped with an error; the schema is untouched"),
    },
)
