"""What the private start of a node leaves for the numbers of transactions to go on."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

LIBRARY = Path(__file__).parents[2] / "playbooks" / "roles" / "mariadb" / "library"
ARGUMENTS = (
    "mariadbd would have been started with the following arguments:\n"
    "--datadir=/d --server_id=3 --log_bin=binlog --wsrep-gtid-domain-id=77 --log_slave_updates=ON \n"
)


@pytest.fixture(scope="module")
def module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("mariadb_private", LIBRARY / "mariadb_private.py")
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = found
    spec.loader.exec_module(found)
    return found


@pytest.mark.parametrize(
    ("arguments", "gtid_seqno", "left"),
    [
        pytest.param(ARGUMENTS, 50, {"binlog.state": "77-3-50\n", "ibdata1": "data"}, id="counted on"),
        pytest.param(ARGUMENTS, -1, {"ibdata1": "data"}, id="data without a number"),
        pytest.param(
            "--log-bin=/var/log/mysql/binlog",
            50,
            {"binlog.000007": "log", "ibdata1": "data"},
            id="logs elsewhere",
        ),
        pytest.param("--datadir=/d", 50, {"binlog.000007": "log", "ibdata1": "data"}, id="no logs"),
    ],
)
def test_logs_of_another_history_go_and_the_number_stays(
    module: ModuleType, tmp_path: Path, arguments: str, gtid_seqno: int, left: dict[str, str]
) -> None:
    (tmp_path / "ibdata1").write_text("data")
    (tmp_path / "binlog.000007").write_text("log")
    for _ in range(2):
        module.begin_logs(tmp_path, arguments, gtid_seqno)
        assert {path.name: path.read_text() for path in tmp_path.iterdir()} == left
