"""From rules to SQL. Pure: the server makes the rows, a statement is as short for many servers as for one."""

import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cache

from dbha.database import identifier, literal
from dbha.sandbox.cloud.rules import Rules, Source, Table, is_json, read_document

_MACRO = re.compile(r"\b(UUID_OF|HEX_OF)\((\w+), ((?:[^()]|\([^()]*\))*)\)")
_DOCUMENT = re.compile(r"\bDOC\((\w+)\)")
_EMBEDDED = re.compile(r'"@(\w+)"')
_SPLICE = re.compile(r'"=(?P<bare>(?:[^"\\]|\\.)*)"|\$\{(?P<inside>[^{}]*)\}')


@dataclass(frozen=True, slots=True)
class Batch:
    """Servers `first` to `last`, written in one transaction."""

    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Target:
    """Where the cloud goes: the databases' names, the ids of nova's cells, and the columns that there are."""

    databases: Mapping[str, str]
    cell_id: int
    cell0_id: int
    columns: Mapping[tuple[str, str], Collection[str]]  # by (database's role, table)


def batches(loaded: int, wanted: int, size: int) -> tuple[Batch, ...]:
    """Return the batches that bring `loaded` servers to `wanted`; each ends at a multiple of `size`."""
    ends = [*range((loaded // size + 1) * size, wanted, size), wanted]
    firsts = [loaded, *ends[:-1]]
    return tuple(Batch(before + 1, last) for before, last in zip(firsts, ends, strict=True) if before < last)


def statements(rules: Rules, batch: Batch, target: Target) -> Iterator[tuple[Table | None, str]]:
    """Yield each statement of a batch, with the table it fills; None for what comes after all tables."""
    for table in rules.tables:
        numbers = _numbers(rules, rules.sources[table.source], batch)
        if numbers is not None:
            yield table, _insert(rules, table, numbers, target)
    block_first = (batch.first - 1) // rules.block_servers * rules.block_servers + 1
    for sql in rules.afterwards:
        yield None, _filled(sql, target, block_first=block_first, last=batch.last)


def expanded(expression: str) -> str:
    """Return an expression of the rules as plain SQL."""
    whole = _DOCUMENT.sub(lambda found: _document_sql(found[1]), expression)
    return _MACRO.sub(lambda found: _identifier_sql(found[1], found[2], found[3]), whole)


def _numbers(rules: Rules, source: Source, batch: Batch) -> tuple[int, int] | None:
    """Return the first and last number of the things that a batch brings, or None when it brings none."""
    if source.name == "once":
        return (1, 1) if batch.first == 1 else None
    if source.per_block == 0:
        return batch.first, batch.last
    before = -(-(batch.first - 1) // rules.block_servers)  # a block comes with its first server
    after = -(-batch.last // rules.block_servers)
    return (before * source.per_block + 1, after * source.per_block) if after > before else None


def _insert(rules: Rules, table: Table, numbers: tuple[int, int], target: Target) -> str:
    known = target.columns[table.database, table.name]
    columns = {
        name: sql for name, sql in table.columns.items() if name in known or name not in table.optional
    }
    into = f"{identifier(target.databases[table.database])}.{identifier(table.name)}"
    names = ", ".join(map(identifier, columns))
    values = ", ".join(f"({expanded(sql)})" for sql in columns.values())
    rows = f"({_source_sql(rules.sources[table.source], numbers, target)}) AS things"
    if table.repeat > 1:
        rows += f" CROSS JOIN (SELECT seq AS k FROM {_sequence(1, table.repeat, target)}) AS repeated"
    where = f" WHERE {expanded(table.where or 'TRUE')}"  # without WHERE, ON DUPLICATE reads as a join's ON
    ignore = "IGNORE " if table.ignore_existing else ""
    # Rows that are there are the same rows, left by a load of which only a part was restored later.
    key = f"{into}.{identifier(next(iter(columns)))}"
    twice = "" if table.ignore_existing else f" ON DUPLICATE KEY UPDATE {key} = {key}"
    sql = f"INSERT {ignore}INTO {into} ({names}) SELECT {values} FROM {rows}{where}{twice}"
    return _filled(sql, target)


def _source_sql(source: Source, numbers: tuple[int, int], target: Target) -> str:
    sequence = _sequence(*numbers, target)
    if source.select:
        return expanded(source.select).replace("{numbers}", sequence)
    columns = ", ".join(f"{expanded(sql)} AS {name}" for name, sql in source.columns.items())
    return f"SELECT n, {columns} FROM (SELECT seq AS n FROM {sequence}) AS numbered"


def _sequence(first: int, last: int, target: Target) -> str:
    return f"{identifier(target.databases['nova'])}.seq_{first}_to_{last}"


def _filled(sql: str, target: Target, **numbers: int) -> str:
    values = {name: identifier(database) for name, database in target.databases.items()}
    values |= {"cell": str(target.cell_id), "cell0": str(target.cell0_id)}
    values |= {name: str(number) for name, number in numbers.items()}
    for name, value in values.items():
        sql = sql.replace(f"{{{name}}}", value)
    return sql


def _identifier_sql(macro: str, kind: str, number: str) -> str:
    """Return the SQL of an identifier: 32 hexadecimal digits, or a UUID that claims version 4."""
    digest = f"MD5(CONCAT('{kind}-', {number}))"
    if macro == "HEX_OF":
        return digest
    return f"INSERT(INSERT(INSERT(INSERT({digest}, 21, 0, '-'), 17, 1, '-a'), 13, 1, '-4'), 9, 0, '-')"


@cache
def _document_sql(name: str) -> str:
    """Return a document as an SQL expression: its text, with the values of the row spliced in."""
    text = _document_text(name)
    pieces, end = [], 0
    for found in _SPLICE.finditer(text):
        bare = found["bare"]
        pieces += [literal(text[end : found.start()]), json.loads(f'"{bare}"') if bare else found["inside"]]
        end = found.end()
    return f"CONCAT({', '.join([*pieces, literal(text[end:])])})"


def _document_text(name: str) -> str:
    """Return the text of a document, JSON as nova writes it, with the documents that it embeds."""
    text = read_document(name)
    if is_json(name):
        text = json.dumps(json.loads(text))
    return _EMBEDDED.sub(lambda found: _document_text(found[1]), text)
