"""The archive: a directory of logs, `TIMELINE/NODE/FILE`, each sealed by a record `FILE.json` written last.

`TIMELINE/NODE/open/` has the logs that are being fetched. What a fetch that was cut off left there is sealed up
to its last whole transaction before the next one begins, so nothing that was once here is fetched for nothing.
Directories and files are for their owner only: logs hold every row, and passwords as they were set.
"""

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from dbha import __version__
from dbha.backup.binlog.events import LogReader
from dbha.backup.binlog.gtid import parse_gtid
from dbha.backup.binlog.records import ArchivedLog, RunBuilder, Sighting
from dbha.backup.binlog.windows import Restorable, Window, restorable, windows_of
from dbha.backup.manifest import M, Manifest, sealed, unsealed
from dbha.errors import BusyError, DbhaError, FoundWrongError

OPEN, RECORD, SIGHTING = "open", ".json", "sighting.json"
_LOCK = ".lock"


class ArchiveError(DbhaError):
    """The archive could not take a log."""

    exit_code = 6
    unchanged = "what was archived before is as it was"


@dataclass(frozen=True, slots=True)
class LogPart:
    """As much of a log as is archived: sealed, or still being fetched (then without a sha256)."""

    path: Path
    record: ArchivedLog
    sealed: bool

    def now(self) -> Path:
        """Return where the log is: what was being fetched may have been sealed since, with the same bytes."""
        if not self.sealed and not self.path.exists():
            mine = self.record
            for part in _sealed_in(self.path.parents[1]):
                other = part.record
                if other.name == mine.name and other.begin <= mine.begin and mine.end <= other.end:
                    return part.path
        return self.path


@dataclass(frozen=True, slots=True)
class History:
    """Everything archived of one timeline."""

    timeline: str
    parts: tuple[LogPart, ...]
    sighting: Sighting | None

    @property
    def local_domains(self) -> frozenset[int]:
        """The domains in which nodes log what they did for themselves alone."""
        known = [part.record.local_domains for part in self.parts]
        if self.sighting:
            known.append(self.sighting.local_domains)
        return frozenset(domain for domains in known for domain in domains)

    @property
    def windows(self) -> tuple[Window, ...]:
        """What is archived without a gap."""
        return windows_of([run for part in self.parts for run in part.record.runs], self.sighting)


