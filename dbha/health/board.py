"""The observation as it stands, renewed part by part. Parts are looked at side by side; none holds up another."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from dbha.health.looks import Looker, clock, in_words
from dbha.health.observation import Look, Observation

T = TypeVar("T")
Update = Callable[[Observation], Observation]


@dataclass(frozen=True, slots=True)
class Part:
    """Something to look at every so often. `look` returns what it makes of an observation; it never raises."""

    name: str
    interval_s: float
    look: Callable[[Observation], Update]


@dataclass(frozen=True, slots=True)
class Pace:
    """How often parts are looked at, and how long one look at the nodes may take."""

    nodes_s: float
    inside_s: float
    stores_s: float
    timeout_s: float


class Board:
    """Holds the newest observation. Any thread may read it, and it is whole at any time."""

    def __init__(self, cluster: str) -> None:
        self.observation = Observation(cluster)
        self._lock = threading.Lock()

    def look(self, part: Part) -> None:
        """Look at one part, and put what was seen in the place of what was known of it."""
        update = part.look(self.observation)
        with self._lock:
            self.observation = update(self.observation)


def parts_of(looker: Looker, pace: Pace) -> tuple[Part, ...]:
    """Return everything there is to look at, the nodes first, since others ask the writer that they tell."""

    def nodes(before: Observation) -> Update:
        seen = look_again(lambda: looker.nodes(pace.timeout_s), before.nodes)
        return lambda now: replace(now, nodes=seen)

    def inside(before: Observation) -> Update:
        seen = look_again(lambda: looker.inside(before.nodes.value, pace.timeout_s), before.inside)
        return lambda now: replace(now, inside=seen)

    def runs(before: Observation) -> Update:
        seen = look_again(looker.runs, before.runs)
        return lambda now: replace(now, runs=seen)

    def archive(before: Observation) -> Update:
        seen = look_again(looker.archive, before.archive, keep=True)
        return lambda now: replace(now, archive=seen)

    return (
        Part("nodes", pace.nodes_s, nodes),
        Part("cluster", pace.inside_s, inside),
        Part("journal", pace.inside_s, runs),
        Part("archive", pace.stores_s, archive),
        *(_store(looker, name, pace.stores_s) for name in looker.site.configuration.backup.stores),
    )


def _store(looker: Looker, name: str, interval_s: float) -> Part:
    def look(before: Observation) -> Update:
        seen = look_again(lambda: looker.store(name), before.stores.get(name, Look()), keep=True)
        return lambda now: replace(now, stores={**now.stores, name: seen})

    return Part(f"store:{name}", interval_s, look)


def look_again(ask: Callable[[], T], before: Look[T], *, keep: bool = False) -> Look[T]:
    """Look once more. With `keep` a look that fails leaves what was seen before: it does not change by itself."""
    began_s = clock().monotonic_s
    try:
        value = ask()
    except Exception as error:  # noqa: BLE001 - also a bug must not end the watch; `in_words` logs it
        problem = in_words(error)
        duration_s = clock().monotonic_s - began_s
        known: Look[T] = before if keep else Look()
        return replace(known, duration_s=duration_s, problem=problem)
    now = clock()
    return Look(value, now, now.monotonic_s - began_s, "")


def observe_once(cluster: str, parts: Sequence[Part], *, patience_s: float) -> Observation:
    """Return one observation: the first part, then all others side by side.

    A part that has not answered after `patience_s` counts as silent, and is left to end by itself.
    """
    board = Board(cluster)
    names = [part.name.partition(":")[2] for part in parts if part.name.startswith("store:")]
    board.observation = replace(board.observation, stores={name: Look() for name in names})
    first, *others = parts
    board.look(first)
    threads = [threading.Thread(target=board.look, args=(part,), daemon=True) for part in others]
    for thread in threads:
        thread.start()
    deadline_s = time.monotonic() + patience_s
    for thread in threads:
        thread.join(max(0.0, deadline_s - time.monotonic()))
    return board.observation
