"""Which bytes of which logs bring a backup to a point in time. Reads and verifies the archive, changes nothing."""

from dataclasses import dataclass

from dbha.backup.binlog.archive import Archive, History, LogPart, sha256_of
from dbha.backup.binlog.events import LogReader
from dbha.backup.binlog.gtid import Gtid, latest, parse_gtid, parse_gtids
from dbha.backup.binlog.records import Run
from dbha.backup.binlog.target import BeforeGtid, BeforeTime, Target
from dbha.backup.binlog.windows import Window, restorable
from dbha.backup.manifest import Manifest
from dbha.errors import FoundWrongError, UnsafeError

_STATUS = "dbha backup archive --status     shows the windows and gaps"


@dataclass(frozen=True, slots=True)
class Segment:
    """The part of one log from byte `begin` to byte `end`, which has the transactions `first` to `last`."""

    part: LogPart
    first: Gtid
    last: Gtid
    begin: int
    end: int

    @property
    def size_bytes(self) -> int:
        """How much of the log is replayed."""
        return self.end - self.begin


@dataclass(frozen=True, slots=True)
class ReplayPlan:
    """What brings the backup, which ends with transaction `start`, to the transaction `until`, the last one."""

    backup_id: str
    start: Gtid
    until: Gtid
    segments: tuple[Segment, ...]
    local_domains: frozenset[int]

    @property
    def size_bytes(self) -> int:
        """How many bytes of logs are replayed."""
        return sum(segment.size_bytes for segment in self.segments)


def plan_replay(archive: Archive, manifest: Manifest, target: Target) -> ReplayPlan:
    """Return what has to be replayed on a backup, every log of it verified.

    Raises UnsafeError when the target is before the backup, after the end of what is archived without a gap
    (the missing GTIDs are named), or a GTID that was never given; FoundWrongError when a log was changed.
    """
    history = archive.history(manifest.timeline)
    start = latest(parse_gtids(manifest.gtid), history.local_domains)
    reach = restorable(manifest.gtid, history.windows, history.local_domains)
    if start is None or reach.gtid is None:
        raise UnsafeError(f"backup {manifest.id} cannot be brought further: {reach.reason}", hint=_STATUS)
    end = parse_gtid(reach.gtid)
    window = next(window for window in history.windows if window.end == end.sequence)
    _require_within(manifest, start, target, window, reach.reason)
    segments = _segments(history, start.sequence, end.sequence, target)
    until = segments[-1].last if segments else start
    if isinstance(target, BeforeGtid):
        _require_given(history, target.gtid)
    return ReplayPlan(manifest.id, start, until, segments, history.local_domains)


def cut_after(segment: Segment, sequence: int, local_domains: frozenset[int]) -> Segment | None:
    """Return what is left of a segment once the transactions up to number `sequence` are there."""
    if segment.last.sequence <= sequence:
        return None
    if segment.first.sequence > sequence:
        return segment
    with LogReader(segment.part.now()) as reader:
        for found in reader.transactions():
            if found.gtid.domain not in local_domains and found.gtid.sequence > sequence:
                return Segment(segment.part, found.gtid, segment.last, found.begin, segment.end)
    raise FoundWrongError(f"{segment.part.path.name} does not have transaction {sequence + 1} any more")


def _require_within(
    manifest: Manifest, start: Gtid, target: Target, window: Window, why_no_further: str
) -> None:
    until = f"{window.last}, {window.time:%Y-%m-%dT%H:%M:%SZ}" + (
        f": {why_no_further}" if why_no_further else ""
    )
    if isinstance(target, BeforeTime):
        if target.time < manifest.finished:
            raise UnsafeError(
                f"backup {manifest.id} was finished at {manifest.finished:%Y-%m-%dT%H:%M:%SZ},"
                f" after {target.time:%Y-%m-%dT%H:%M:%SZ}",
                hint="dbha backup list     shows older ones",
            )
        if target.time > window.time:
            raise UnsafeError(
                f"{target.time:%Y-%m-%dT%H:%M:%SZ} cannot be reached: the logs end with {until}", hint=_STATUS
            )
    if isinstance(target, BeforeGtid):
        if target.gtid.sequence <= start.sequence:
            raise UnsafeError(
                f"backup {manifest.id} already has {target.gtid}: it ends with {start}",
                hint="dbha backup list     shows older ones",
            )
        if target.gtid.sequence > window.end:
            raise UnsafeError(f"{target.gtid} cannot be reached: the logs end with {until}", hint=_STATUS)


def _require_given(history: History, gtid: Gtid) -> None:
    """Refuse a GTID whose number another one has: the operator means something else."""
    for part in history.parts:
        if not part.record.begin <= gtid.sequence <= part.record.end:
            continue
        with LogReader(part.path) as reader:
            for found in reader.transactions():
                if found.gtid.sequence == gtid.sequence and found.gtid.domain not in history.local_domains:
                    if found.gtid != gtid:
                        raise UnsafeError(
                            f"there is no {gtid}: that transaction is {found.gtid}", hint=_STATUS
                        )
                    return


def _segments(history: History, start: int, end: int, target: Target) -> tuple[Segment, ...]:
    found: list[Segment] = []
    done = start
    while done < end:
        part, run = _longest_from(history, done + 1)
        segment, reached = _read(part, done + 1, min(run.end, end), target, history.local_domains)
        if segment:
            found.append(segment)
        if reached:
            break
        done = run.end
    return tuple(found)


def _longest_from(history: History, sequence: int) -> tuple[LogPart, Run]:
    """Return the log that has a transaction and the most after it without a gap."""
    return max(
        (
            (part, run)
            for part in history.parts
            for run in part.record.runs
            if run.begin <= sequence <= run.end
        ),
        key=lambda found: (found[1].end, found[0].sealed, found[0].record.node),
    )


def _read(
    part: LogPart, first: int, last: int, target: Target, local_domains: frozenset[int]
) -> tuple[Segment | None, bool]:
    """Return the transactions of these numbers as a segment, and whether the target came before the last."""
    if part.sealed and sha256_of(part.path) != part.record.content_sha256:
        raise FoundWrongError(
            f"the archived log {part.path} was changed since it was archived: its sha256 is another",
            hint="choose a GTID or a time before it",
        )
    segment: Segment | None = None
    with LogReader(part.path) as reader:
        for found in reader.transactions():
            if found.gtid.domain in local_domains or found.gtid.sequence < first:
                continue
            if found.gtid.sequence > last:
                break
            if target.reached(found):
                return segment, True
            begin = segment.begin if segment else found.begin
            segment = Segment(part, segment.first if segment else found.gtid, found.gtid, begin, found.end)
    if segment is None or segment.last.sequence != last:
        raise FoundWrongError(f"{part.path} does not have transaction {last} any more", hint=_STATUS)
    return segment, False
