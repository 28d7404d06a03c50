"""Reading binary logs: exactly the transactions that are whole, however much of the file is there."""

from itertools import pairwise
from pathlib import Path

import pytest

from dbha.backup.binlog.events import LogReader, Transaction
from dbha.backup.binlog.gtid import Gtid, latest, parse_gtid, parse_gtids
from dbha.errors import FoundWrongError
from tests.unit.binlog_files import LogFile, log_of

FLAGS = 4 + 17  # of the first event: "in use" is cleared without a new checksum
ALGORITHM = 4 + 252 - 5  # of the checksums: says that there are none, as some servers are set up
ASIDE = "/* dbha R */ CREATE DATABASE IF NOT EXISTS `dbha_aside_r_nova`"


def read(path: Path) -> list[Transaction]:
    with LogReader(path) as reader:
        return list(reader.transactions())


def test_every_kind_of_transaction_has_its_end(tmp_path: Path) -> None:
    log = LogFile([Gtid(1, 1, 70), Gtid(102, 2, 5)])
    log.transaction(Gtid(1, 1, 71), 1000)
    log.statement(Gtid(1, 1, 72), "ALTER TABLE t ADD COLUMN c INT", 1001)
    log.transaction(Gtid(1, 1, 73), 1002, end="COMMIT")
    log.transaction(Gtid(1, 1, 74), 1003, end="ROLLBACK")
    log.statement(Gtid(102, 2, 6), "FLUSH TABLES", 1004)
    log.statement(Gtid(1, 1, 75), ASIDE, 1005)
    path = log.rotate().write(tmp_path / "binlog.000001")
    with LogReader(path) as reader:
        found = list(reader.transactions())
        assert reader.listed == (Gtid(1, 1, 70), Gtid(102, 2, 5))
        assert reader.whole_bytes == path.stat().st_size
    assert [str(each.gtid) for each in found] == ["1-1-71", "1-1-72", "1-1-73", "1-1-74", "102-2-6", "1-1-75"]
    assert [each.time_s for each in found] == [1000, 1001, 1002, 1003, 1004, 1005]
    assert [each.moves_aside for each in found] == [False] * 5 + [True]
    assert all(one.end == other.begin for one, other in pairwise(found))


def test_a_file_cut_at_any_byte_has_the_transactions_that_are_whole(tmp_path: Path) -> None:
    log = log_of(1, 4)
    whole = read(log.write(tmp_path / "whole"))
    path = tmp_path / "cut"
    for length in range(len(log.content)):
        path.write_bytes(log.content[:length])
        with LogReader(path) as reader:
            assert list(reader.transactions()) == [each for each in whole if each.end <= length]
            assert reader.whole_bytes <= length
    assert len(whole) == 4


def test_a_growing_file_is_read_on_from_where_it_was(tmp_path: Path) -> None:
    log = log_of(1, 20)
    path = tmp_path / "growing"
    path.write_bytes(b"")
    found: list[int] = []
    with LogReader(path) as reader, path.open("ab") as file:
        for begin in range(0, len(log.content), 37):
            file.write(log.content[begin : begin + 37])
            file.flush()
            found += [each.gtid.sequence for each in reader.transactions()]
    assert found == list(range(1, 21))


def test_no_flipped_bit_passes(tmp_path: Path) -> None:
    log = log_of(1, 2)
    path = tmp_path / "flipped"
    good = read(log.write(path))
    for position in range(len(log.content)):
        if position in (FLAGS, ALGORITHM):
            continue
        spoiled = bytearray(log.content)
        spoiled[position] ^= 1
        path.write_bytes(spoiled)
        try:
            assert len(read(path)) < len(good)  # what seems to be longer than the file is taken as cut off
        except FoundWrongError as error:
            assert "is damaged at byte" in str(error)


def test_a_log_without_checksums_is_read(tmp_path: Path) -> None:
    log = LogFile(checksum=False)
    path = log.transaction(Gtid(0, 1, 1)).transaction(Gtid(0, 1, 2), end="COMMIT").write(tmp_path / "plain")
    assert [str(each.gtid) for each in read(path)] == ["0-1-1", "0-1-2"]


def test_what_is_no_log_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_text("hello, this is no log")
    with pytest.raises(FoundWrongError, match="not a binary log"):
        read(path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1-1-4,102-2-7", "1-1-4"),
        ("[1-1-4, 0-1-32, 102-2-99]", "0-1-32"),
        ("102-2-7", None),
        ("", None),
    ],
)
def test_the_clusters_position_is_the_highest_number_of_shared_domains(
    text: str, expected: str | None
) -> None:
    found = latest(parse_gtids(text), {101, 102, 103})
    assert (str(found) if found else None) == expected


@pytest.mark.parametrize("text", ["", "1-1", "1-1-x", "1-1-4 5", "-1-1-4"])
def test_what_is_no_gtid_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a GTID"):
        parse_gtid(text)
