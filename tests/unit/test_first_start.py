"""The first start on restored data: what is asked, what is answered, and what it must not share."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from dbha.backup.begin_program import (
    BeginError,
    account_sql,
    begin_logs,
    checksum_sql,
    position,
    server_argv,
    shares,
    tables_sql,
    write_state,
)
from dbha.backup.first_start import Counted, FirstStart, FirstStartError, begin
from dbha.cluster.saved_state import SavedState, parse_state
from dbha.database import Account
from dbha.host import boot_id
from dbha.secrets import Secret
from dbha.transport import LocalTransport

HISTORY = "679b4dd2-e6fc-11f1-8000-123456789a00"
FIRST = FirstStart(
    SavedState(HISTORY, 73),
    Account("dbha", Secret("it's\\ secret")),
    datetime(2026, 11, 24, tzinfo=UTC),
    ("nova",),
    50,
)


def request(place: Path) -> dict[str, object]:
    return {**FIRST.request(str(place), 64 << 20), "defaults_file": "/etc/mysql/my.cnf"}


def test_nothing_is_shared_with_the_server_that_still_runs(tmp_path: Path) -> None:
    argv = server_argv(request(tmp_path))
    assert argv[:2] == ["mariadbd", "--defaults-file=/etc/mysql/my.cnf"]
    assert f"--datadir={tmp_path}/new" in argv
    for option in ("--pid-file", "--log-error", "--tmpdir"):
        assert next(word for word in argv if word.startswith(f"{option}=")).startswith(
            f"{option}={tmp_path}/begin"
        )
    assert {"--socket=dbha-begin.sock", "--skip-networking", "--wsrep-cluster-address=gcomm://"} <= set(argv)
    assert any("gmcast.listen_addr=tcp://127.0.0.1:0;" in word for word in argv)
    assert not any("secret" in word for word in argv)


ARGUMENTS = (
    "mariadbd would have been started with the following arguments:\n"
    "--datadir=/d --server_id=3 --log_bin=binlog --wsrep-gtid-domain-id=77 --log_slave_updates=ON \n"
)


@pytest.mark.parametrize(
    ("arguments", "last_gtid", "options", "left"),
    [
        pytest.param(ARGUMENTS, 50, [], {"binlog.state": "77-3-50\n", "ibdata1": "data"}, id="counted on"),
        pytest.param(ARGUMENTS, -1, [], {"ibdata1": "data"}, id="data without a number"),
        pytest.param(
            "--log-bin=/var/log/mysql/binlog", 50, ["--skip-log-bin"], {"binlog.000007": "log", "ibdata1": "data"},
            id="logs elsewhere",
        ),
        pytest.param(
            "--datadir=/d", 50, ["--skip-log-bin"], {"binlog.000007": "log", "ibdata1": "data"}, id="no logs"
        ),
    ],
)  # fmt: skip
def test_logs_of_another_history_go_and_the_number_stays(
    tmp_path: Path, arguments: str, last_gtid: int, options: list[str], left: dict[str, str]
) -> None:
    (tmp_path / "ibdata1").write_text("data")
    (tmp_path / "binlog.000007").write_text("log")
    for _ in range(2):
        assert begin_logs(tmp_path, arguments, last_gtid) == options
        assert {path.name: path.read_text() for path in tmp_path.iterdir()} == left


@pytest.mark.parametrize(
    ("sizes", "number", "expected"),
    [
        ([], 2, []),
        ([5], 2, [["t0"]]),
        ([9, 5, 4], 2, [["t0"], ["t1", "t2"]]),
        ([0, 0, 0], 2, [["t0", "t2"], ["t1"]]),
    ],
)
def test_tables_are_shared_out_by_size(sizes: list[int], number: int, expected: list[list[str]]) -> None:
    tables = {("nova", f"t{index}"): size for index, size in enumerate(sizes)}
    assert [[table for _, table in share] for share in shares(tables, number)] == expected


def test_names_and_passwords_are_quoted() -> None:
    assert checksum_sql([("a`b", "c d")]) == "CHECKSUM TABLE `a``b`.`c d`;\n"
    assert "IN ('it''s', 'b\\\\c')" in tables_sql(["it's", "b\\c"])
    assert "IN (NULL)" in tables_sql([])
    sql = account_sql("dbha", "it's\\ secret", 7)
    assert "IDENTIFIED BY 'it''s\\\\ secret'" in sql
    assert "wsrep_on = OFF, sql_log_bin = 0, timestamp = 7" in sql


def test_the_position_is_that_of_the_new_history(tmp_path: Path) -> None:
    (tmp_path / "gvwstate.dat").touch()
    write_state(tmp_path, HISTORY, 73)
    assert parse_state((tmp_path / "grastate.dat").read_text()) == SavedState(HISTORY, 73)
    assert not (tmp_path / "gvwstate.dat").exists()
    assert position(tmp_path, HISTORY) == 73
    write_state(tmp_path, HISTORY, -1)
    with pytest.raises(BeginError, match="no position"):
        position(tmp_path, HISTORY)


@pytest.mark.parametrize(
    ("boot", "problem"),
    [("another life", "the host was restarted"), (boot_id(), "the server ended at once with")],
)
def test_a_failure_says_why_and_leaves_nothing(tmp_path: Path, boot: str, problem: str) -> None:
    (tmp_path / "new").mkdir()
    asked = {**request(tmp_path), "defaults_file": "/nowhere/my.cnf", "boot_id": boot}
    with pytest.raises(FirstStartError, match=problem) as caught:
        begin(LocalTransport(), asked, lambda done, tables: None, timeout_s=60)
    assert "secret" not in str(caught.value)
    assert not (tmp_path / "begin").exists()


def test_the_tables_of_all_nodes_are_one_number() -> None:
    told: list[tuple[int, int]] = []
    counted = Counted(lambda done, tables: told.append((done, tables)))
    one, two = counted.of("node1"), counted.of("node2")
    one(3, 10)
    two(1, 10)
    one(10, 10)
    assert told == [(3, 10), (4, 20), (11, 20)]
