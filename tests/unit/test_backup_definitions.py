"""Definitions and the small files of mariadb-backup, without a server."""

import pytest

from dbha.backup.definitions import DatabaseDefinition, Definitions, without_counter
from dbha.backup.tool_files import galera_position, gtid_of, key_values, series_of
from dbha.errors import UsageError

UUID = "c45553ad-e6f7-11f1-b78a-8b00356db182"
NOVA = DatabaseDefinition(charset="utf8mb3", collation="c", tables={"a": "CREATE a"}, tablespaces=("nova/a",))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            ") ENGINE=InnoDB AUTO_INCREMENT=7 DEFAULT CHARSET=utf8mb3",
            ") ENGINE=InnoDB DEFAULT CHARSET=utf8mb3",
        ),
        (") ENGINE=InnoDB DEFAULT CHARSET=utf8mb3", ") ENGINE=InnoDB DEFAULT CHARSET=utf8mb3"),
        (
            "  `a` int COMMENT ') x AUTO_INCREMENT=7',\n) ENGINE=InnoDB",
            "  `a` int COMMENT ') x AUTO_INCREMENT=7',\n) ENGINE=InnoDB",
        ),
    ],
)
def test_only_the_counter_is_removed(text: str, expected: str) -> None:
    assert without_counter(f"CREATE TABLE `t` (\n{text}") == f"CREATE TABLE `t` (\n{expected}"


def test_fingerprints() -> None:
    definitions = Definitions(databases={"nova": NOVA, "glance": NOVA})
    nova = definitions.fingerprint_of(["nova"])
    assert nova != definitions.fingerprint_of(["glance"])
    assert definitions.fingerprint_of(["nova", "glance"]) == definitions.fingerprint_of(["glance", "nova"])
    changed = NOVA.model_copy(update={"triggers": {"t": "CREATE TRIGGER"}})
    assert Definitions(databases={"nova": changed}).fingerprint_of(["nova"]) != nova
    with pytest.raises(UsageError, match="no database keystone"):
        definitions.fingerprint_of(["keystone"])


def test_what_importing_tables_would_lose() -> None:
    assert NOVA.beyond_tables == ()
    more = NOVA.model_copy(update={"unusual": ("table s (sequence)",), "views": {"v": "CREATE VIEW"}})
    assert more.beyond_tables == ("table s (sequence)", "view v")


@pytest.mark.parametrize("text", [f"{UUID}:846 0\n", f"{UUID}:846", f" {UUID}:846 0-1-2 \n"])
def test_positions(text: str) -> None:
    assert galera_position(text) == (UUID, 846)


@pytest.mark.parametrize("text", ["", "\n", f"{UUID}", f"{UUID}:-1", "x:7"])
def test_no_position(text: str) -> None:
    with pytest.raises(ValueError, match="does not know its Galera position"):
        galera_position(text)


def test_small_files() -> None:
    assert key_values("a = 1\nuuid = x = y\n\nz") == {"a": "1", "uuid": "x = y"}
    assert gtid_of("bin.000005\t373\t0-1-1137\n") == "0-1-1137"
    assert gtid_of("bin.000005\t373\n") == ""
    assert series_of("10.11.19-MariaDB") == "10.11"
    assert series_of("") == ""
