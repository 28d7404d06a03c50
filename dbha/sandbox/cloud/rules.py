"""What to write, as data: the sources things are counted in, and the rows each thing has in each table."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any

import yaml

DATABASES = ("keystone", "glance", "placement", "nova_api", "nova_cell0", "nova")


@dataclass(frozen=True, slots=True)
class Source:
    """One kind of thing. A block brings `per_block` of them; 0: they are the servers themselves.

    Things that exist `once` come with the first server. Either `columns` names what can be said of thing
    number `n`, or `select` is the whole query, with `{numbers}` where the numbers come from.
    """

    name: str
    per_block: int
    columns: Mapping[str, str]
    select: str


@dataclass(frozen=True, slots=True)
class Table:
    """The rows that each thing of `source` has in one table: `repeat` of them, as `k` from 1, where `where` holds.

    `optional` columns are left out when the release's schema does not have them. `ignore_existing`: rows that
    OpenStack's own tools may have made already, under identifiers of their own, are left alone.
    """

    database: str
    name: str
    source: str
    columns: Mapping[str, str]
    repeat: int = 1
    where: str = ""
    optional: frozenset[str] = frozenset()
    ignore_existing: bool = False


@dataclass(frozen=True, slots=True)
class Rules:
    """The whole cloud: a block of servers, the sources, and the tables in the order they are written."""

    block_servers: int
    sources: Mapping[str, Source]
    tables: tuple[Table, ...]
    afterwards: tuple[str, ...]  # statements that end each batch


@cache
def read_rules() -> Rules:
    """Return the rules that lie beside this module."""
    here = files(__package__)
    sources = yaml.safe_load((here / "sources.yml").read_text())
    listings = [yaml.safe_load((here / f"{database}.yml").read_text()) for database in DATABASES]
    return Rules(
        block_servers=sources["block_servers"],
        sources={name: _source(name, entry) for name, entry in sources["sources"].items()},
        tables=tuple(table for listing in listings for table in _tables(listing)),
        afterwards=tuple(sql for listing in listings for sql in listing.get("afterwards", ())),
    )


def read_document(name: str) -> str:
    """Return the text of a document: JSON, or plain text."""
    return _document(name).read_text()


def is_json(name: str) -> bool:
    """Tell whether the document `name` is JSON."""
    return _document(name).name.endswith(".json")


def _document(name: str) -> Traversable:
    folder = files(__package__) / "documents"
    return next(entry for entry in folder.iterdir() if entry.name.partition(".")[0] == name)


def _source(name: str, entry: Mapping[str, Any]) -> Source:
    return Source(name, entry.get("per_block", 0), entry.get("columns", {}), entry.get("select", ""))


def _tables(listing: Mapping[str, Any]) -> Iterator[Table]:
    for entry in listing["tables"]:
        yield Table(
            database=listing["database"],
            name=entry["table"],
            source=entry["from"],
            columns=entry["columns"],
            repeat=entry.get("repeat", 1),
            where=entry.get("where", ""),
            optional=frozenset(entry.get("optional", ())),
            ignore_existing=entry.get("ignore_existing", False),
        )