class Archive:
    """The archive in a directory; what it lists is read anew each time."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @contextmanager
    def only_one(self) -> Iterator[None]:
        """Hold the right to write to this archive. Raises BusyError while another process has it."""
        make_private(self.directory)
        with (self.directory / _LOCK).open("a") as lock:
            if not _locked(lock.fileno()):
                raise BusyError(
                    f"another process archives into {self.directory}",
                    hint="dbha backup archive --status",
                )
            yield

    def is_busy(self) -> bool:
        """Return whether a process archives now."""
        with contextlib.suppress(FileNotFoundError), (self.directory / _LOCK).open("rb") as lock:
            return not _locked(lock.fileno())
        return False

    def place(self, timeline: str, node: str) -> Path:
        """Return where the logs of a node go, made if need be."""
        place = self.directory / timeline / node
        make_private(place / OPEN)
        return place

    def timelines(self) -> tuple[str, ...]:
        """Return the timelines of which something is archived."""
        if not self.directory.is_dir():
            return ()
        return tuple(sorted(path.name for path in self.directory.iterdir() if path.is_dir()))

    def history(self, timeline: str) -> History:
        """Return what is archived of a timeline. Raises FoundWrongError for a record that was changed."""
        place = self.directory / timeline
        sighting = self._sighting(timeline)
        local = sighting.local_domains if sighting else ()
        parts = [part for node in _directories(place) for part in (*_sealed_in(node), *_open_in(node, local))]
        return History(timeline, tuple(parts), sighting)

    def restorable(self, manifests: Sequence[Manifest]) -> dict[str, Restorable]:
        """Return up to where each backup can be brought with what is archived now, by its id."""
        found: dict[str, Restorable] = {}
        histories: dict[str, History] = {}
        for manifest in manifests:
            try:
                if manifest.timeline not in histories:
                    histories[manifest.timeline] = self.history(manifest.timeline)
                known = histories[manifest.timeline]
                found[manifest.id] = restorable(manifest.gtid, known.windows, known.local_domains)
            except (FoundWrongError, ValueError) as error:
                found[manifest.id] = Restorable(reason=str(error))
            except OSError as error:
                found[manifest.id] = Restorable(reason=f"{self.directory} cannot be read: {error.strerror}")
        return found

    def record_sighting(self, sighting: Sighting) -> None:
        """Keep up to when the archive is known to be complete."""
        _write_durably(self.directory / sighting.timeline / SIGHTING, sealed(sighting))

    def seal(self, path: Path, local_domains: Collection[int]) -> ArchivedLog | None:
        """Take a log out of `open` into the archive, up to its last whole transaction, and return its record.

        Returns None for a log with no transaction that has a number of the cluster; it is removed. Raises
        ArchiveError when the archive cannot take it; it stays where it is then.
        """
        try:
            return _seal(path, local_domains)
        except OSError as error:
            raise ArchiveError(
                f"the archive cannot take {path.name}: {error.strerror or error}",
                hint=f"make room in {self.directory}, then dbha backup archive again",
            ) from error

    def seal_leftovers(self, local_domains: Collection[int], on_line: Callable[[str], None]) -> None:
        """Seal what fetches left that ended or were cut off. A log that is damaged is renamed, and said."""
        for path in sorted(self.directory.glob(f"*/*/{OPEN}/*")):
            timeline = path.parents[2].name
            sighting = self._sighting(timeline)
            try:
                self.seal(path, {*local_domains, *(sighting.local_domains if sighting else ())})
            except FoundWrongError as error:
                path.replace(path.parents[1] / f"{path.name}.damaged")
                on_line(f"{error}; it is kept as {path.name}.damaged, and fetched again if a node has it")

    def _sighting(self, timeline: str) -> Sighting | None:
        path = self.directory / timeline / SIGHTING
        if not path.exists():
            return None
        return _read(path, Sighting)


def describe(reader: LogReader, runs: RunBuilder, node: Path, local_domains: Collection[int]) -> ArchivedLog:
    """Return the record of what a reader has read of a log; it has no sha256 of its own before it is sealed."""
    found = runs.runs(reader)
    return ArchivedLog(
        timeline=node.parent.name,
        node=node.name,
        name=reader.path.name,
        file=f"{reader.path.name}.{parse_gtid(found[0].first).sequence}-{found[-1].end}",
        size_bytes=reader.whole_bytes,
        content_sha256="0" * 64,
        local_domains=tuple(sorted(local_domains)),
        runs=found,
        archived=datetime.now(UTC),
        dbha_version=__version__,
    )


def make_private(directory: Path) -> None:
    """Make a directory, and those above it, for their owner only."""
    for missing in (each for each in (*reversed(directory.parents), directory) if not each.exists()):
        missing.mkdir(mode=0o700, exist_ok=True)


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _seal(path: Path, local_domains: Collection[int]) -> ArchivedLog | None:
    node = path.parents[1]
    runs = RunBuilder(local_domains)
    with LogReader(path) as reader:
        runs.add(reader.transactions())
        if not runs.runs(reader):
            path.unlink()
            return None
        record = describe(reader, runs, node, local_domains)
    target = node / record.file
    if not target.with_name(target.name + RECORD).exists():  # else these very transactions are here already
        os.truncate(path, record.size_bytes)
        path.chmod(0o600)
        record = record.model_copy(update={"content_sha256": sha256_of(path)})
        _sync(path)
        path.replace(target)
        _sync(node)
        _write_durably(target.with_name(target.name + RECORD), sealed(record))
    else:
        path.unlink()
    _forget_shorter(node, record)
    return record


def _forget_shorter(node: Path, record: ArchivedLog) -> None:
    """Remove earlier, shorter copies of the same log, the record first: a log without one does not count."""
    for part in _sealed_in(node):
        other = part.record
        within = record.begin <= other.begin and other.end <= record.end
        if other.name == record.name and other.file != record.file and within:
            part.path.with_name(part.path.name + RECORD).unlink()
            part.path.unlink(missing_ok=True)


def _sealed_in(node: Path) -> Sequence[LogPart]:
    found = []
    for path in sorted(node.glob(f"*{RECORD}")):
        record = _read(path, ArchivedLog)
        found.append(LogPart(node / record.file, record, sealed=True))
    return found


def _read(path: Path, kind: type[M]) -> M:
    try:
        return unsealed(path.read_bytes(), kind, str(path))
    except FoundWrongError as error:
        raise FoundWrongError(
            str(error), hint=f"move {path.name} out of {path.parent}: what it describes is missing then"
        ) from error


def _open_in(node: Path, local_domains: Collection[int]) -> Iterator[LogPart]:
    """Yield what is being fetched, as far as its transactions are whole."""
    for path in sorted((node / OPEN).glob("*")):
        runs = RunBuilder(local_domains)
        with contextlib.suppress(FileNotFoundError), LogReader(path) as reader:  # sealed just now
            runs.add(reader.transactions())
            if runs.runs(reader):
                yield LogPart(path, describe(reader, runs, node, local_domains), sealed=False)


def _directories(place: Path) -> Iterator[Path]:
    if place.is_dir():
        yield from sorted(path for path in place.iterdir() if path.is_dir())


def _write_durably(path: Path, content: bytes) -> None:
    new = path.with_name(f"{path.name}.new")
    with open(new, "wb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def stored_bytes(directory: Path) -> int:
    """Return how much room an archive takes, in bytes."""
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
