"""Reading tables by several sessions: each table once, nothing after a failure, one number for all nodes."""

import threading
from collections.abc import Callable
from typing import Any, cast

import pytest

from dbha.backup.checksums import Counted, Reading
from dbha.database import Session
from dbha.errors import UnsafeError


class Sums:
    """Answers CHECKSUM TABLE with the length of the name, and nothing else."""

    def __init__(self, before: Callable[[], object] = lambda: None) -> None:
        self.asked: list[str] = []
        self._before = before

    def rows(self, sql: str) -> list[dict[str, Any]]:
        verb, _, name = sql.partition(" TABLE ")
        assert verb == "CHECKSUM"
        self._before()
        self.asked.append(name)
        return [{"Table": name.replace("`", ""), "Checksum": len(name)}]


def of(sums: Sums) -> Session:
    return cast("Session", sums)


TABLES = [("nova", f"t{number}") for number in range(6)]


def test_each_table_is_read_by_one_session() -> None:
    both_at_work, told = threading.Barrier(2), list[tuple[int, int]]()
    reading = Reading(TABLES, lambda: None, lambda *numbers: told.append(numbers))
    sessions = [Sums(both_at_work.wait), Sums(both_at_work.wait)]
    threads = [threading.Thread(target=reading.run, args=(of(each),)) for each in sessions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(sessions[0].asked + sessions[1].asked) == [f"`nova`.`t{number}`" for number in range(6)]
    assert len(sessions[0].asked) == len(sessions[1].asked)
    assert reading.found == {f"nova.t{number}": 11 for number in range(6)}
    assert told == [(done, 6) for done in range(1, 7)]


def test_nothing_is_read_after_a_failure() -> None:
    def lost() -> None:
        raise UnsafeError("the lease is lost")

    reading, other = Reading(TABLES, lost, lambda *_: None), Sums()
    with pytest.raises(UnsafeError):
        reading.run(of(Sums()))
    reading.run(of(other))
    assert (other.asked, reading.found) == ([], {})


def test_the_tables_of_all_nodes_are_one_number() -> None:
    told: list[tuple[int, int]] = []
    counted = Counted(lambda done, tables: told.append((done, tables)))
    one, two = counted.of("node1"), counted.of("node2")
    one(3, 10)
    two(1, 10)
    one(10, 10)
    assert told == [(3, 10), (4, 20), (11, 20)]
