"""Which node logs are fetched from, as a table."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dbha.backup.binlog.fetch import fetch_argv
from dbha.backup.binlog.gtid import Gtid
from dbha.backup.binlog.source import LogOfNode, Source, begin_of, choose_source, first_log
from dbha.errors import UnreachableError


def source(name: str, oldest: int, *, writer: bool = False) -> Source:
    logs = (LogOfNode("binlog.000003", oldest), LogOfNode("binlog.000004", oldest + 50))
    return Source(name, "t", writer, 101, Gtid(1, 1, 200), datetime(2026, 11, 23, tzinfo=UTC), logs)


WRITER, SECOND, THIRD = source("db1", 0, writer=True), source("db2", 0), source("db3", 0)


@pytest.mark.parametrize(
    ("sources", "archived", "current", "expected"),
    [
        pytest.param([WRITER, SECOND, THIRD], None, "", "db2", id="not the writer"),
        pytest.param([WRITER, SECOND, THIRD], 70, "db3", "db3", id="it stays where it is"),
        pytest.param([WRITER], 70, "", "db1", id="the writer, where nobody else serves"),
        pytest.param([WRITER, THIRD], 70, "db1", "db3", id="away from the writer"),
        pytest.param([WRITER, source("db2", 90), THIRD], 70, "", "db3", id="who still has all that follows"),
        pytest.param([WRITER, source("db2", 90), source("db3", 80)], 70, "db2", "db1", id="rather than lose some"),
        pytest.param([source("db2", 90), source("db3", 80)], 70, "db2", "db3", id="who lost the fewest"),
    ],
)  # fmt: skip
def test_the_choice(sources: list[Source], archived: int | None, current: str, expected: str) -> None:
    assert choose_source(sources, archived, current).node == expected


def test_without_a_node_there_is_no_choice() -> None:
    with pytest.raises(UnreachableError, match="no node serves"):
        choose_source([], 70)


@pytest.mark.parametrize(
    ("archived", "expected"),
    [(None, "binlog.000003"), (5, "binlog.000003"), (12, "binlog.000003"), (60, "binlog.000004"),
     (70, "binlog.000004")],
)  # fmt: skip
def test_the_first_log(archived: int | None, expected: str) -> None:
    assert first_log(source("db2", 10), archived) == expected
    assert (
        first_log(replace(source("db2", 10), logs=(LogOfNode("binlog.000009", 99),)), archived)
        == "binlog.000009"
    )


def test_the_command_names_no_password_and_each_time_another_server_id() -> None:
    one, other = (fetch_argv("--defaults-extra-file=/dev/fd/7", Path("/a/open"), "binlog.000003", forever=True)
                  for _ in range(2))  # fmt: skip
    assert one[:5] == ("mariadb-binlog", "--defaults-extra-file=/dev/fd/7", "--read-from-remote-server", "--raw",
                       "--stop-never")  # fmt: skip
    assert one[-2:] == ("--result-file=/a/open/", "binlog.000003")
    assert one != other
    assert "--to-last-log" in fetch_argv("x", Path("/a"), "b", forever=False)


@pytest.mark.parametrize(
    ("listed", "first", "position", "expected"),
    [
        pytest.param(70, 71, 99, (70, False), id="after what it begins with"),
        pytest.param(70, 72, 99, (70, False), id="71 was used up by what failed"),
        pytest.param(70, None, 70, (70, False), id="nothing in it yet"),
        pytest.param(None, None, 70, (70, False), id="nothing in it, nothing known"),
        pytest.param(None, None, None, (0, False), id="a new cluster"),
        pytest.param(None, 71, 99, (70, False), id="a server on restored data begins in the middle"),
        pytest.param(32, 5, 23, (4, True), id="numbers went down"),
    ],
)
def test_where_a_log_begins(
    listed: int | None, first: int | None, position: int | None, expected: tuple[int, bool]
) -> None:
    gtids = (Gtid(1, 1, number) if number else None for number in (listed, first, position))
    assert begin_of(*gtids) == expected
