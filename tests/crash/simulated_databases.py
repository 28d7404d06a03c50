"""What lies in the simulated world, and the small changes that its operations are made of.

Three nodes hold the same databases; what is imported is on one node only, everything else on all.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from tests.crash.simulated_files import Files

NODES = ("n1", "n2", "n3")
DATABASES = {
    "keystone": ("keystone",),
    "nova": ("nova_cell0", "nova"),  # cell0 is synced first
    "glance": ("glance",),  # not upgraded: nothing may happen to it
}
BEFORE, AFTER = "head-1", "head-2"
VERSION, THINGS, ADDED = "alembic_version", "things", "added"

Table = dict[str, Any]
Databases = dict[str, dict[str, Table]]


def create(directory: Path, fails: tuple[str, ...]) -> None:
    """Make a world in an empty directory, in which the things named in `fails` go wrong."""
    files = Files(directory)
    databases = {
        name: {
            VERSION: {"columns": ["version_num"], "rows": [BEFORE]},
            THINGS: {"columns": ["id"], "rows": [f"{name} {number}" for number in range(3)]},
        }
        for names in DATABASES.values()
        for name in names
    }
    files.write("nodes.json", dict.fromkeys(NODES, databases))
    accounts = {service: {"locked": False} for service in DATABASES}
    files.write("accounts.json", {**accounts, "nova_old": {"locked": True}})
    files.write("releases.json", {})
    files.write("fails.json", list(fails))


def visible(directory: Path) -> dict[str, Any]:
    """Return everything that an operator can see of the world, violations of its rules included."""
    files = Files(directory)
    return {name: files.read(name) for name in files.names("") if name.endswith((".json", ".violation"))}


def checksums(databases: Databases, names: tuple[str, ...]) -> dict[str, str]:
    """Return a checksum of every table of these databases."""
    return {
        f"{name}.{table}": hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]
        for name in names
        for table, content in databases[name].items()
    }


def aside(name: str) -> str:
    return f"aside_{name}"


def add_table(name: str, databases: Databases) -> None:
    databases[name][ADDED] = {"columns": ["id"], "rows": []}


def add_column(name: str, databases: Databases) -> None:
    databases[name][THINGS]["columns"].append("note")


def migrate_rows(name: str, databases: Databases) -> None:
    table = databases[name][THINGS]
    table["rows"] = [f"{row}, noted" for row in table["rows"]]


def stamp(name: str, databases: Databases) -> None:
    databases[name][VERSION]["rows"] = [AFTER]


def create_database(name: str, databases: Databases) -> None:
    databases.setdefault(name, {})


def drop_database(name: str, databases: Databases) -> None:
    databases.pop(name, None)


def empty_database(name: str, databases: Databases) -> None:
    databases[name] = {}


def move(name: str, table: str, databases: Databases) -> None:
    if table in databases[name]:
        databases[aside(name)][table] = databases[name].pop(table)


def put(name: str, table: str, content: Table, databases: Databases) -> None:
    databases[name][table] = content


def write_row(name: str, row: str, databases: Databases) -> None:
    databases[name][THINGS]["rows"].append(row)


def remove_row(name: str, row: str, databases: Databases) -> None:
    rows = databases[name][THINGS]["rows"]
    rows[:] = [each for each in rows if each != row]
