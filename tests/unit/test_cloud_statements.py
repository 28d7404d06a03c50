"""The cloud's rules as SQL, without a server."""

import pytest

from dbha.sandbox.cloud.inspection import cell_database, missing_parts
from dbha.sandbox.cloud.rules import DATABASES, Table, read_rules
from dbha.sandbox.cloud.statements import Batch, Target, batches, expanded, statements

RULES = read_rules()
COLUMNS = {(table.database, table.name): set[str]() for table in RULES.tables}
for _table in RULES.tables:
    COLUMNS[_table.database, _table.name] |= set(_table.columns)
TARGET = Target({name: name for name in DATABASES}, 4, 1, COLUMNS)


@pytest.mark.parametrize(
    ("loaded", "wanted", "expected"),
    [
        pytest.param(0, 0, [], id="nothing wanted"),
        pytest.param(5, 5, [], id="all there"),
        pytest.param(9, 5, [], id="more there than wanted"),
        pytest.param(0, 3, [(1, 3)], id="less than a batch"),
        pytest.param(0, 10, [(1, 10)], id="one batch"),
        pytest.param(0, 25, [(1, 10), (11, 20), (21, 25)], id="the last one is smaller"),
        pytest.param(7, 25, [(8, 10), (11, 20), (21, 25)], id="a part is completed first"),
        pytest.param(10, 20, [(11, 20)], id="from a whole batch on"),
        pytest.param(12, 14, [(13, 14)], id="within one batch"),
    ],
)
def test_batches(loaded: int, wanted: int, expected: list[tuple[int, int]]) -> None:
    assert [(batch.first, batch.last) for batch in batches(loaded, wanted, 10)] == expected


@pytest.mark.parametrize(
    ("batch", "expected"),
    [
        pytest.param(Batch(1, 3), "seq_1_to_20", id="the first server brings its block's 20 hosts"),
        pytest.param(Batch(4, 500), None, id="the rest of the block brings none"),
        pytest.param(Batch(4, 501), "seq_21_to_40", id="the next block's first server brings the next"),
        pytest.param(Batch(501, 2000), "seq_21_to_80", id="three blocks bring sixty"),
    ],
)
def test_hosts_come_with_the_first_server_of_their_block(batch: Batch, expected: str | None) -> None:
    found = [sql for table, sql in statements(RULES, batch, TARGET) if _is(table, "nova", "compute_nodes")]
    assert len(found) == (expected is not None)
    assert all(expected in sql for sql in found if expected)


def test_what_exists_once_comes_with_the_first_server() -> None:
    def flavors(batch: Batch) -> int:
        return sum(_is(table, "nova_api", "flavors") for table, _ in statements(RULES, batch, TARGET))

    assert (flavors(Batch(1, 10)), flavors(Batch(2, 10))) == (1, 0)


def test_statements_have_no_macro_or_name_left_to_fill_in() -> None:
    for _, sql in statements(RULES, Batch(1, 1000), TARGET):
        for left_over in (
            "UUID_OF(",
            "HEX_OF(",
            "DOC(",
            "${",
            "{nova}",
            "{cell",
            "{last}",
            "{numbers}",
            '"=',
        ):
            assert left_over not in sql


def test_a_column_that_the_release_does_not_have_is_left_out() -> None:
    older = {key: names - {"compute_id"} for key, names in COLUMNS.items()}
    target = Target(TARGET.databases, 4, 1, older)
    sql = next(
        sql for table, sql in statements(RULES, Batch(1, 9), target) if _is(table, "nova", "instances")
    )
    assert "`compute_id`" not in sql.partition("SELECT")[0]
    assert missing_parts(RULES, older) == []


def test_missing_parts_are_each_named_once() -> None:
    there = {key: names for key, names in COLUMNS.items() if key[0] != "glance" and key[1] != "role"}
    there["nova", "services"] = there["nova", "services"] - {"uuid"}
    assert missing_parts(RULES, there) == ["keystone.role", "glance", "nova.services.uuid"]


def test_expanded_takes_one_level_of_parentheses() -> None:
    assert expanded("HEX_OF(host, (n - 1) DIV 20)") == "MD5(CONCAT('host-', (n - 1) DIV 20))"


def test_every_table_is_made_from_a_source_that_there_is() -> None:
    assert {table.source for table in RULES.tables} <= RULES.sources.keys()


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("mysql+pymysql://nova:secret@10.0.0.1:3306/nova_cell0?charset=utf8", "nova_cell0"),
        ("{scheme}://{username}:{password}@{hostname}:{port}/nova?{query}", "nova"),
        ("mysql://host/nova", "nova"),
        ("none", ""),
    ],
)
def test_cell_database(url: str, expected: str) -> None:
    assert cell_database(url) == expected


def _is(table: Table | None, database: str, name: str) -> bool:
    return table is not None and (table.database, table.name) == (database, name)
