"""Archive the logs of one node after the other, as long as nobody says stop.

Nothing of the cluster is changed, so this needs neither lock nor lease of it. What is archived is known from the
archive alone, so it can be ended anywhere and begun again.
"""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from dbha.backup.binlog.archive import OPEN, Archive
from dbha.backup.binlog.events import LogReader
from dbha.backup.binlog.fetch import Fetch, fetching
from dbha.backup.binlog.records import RunBuilder, Sighting
from dbha.backup.binlog.source import Source, choose_source, first_log, read_source
from dbha.cluster.assess import assess
from dbha.cluster.handle import Cluster
from dbha.cluster.observe import observe
from dbha.errors import UnreachableError, UnsafeError

POLL_S = 0.5
PAUSE_S = 1.0  # between one fetch and the next
LOOK_S = 5.0  # how often the nodes are asked whether the one in use is still the right one
_PATIENCE_S = 30.0  # for a single fetch to get what the node had when it was asked


class Archiver:
    """Fetches from one node at a time into an archive that this process has for itself."""

    def __init__(
        self,
        cluster: Cluster,
        archive: Archive,
        *,
        observe_timeout_s: float,
        on_line: Callable[[str], None],
        stop: threading.Event,
    ) -> None:
        self._cluster, self._archive = cluster, archive
        self._timeout_s = observe_timeout_s
        self._on_line, self._stop = on_line, stop
        self._local_domains: frozenset[int] = frozenset()
        self._ends: dict[str, int] = {}  # the number up to which each timeline is archived
        self._distrusted: set[str] = set()  # nodes whose numbers are not those of the cluster
        self._said = ""

    def run(self) -> None:
        """Archive until `stop` is set. Whatever nodes do, it waits for one that serves.

        Raises UnsafeError when the servers are not set up for it, ArchiveError when there is no room.
        """
        with self._archive.only_one():
            current = ""
            while not self._stop.is_set():
                try:
                    source = self._choose(current)
                    current = source.node
                    self._follow(source)
                except UnreachableError as error:
                    self._say(f"waiting: {error}")
                finally:
                    self._seal_leftovers()
                self._stop.wait(PAUSE_S)

    def run_once(self) -> None:
        """Archive what there is now. Raises UnreachableError when no node serves, or the fetch broke off."""
        with self._archive.only_one():
            try:
                self._fetch_all(self._choose(""))
            finally:
                self._seal_leftovers()

    def _fetch_all(self, source: Source) -> None:
        place, first = self._begin(source)
        with fetching(
            self._cluster, self._cluster.node(source.node), place / OPEN, first, forever=False
        ) as fetch:
            while not fetch.wait(POLL_S):
                if self._stop.is_set():
                    return
        if problem := fetch.problem():
            raise UnreachableError(
                f"fetching from {source.node} broke off: {problem}",
                unchanged="what was archived before is as it was",
            )
        with _Growing(place / OPEN, self._local_domains) as growing:
            self._sight(source, growing.last_sequence())

    def _follow(self, source: Source) -> None:
        """Fetch from a node until it ends, another one is better, or somebody says stop."""
        place, first = self._begin(source)
        node = self._cluster.node(source.node)
        with (
            fetching(self._cluster, node, place / OPEN, first, forever=True) as fetch,
            _Growing(place / OPEN, self._local_domains) as growing,
        ):
            next_look_s = time.monotonic() + LOOK_S
            self._sight_when_there(source, growing, fetch)
            while not self._stop.is_set() and not fetch.wait(POLL_S):
                self._seal_finished(growing)
                growing.last_sequence()
                if growing.renumbered:
                    self._distrusted.add(source.node)
                    self._on_line(
                        f"{source.node} gives other GTIDs than the other nodes: it is not used any more"
                    )
                    return
                if time.monotonic() >= next_look_s:
                    latest_word = self._choose(source.node, growing.last_sequence())
                    if (latest_word.node, latest_word.timeline) != (source.node, source.timeline):
                        return
                    self._sight(latest_word, growing.last_sequence())
                    next_look_s = time.monotonic() + LOOK_S
        if fetch.process.returncode and not self._stop.is_set():
            raise UnreachableError(f"fetching from {source.node} broke off: {fetch.problem()}")

    def _begin(self, source: Source) -> tuple[Path, str]:
        self._seal_leftovers()
        windows = self._archive.history(source.timeline).windows
        archived = windows[-1].end if windows else None
        self._ends[source.timeline] = archived or 0
        first = first_log(source, archived)
        if archived is not None and source.logs[0].after > archived:
            self._on_line(
                f"no node has the transactions {archived + 1} to {source.logs[0].after} any more: there is a gap"
            )
        self._say(f"archiving from {source.node}, from {first} on")
        return self._archive.place(source.timeline, source.node), first

    def _seal_finished(self, growing: "_Growing") -> None:
        """Seal every log but the last: the node writes to a new one only when the one before is complete."""
        for path in growing.finished():
            record = self._archive.seal(path, self._local_domains)
            if record:
                self._on_line(f"archived {record.name} of {record.node}: to {record.runs[-1].last}")

    def _sight_when_there(self, source: Source, growing: "_Growing", fetch: Fetch) -> None:
        """Note that the archive is complete as soon as it has what the node had when it was asked."""
        deadline_s = time.monotonic() + _PATIENCE_S
        while time.monotonic() < deadline_s and not self._stop.is_set():
            self._seal_finished(growing)
            if self._sight(source, growing.last_sequence()) or fetch.wait(POLL_S / 5):
                return

    def _sight(self, source: Source, fetched: int) -> bool:
        """Record that nothing newer than what is archived was there; return whether that is so."""
        reached = max(fetched, self._ends.get(source.timeline, 0))
        if source.position is None or reached < source.position.sequence:
            return False
        self._archive.record_sighting(
            Sighting(
                timeline=source.timeline,
                node=source.node,
                gtid=str(source.position),
                time=source.now,
                local_domains=tuple(sorted(self._local_domains)),
            )
        )
        return True

    def _choose(self, current: str, fetched: int = 0) -> Source:
        """Ask all nodes that serve, and return the one to fetch from."""
        states = observe(self._cluster, timeout_s=self._timeout_s)
        verdict = assess(states, expected=len(self._cluster.nodes))
        timelines = {state.name: state.cluster_state_uuid or "" for state in states}
        sources: list[Source] = []
        archived: int | None = None
        for name in verdict.serving:
            timeline = timelines[name]  # all that serve are of one
            archived = max(self._ends.get(timeline) or self._archived(timeline), fetched) or None
            with suppress(UnreachableError):  # it went away just now
                sources.append(self._read(name, timeline, archived, is_writer=name == verdict.writer))
        self._local_domains |= {source.local_domain for source in sources}
        chosen = choose_source(self._trusted(sources), archived, current)
        known = [source.position for source in sources if source.position]
        return replace(  # what any node has is missing in the archive, not only what this one has
            chosen,
            position=max(known, key=lambda gtid: gtid.sequence, default=None),
            now=min(source.now for source in sources),
        )

    def _trusted(self, sources: list[Source]) -> list[Source]:
        """Return the sources without those whose GTIDs are others than on the other nodes."""
        self._distrusted |= {source.node for source in sources if source.renumbered}
        trusted = [source for source in sources if source.node not in self._distrusted]
        if sources and not trusted:
            raise UnsafeError(
                f"the GTIDs of {', '.join(sorted(self._distrusted))} are not those of the cluster: their numbers"
                " went down",
                hint="docs/how-to/archive-binary-logs.md     how that comes, and what to do",
                unchanged="what was archived before is as it was",
            )
        return trusted

    def _read(self, name: str, timeline: str, archived: int | None, *, is_writer: bool) -> Source:
        node = self._cluster.node(name)
        with self._cluster.session(node, read_timeout_s=self._timeout_s) as session:
            return read_source(
                session,
                timeline=timeline,
                is_writer=is_writer,
                local_domains=self._local_domains,
                wanted=archived,
            )

    def _archived(self, timeline: str) -> int:
        windows = self._archive.history(timeline).windows
        return windows[-1].end if windows else 0

    def _seal_leftovers(self) -> None:
        self._archive.seal_leftovers(self._local_domains, self._on_line)

    def _say(self, text: str) -> None:
        if text != self._said:
            self._on_line(text)
        self._said = text


