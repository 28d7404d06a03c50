"""Look at every part at a steady pace, each in a thread of its own, so that none waits for another."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from dbha.health.board import Board, Part
from dbha.health.observation import Look, Observation

_NOT_FOR_EVER_S = 1.0


class Watch:
    """One generation of threads: a new configuration gets a new one, and what an old one still sees is not used."""

    def __init__(self, before: Observation, parts: Sequence[Part]) -> None:
        self._board = Board(before.cluster)
        stores = [part.name.partition(":")[2] for part in parts if part.name.startswith("store:")]
        self._board.observation = replace(
            before, stores={name: before.stores.get(name, Look()) for name in stores}
        )
        self._parts = parts
        self._stop = threading.Event()
        self._first = threading.Event()
        self._threads: list[threading.Thread] = []
        self._looked_s = time.monotonic()

    @property
    def observation(self) -> Observation:
        """The newest one."""
        return self._board.observation

    @property
    def quiet_s(self) -> float:
        """For how long the nodes have not been looked at, successfully or not."""
        return time.monotonic() - self._looked_s

    def start(self) -> None:
        """Begin to look; others begin once the nodes were seen, since they ask the writer."""
        for number, part in enumerate(self._parts):
            name = f"watch {part.name}"
            thread = threading.Thread(target=self._keep, args=(part, number == 0), name=name, daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self, then: Callable[[], None] = lambda: None) -> None:
        """End the threads, each once its look has come back, and do something `then`; waits for none."""
        self._stop.set()
        threading.Thread(target=self._end, args=(then,), name="watch end", daemon=True).start()

    def _end(self, then: Callable[[], None]) -> None:
        for thread in self._threads:
            thread.join()
        then()

    def _keep(self, part: Part, is_first: bool) -> None:
        while not (is_first or self._first.wait(_NOT_FOR_EVER_S) or self._stop.is_set()):
            pass
        next_s = time.monotonic()
        while not self._stop.wait(max(0.0, next_s - time.monotonic())):
            self._board.look(part)
            if is_first:
                self._looked_s = time.monotonic()
                self._first.set()
            next_s = max(next_s + part.interval_s, time.monotonic())
