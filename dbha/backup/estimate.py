"""How much room a backup needs, and where; asked before anything is written."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dbha.backup.manifest import Scope
from dbha.backup.pipeline import SYSTEM_DATABASE
from dbha.backup.store import Store
from dbha.database import Session
from dbha.errors import UnreachableError, UnsafeError
from dbha.transport import LocalTransport, Transport

MARGIN_BYTES = 64 << 20
FIRST_RATIO = 0.6  # stored to raw, while no earlier backup tells better; zstd does better on most tables
FIRST_SHARE = 0.1  # of a full backup, while no earlier incremental one tells better
GROWTH = 1.2
REPLAY_GROWTH = 3  # of data for each byte of logs: the server logs them again, and rows have indexes
_SYSTEM_TABLESPACE = "innodb_system"


@dataclass(frozen=True, slots=True)
class DataSize:
    """What a donor holds: `all_bytes` of the whole server, `database_bytes` of the databases asked for."""

    all_bytes: int
    database_bytes: int


@dataclass(frozen=True, slots=True)
class Room:
    """Room that is needed somewhere; places on one `filesystem` share its free bytes."""

    place: str
    filesystem: str
    needed_bytes: int
    free_bytes: int


def data_size(session: Session, databases: Sequence[str]) -> DataSize:
    """Return the size of the donor's tablespace files in bytes."""
    rows = session.rows("SELECT name, file_size AS bytes FROM information_schema.innodb_sys_tablespaces")
    return DataSize(
        all_bytes=sum(int(row["bytes"]) for row in rows),
        database_bytes=sum(int(row["bytes"]) for row in rows if row["name"].partition("/")[0] in databases),
    )


def size_in_scope(session: Session, databases: Sequence[str], scope: Scope) -> int:
    """Return how many bytes of tablespaces a backup of this scope copies; `databases` are those of its services."""
    if scope is Scope.CLUSTER:
        return data_size(session, databases).all_bytes
    return data_size(session, (*databases, SYSTEM_DATABASE, _SYSTEM_TABLESPACE)).database_bytes


def stored_estimate(data_bytes: int, ratio: float | None) -> int:
    """Return how many bytes a backup will probably take in the store; `ratio` is that of an earlier one."""
    return round(data_bytes * (FIRST_RATIO if ratio is None else ratio))


def incremental_estimate(data_bytes: int, ratio: float | None, full_ratio: float | None) -> int:
    """Return how many bytes an incremental backup will probably take; `ratio` is an earlier one's to all data."""
    if ratio is None:
        return round(stored_estimate(data_bytes, full_ratio) * FIRST_SHARE)
    return round(data_bytes * ratio)


def store_needs(data_bytes: int, ratio: float | None) -> int:
    """Return the room in bytes that the store must have for one more full backup."""
    return with_margin(stored_estimate(data_bytes, ratio))


def with_margin(estimated_bytes: int) -> int:
    """Return the room in bytes that there must be for something of about this size."""
    return round(estimated_bytes * GROWTH) + MARGIN_BYTES


def staging_needs(data_bytes: int, log_bytes: int = 512 << 20) -> int:
    """Return the room in bytes for unpacking and preparing a backup; prepare writes a redo log of its own."""
    return round(data_bytes * GROWTH) + log_bytes


def node_needs(database_bytes: int) -> int:
    """Return the room in bytes on each node for a restore: old and new tables lie there side by side."""
    return round(database_bytes * GROWTH) + MARGIN_BYTES


def local_room(place: str, directory: Path, needed_bytes: int) -> Room:
    """Return the room at a directory of this machine, or at its nearest parent that exists."""
    existing = next(path for path in (directory, *directory.parents) if path.exists())
    return room_at(place, LocalTransport(), str(existing), needed_bytes)


def room_at(place: str, transport: Transport, directory: str, needed_bytes: int) -> Room:
    """Return the room at a directory of a host. Raises UnreachableError when the host does not tell."""
    done = transport.run(("df", "--block-size=1", "--output=target,avail", directory))
    words = done.text().rpartition("\n")[2].rsplit(maxsplit=1)
    if done.returncode != 0 or len(words) != 2 or not words[1].isdigit():
        raise UnreachableError(f"{place}: cannot tell the free room at {directory} on {transport.host}")
    return Room(place, f"{transport.host}:{words[0]}", needed_bytes, int(words[1]))


def room_in(store: Store, needed_bytes: int) -> tuple[Room, ...]:
    """Return the room in a store; nothing when the store does not tell, as with S3."""
    if store.directory is not None:
        return (local_room("the backup store", store.directory, needed_bytes),)
    free_bytes = store.free_bytes()
    return () if free_bytes is None else (Room(store.where, store.where, needed_bytes, free_bytes),)


def check_room(rooms: Iterable[Room]) -> None:
    """Raise UnsafeError with the figures of every file system that has too little room for all it is to hold."""
    by_filesystem: dict[str, list[Room]] = defaultdict(list)
    for room in rooms:
        by_filesystem[room.filesystem].append(room)
    short = [
        f"{' and '.join(room.place for room in group)}: {in_mib(needed)} needed, {in_mib(free)} free"
        for group in by_filesystem.values()
        if (needed := sum(room.needed_bytes for room in group))
        > (free := min(room.free_bytes for room in group))
    ]
    if short:
        raise UnsafeError(
            f"too little room: {'; '.join(short)}",
            hint="dbha backup list, dbha backup delete ID     or put the store on a larger file system",
        )


def in_mib(size_bytes: int) -> str:
    """Return a size for a message, rounded up to whole MiB."""
    return f"{-(-size_bytes // (1 << 20)):,} MiB"