class _Growing:
    """The logs in a directory as they are fetched; each is read once, on and on."""

    def __init__(self, directory: Path, local_domains: frozenset[int]) -> None:
        self._directory, self._local_domains = directory, local_domains
        self._last: tuple[LogReader, RunBuilder] | None = None
        self._sequence = 0
        self.renumbered = False

    def __enter__(self) -> "_Growing":
        return self

    def __exit__(self, *_: object) -> None:
        if self._last:
            self._last[0].close()

    def finished(self) -> list[Path]:
        """Return the logs that are complete."""
        return self._logs()[:-1]

    def last_sequence(self) -> int:
        """Return the number of the cluster's last transaction in what was fetched, 0 when there is none."""
        for path in self._logs()[-1:]:
            if self._last is None or self._last[0].path != path:
                if self._last:
                    self._last[0].close()
                self._last = (LogReader(path), RunBuilder(self._local_domains))
            reader, runs = self._last
            runs.add(reader.transactions())
            self._sequence = max(self._sequence, runs.last.sequence if runs.runs(reader) and runs.last else 0)
            self.renumbered = self.renumbered or runs.renumbered or bool(runs.last and not runs.runs(reader))
        return self._sequence

    def _logs(self) -> list[Path]:
        return sorted(self._directory.iterdir(), key=lambda path: (len(path.name), path.name))
