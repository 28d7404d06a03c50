"""The real table of each service that takes a ledger's rows, so that no schema has anything of ours in it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from dbha.database import identifier

PREFIX = "ledger"


@dataclass(frozen=True, slots=True)
class LedgerTable:
    """A table, the column that takes a row's key, and what else a row needs, as SQL by column."""

    service: str
    database: str
    table: str
    key: str
    values: Mapping[str, str]

    def insert_sql(self) -> str:
        """Return the statement that writes one row; its only parameter is the key."""
        names = ", ".join(map(identifier, (self.key, *self.values)))
        return f"INSERT INTO {self.qualified} ({names}) VALUES ({', '.join(['%s', *self.values.values()])})"

    @property
    def qualified(self) -> str:
        """The table's name with its database's, quoted."""
        return f"{identifier(self.database)}.{identifier(self.table)}"

    def inside(self, database: str) -> "LedgerTable":
        """Return the same table in a database of another name."""
        return replace(self, database=database)


def row_key(run: str, number: int) -> str:
    """Return the key of a row; it fits a column made for UUIDs."""
    return f"{PREFIX}-{run}-{number:09d}"


def row_number(key: str) -> int:
    """Return the number of the row with this key."""
    return int(key.rpartition("-")[2])


# Tables that no foreign key leaves, of columns that every release has.
TABLES: Mapping[str, LedgerTable] = MappingProxyType(
    {
        table.service: table
        for table in (
            LedgerTable("keystone", "keystone", "region", "id", {"description": "''", "extra": "'{}'"}),
            LedgerTable(
                "glance",
                "glance",
                "tasks",
                "id",
                {
                    "type": "'import'",
                    "status": "'success'",
                    "owner": "'ledger'",
                    "created_at": "UTC_TIMESTAMP()",
                    "updated_at": "UTC_TIMESTAMP()",
                    "deleted": "0",
                },
            ),
            LedgerTable(
                "placement", "placement", "projects", "external_id", {"created_at": "UTC_TIMESTAMP()"}
            ),
            LedgerTable(
                "nova",
                "nova",
                "instance_id_mappings",
                "uuid",
                {"created_at": "UTC_TIMESTAMP()", "deleted": "0"},
            ),
        )
    }
)
