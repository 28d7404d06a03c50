"""Named byte strings somewhere else: all that a store elsewhere has to offer, and the patience to ask again."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from dbha.errors import UnreachableError

FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 5.0

T = TypeVar("T")


class StoreUnreachableError(UnreachableError):
    """A backup store cannot be used: it does not answer, or it refuses."""


class StoreLostError(StoreUnreachableError):
    """A backup store did not answer this time; asking again may help, and does no harm."""


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One object in a listing, by its name below the store."""

    name: str
    size_bytes: int


class Objects(Protocol):
    """Objects by name. Every call may be repeated; each raises StoreUnreachableError, StoreLostError or OSError."""

    @property
    def where(self) -> str:
        """The store, in words for a message."""

    def put(self, name: str, content: bytes) -> None:
        """Store an object: whoever asks for the name sees all of it, durable, or what was there before."""

    def get(self, name: str) -> bytes:
        """Return an object. Raises FileNotFoundError when there is none."""

    def list(self, prefix: str) -> Iterable[StoredObject]:
        """Return every object whose name begins with `prefix`, which is empty or ends with a slash."""

    def delete(self, name: str) -> None:
        """Delete an object, if it is there."""

    def locks(self) -> str:
        """Return in words how the store itself keeps objects from being deleted; empty where it does not.

        Raises FoundWrongError when it cannot, and is configured to.
        """

    def age_s(self, name: str) -> float:
        """Return how long ago an object was stored, by the store's own clock. Raises FileNotFoundError."""

    def free_bytes(self) -> int | None:
        """Return how much more can be stored, in bytes; None when the store does not tell."""

    def close(self) -> None:
        """Let go of connections. A later use connects again."""


class PatientObjects:
    """See Objects. Asks again for up to `patience_s` when a store that has answered before falls silent.

    A store that never answered is not waited for: then the address is wrong more often than the network slow. Nor
    is one that was given up, until it answers.
    """

    def __init__(
        self,
        objects: Objects,
        patience_s: float,
        *,
        pause: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._objects, self._patience_s = objects, patience_s
        self._pause, self._clock = pause, clock
        self._has_answered = False

    @property
    def where(self) -> str:
        """See Objects."""
        return self._objects.where

    def put(self, name: str, content: bytes) -> None:
        """See Objects."""
        self._patiently(lambda: self._objects.put(name, content))

    def get(self, name: str) -> bytes:
        """See Objects."""
        return self._patiently(lambda: self._objects.get(name))

    def list(self, prefix: str) -> Iterable[StoredObject]:
        """See Objects."""
        return self._patiently(lambda: tuple(self._objects.list(prefix)))

    def delete(self, name: str) -> None:
        """See Objects."""
        self._patiently(lambda: self._objects.delete(name))

    def locks(self) -> str:
        """See Objects."""
        return self._patiently(self._objects.locks)

    def age_s(self, name: str) -> float:
        """See Objects."""
        return self._patiently(lambda: self._objects.age_s(name))

    def free_bytes(self) -> int | None:
        """See Objects."""
        return self._patiently(self._objects.free_bytes)

    def close(self) -> None:
        """See Objects."""
        self._objects.close()

    def _patiently(self, ask: Callable[[], T]) -> T:
        began_s, pause_s = self._clock(), FIRST_PAUSE_S
        while True:
            try:
                answer = ask()
            except StoreLostError as error:
                silent_s = self._clock() - began_s
                if not self._has_answered:
                    raise
                if silent_s + pause_s > self._patience_s:
                    self._has_answered = False
                    raise StoreUnreachableError(
                        f"{error}, for {silent_s:.0f} s now", hint=error.hint, unchanged=error.unchanged
                    ) from error
                self._pause(pause_s)
                pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
            else:
                self._has_answered = True
                return answer
