"""The ledger's arithmetic and judgement, and what crosses the pipe to the writer's process."""

import json
from collections import Counter

import pytest

from dbha.database import Account
from dbha.inventory import Node
from dbha.sandbox.ledger import TABLES, Acknowledgement, LedgerCheck, LedgerReport, WriterSettings
from dbha.sandbox.ledger.check import judge
from dbha.sandbox.ledger.process import decode_settings, encode_settings
from dbha.sandbox.ledger.report import percentile
from dbha.sandbox.ledger.tables import row_key, row_number
from dbha.secrets import Secret


def _report(
    waits: tuple[float, ...] = (0.1, 0.3, 0.2), unfinished_wait_s: float = 0.0, **outcomes: tuple[int, ...]
) -> LedgerReport:
    rows = tuple(Acknowledgement(n, 1000.0 + n, wait) for n, wait in enumerate(waits, start=1))
    return LedgerReport(
        service="keystone",
        run="r",
        acknowledgements=rows,
        refused=outcomes.get("refused", ()),
        unknown=outcomes.get("unknown", ()),
        errors={"error 1047": 2},
        unfinished_wait_s=unfinished_wait_s,
    )


def test_the_longest_wait_and_when_it_ended() -> None:
    report = _report()
    assert (report.longest_wait_s, report.longest_wait_at) == (0.3, 1002.0)
    assert (report.acknowledged, report.error_count) == ((1, 2, 3), 2)


def test_a_wait_that_did_not_end_counts() -> None:
    report = _report(unfinished_wait_s=9.0)
    assert (report.longest_wait_s, report.longest_wait_at) == (9.0, None)


def test_a_writer_that_wrote_nothing_has_a_report() -> None:
    report = _report(waits=())
    assert (report.longest_wait_s, report.longest_wait_at, report.ninety_ninth_percentile_s) == (
        0.0,
        None,
        0.0,
    )


@pytest.mark.parametrize(
    ("count", "expected"), [(0, 0.0), (1, 1.0), (99, 99.0), (100, 99.0), (101, 100.0), (200, 198.0)]
)
def test_percentile(count: int, expected: float) -> None:
    assert percentile([float(n) for n in range(1, count + 1)][::-1], 0.99) == expected


def test_a_report_survives_json() -> None:
    report = _report(refused=(4,), unknown=(5, 6), unfinished_wait_s=0.5)
    assert LedgerReport.from_json(json.loads(json.dumps(report.to_json()))) == report


@pytest.mark.parametrize(
    ("there", "expected"),
    [
        pytest.param([{1: 1, 2: 1, 3: 1}] * 2, LedgerCheck(), id="all there"),
        pytest.param([{1: 1, 2: 1, 3: 1, 5: 1}] * 2, LedgerCheck(), id="an unknown one may be there"),
        pytest.param(
            [{1: 1, 2: 1, 3: 1}, {1: 1, 3: 1}],
            LedgerCheck(missing={"b": (2,)}),
            id="one is missing on a node",
        ),
        pytest.param(
            [{1: 1, 2: 2, 3: 1}, {1: 1, 2: 1, 3: 1}],
            LedgerCheck(duplicates={"a": (2,)}),
            id="one is there twice",
        ),
        pytest.param(
            [{1: 1, 2: 1, 3: 1, 4: 1}] * 2,
            LedgerCheck(unexpected={"a": (4,), "b": (4,)}),
            id="a refused one is there",
        ),
        pytest.param(
            [{1: 1, 2: 1, 3: 1, 5: 1}, {1: 1, 2: 1, 3: 1}],
            LedgerCheck(disputed=(5,)),
            id="an unknown one is on one node only",
        ),
    ],
)
def test_judge(there: list[dict[int, int]], expected: LedgerCheck) -> None:
    report = _report(refused=(4,), unknown=(5,))
    found = judge(report, dict(zip("ab", map(Counter, there), strict=True)))
    assert found == expected
    assert found.is_intact == (expected == LedgerCheck())


@pytest.mark.parametrize("number", [1, 999_999_999])
def test_a_rows_key_names_its_number_and_fits_a_uuid_column(number: int) -> None:
    key = row_key("a1b2c3d4", number)
    assert row_number(key) == number
    assert len(key) <= 36


def test_settings_survive_the_pipe_and_hide_the_password_elsewhere() -> None:
    node = Node("db1", "127.0.0.1", 3306, "/data")
    settings = WriterSettings(TABLES["glance"], (node,), Account("glance", Secret("hunter2")), "r", 50.0)
    assert decode_settings(encode_settings(settings)) == settings
    assert "hunter2" not in repr(settings)


def test_insert_sql() -> None:
    assert TABLES["keystone"].inside("ks").insert_sql() == (
        "INSERT INTO `ks`.`region` (`id`, `description`, `extra`) VALUES (%s, '', '{}')"
    )
