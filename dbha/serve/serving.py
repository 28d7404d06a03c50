"""What serves one cluster: the watch, the answers made from what it saw, and taking up a new configuration."""

import logging
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from dbha.config import Configuration
from dbha.errors import ConfigurationError, DbhaError
from dbha.health.board import Pace, parts_of
from dbha.health.exposition import Exposition
from dbha.health.looks import Looker, clock
from dbha.health.metrics import samples_of
from dbha.health.observation import Observation
from dbha.journal import Journal
from dbha.serve.answers import Answer, health, live, ready, writer
from dbha.serve.changes import changes, taken_up
from dbha.serve.watch import Watch
from dbha.upgrade.site import Site

log = logging.getLogger(__name__)

_SAME_SCRAPE_S = 0.25  # scrapes that come closer together than this get the same text
_HANGS_AFTER_S = 30.0  # far beyond any limit of a look

MakeSite = Callable[[Configuration], Site]


class Serving:
    """Everything that serves one cluster. `reload` may be called from another thread than the rest."""

    def __init__(self, site: Site, make_site: MakeSite, journal: Journal, lock_path: Path) -> None:
        self._make_site = make_site
        self._journal = journal
        self._lock_path = lock_path
        self._site = site
        self._configured = site.configuration  # as the file has it, also what needs a restart
        self._watch = self._new_watch(site, Observation(site.configuration.cluster))
        self._exposition = Exposition(
            site.configuration.cluster, lambda: samples_of(self._watch.observation, clock()), process=True
        )
        self._scrapes: dict[str, tuple[float, tuple[bytes, str]]] = {}

    def start(self) -> None:
        """Begin to watch."""
        self._watch.start()

    def stop(self) -> None:
        """End the watch."""
        self._watch.stop()

    def metrics(self, accept: str) -> tuple[bytes, str]:
        """Return the text of a scrape and its content type, made anew a few times a second at most."""
        openmetrics = "application/openmetrics-text" if "openmetrics" in accept else ""
        made_s, answer = self._scrapes.get(openmetrics, (0.0, (b"", "")))
        if not made_s or time.monotonic() - made_s > _SAME_SCRAPE_S:
            made_s, answer = time.monotonic(), self._exposition.answer(accept if openmetrics else "")
            self._scrapes[openmetrics] = made_s, answer
        return answer

    def answers(self) -> dict[str, Callable[[str], Answer]]:
        """Return what answers each path."""
        return {
            "/health": lambda _: self._ask(health),
            "/live": lambda _: live(),
            "/ready": lambda node: self._ask(partial(ready, node=node)),
            "/ready/{node}": lambda node: self._ask(partial(ready, node=node)),
            "/writer": lambda node: self._ask(partial(writer, node=node)),
            "/writer/{node}": lambda node: self._ask(partial(writer, node=node)),
        }

    def in_words(self) -> str:
        """Return how the cluster is, for logs and for systemd."""
        seen = self._watch.observation.nodes.value
        if seen is None:
            return f"cluster {self._site.configuration.cluster}: not observed yet"
        reasons = f" ({'; '.join(seen.verdict.reasons)})" if seen.verdict.reasons else ""
        return f"cluster {self._site.configuration.cluster}: {seen.verdict.level}{reasons}"

    @property
    def key(self) -> tuple[str, str | None]:
        """What is worth a line in the log when it changes: the verdict, and the writer."""
        seen = self._watch.observation.nodes.value
        return (seen.verdict.level, seen.verdict.writer) if seen else ("", None)

    @property
    def hangs(self) -> bool:
        """Whether the nodes have not been looked at for far too long, whatever they would have said."""
        return self._watch.quiet_s > max(_HANGS_AFTER_S, 3 * self._site.configuration.serve.stale_after_s)

    def reload(self, load: Callable[[], Configuration]) -> None:
        """Take up a new configuration. One with a mistake changes nothing, and the log says so."""
        try:
            new = load()
            found = changes(self._configured, new)
            site = self._make_site(taken_up(self._site.configuration, new))
            require_usable(site)
        except DbhaError as error:
            log.error("the new configuration is not used, the old one goes on: %s", _told(error))
            return
        for change in found:
            log.log(logging.WARNING if change.needs_restart else logging.INFO, "%s", change)
        log.info("reloaded: %d key(s) changed; the inventory was read anew", len(found))
        old_site, old_watch = self._site, self._watch
        watch = self._new_watch(site, old_watch.observation)
        watch.start()
        self._configured, self._site, self._watch = new, site, watch
        old_watch.stop(then=old_site.close)  # a look that is not back yet still uses its connections

    def _ask(self, question: Callable[..., Answer]) -> Answer:
        stale_after_s = self._site.configuration.serve.stale_after_s
        return question(self._watch.observation, clock(), stale_after_s)

    def _new_watch(self, site: Site, before: Observation) -> Watch:
        policy = site.configuration.serve
        pace = Pace(
            nodes_s=policy.nodes_interval_s,
            inside_s=policy.cluster_interval_s,
            stores_s=policy.backups_interval_s,
            timeout_s=policy.observe_timeout_s,
        )
        return Watch(before, parts_of(Looker(site, self._journal, self._lock_path), pace))


def require_usable(site: Site) -> None:
    """Read the inventory and every secret that is needed. Raises ConfigurationError, or UnreachableError."""
    _ = site.cluster
    for name in site.configuration.backup.stores:
        site.store_of(name)


def _told(error: DbhaError) -> str:
    problems = error.problems if isinstance(error, ConfigurationError) else ()
    return "; ".join([str(error), *problems])
