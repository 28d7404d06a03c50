"""How patient dbha is with a store of objects that does not answer."""

import pytest

from dbha.backup.objects import PatientObjects, StoreLostError, StoreUnreachableError
from tests.unit.memory_objects import Memory


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0
        self.pauses: list[float] = []

    def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now_s += seconds


def patient(memory: Memory, patience_s: float = 10) -> tuple[PatientObjects, Clock]:
    clock = Clock()
    return PatientObjects(memory, patience_s, pause=clock.pause, clock=lambda: clock.now_s), clock


def test_a_store_that_never_answered_is_not_waited_for(memory: Memory) -> None:
    objects, clock = patient(memory)
    memory.lost = 1
    with pytest.raises(StoreLostError):
        objects.put("a", b"")
    assert clock.pauses == []


def test_a_store_that_fell_silent_is_asked_again_ever_more_slowly(memory: Memory) -> None:
    objects, clock = patient(memory)
    objects.put("a", b"1")
    memory.lost = 4
    assert objects.get("a") == b"1"
    assert clock.pauses == [0.2, 0.4, 0.8, 1.6]


def test_patience_ends_and_is_not_tried_again(memory: Memory) -> None:
    objects, clock = patient(memory)
    objects.put("a", b"1")
    memory.lost = 1 << 30
    with pytest.raises(StoreUnreachableError, match="store `memory` does not answer, for 6 s now"):
        objects.get("a")
    waited_s = clock.now_s
    with pytest.raises(StoreLostError):
        objects.get("a")
    assert clock.now_s == waited_s <= 10


def test_what_is_refused_is_not_asked_again(memory: Memory) -> None:
    objects, clock = patient(memory)
    with pytest.raises(FileNotFoundError):
        objects.get("a")
    memory.puts_left = 0
    with pytest.raises(StoreUnreachableError, match="no room"):
        objects.put("a", b"")
    assert clock.pauses == []
