"""What an import that was cut off leaves on a node, and getting rid of it."""

from pathlib import Path

import pytest

from dbha.backup.tablespaces import clear_database, clear_tables, local_session
from tests.real.conftest import RunningSandbox

pytestmark = pytest.mark.real


def test_tables_that_were_cut_off_before_their_import_can_be_dropped_whatever_refers_to_them(
    sandbox: RunningSandbox,
) -> None:
    cluster, node = sandbox.cluster, sandbox.cluster.nodes[1]
    with cluster.session(cluster.nodes[0]) as session:
        session.execute("CREATE DATABASE trial")
        session.execute("CREATE TABLE trial.kept (id INT PRIMARY KEY)")
        session.execute("INSERT INTO trial.kept VALUES (1)")
    directory = Path(node.datadir, "trial")
    with local_session(cluster, node) as session:
        session.execute("CREATE TABLE trial.a (id INT PRIMARY KEY)")
        session.execute("CREATE TABLE trial.b (id INT PRIMARY KEY, FOREIGN KEY (id) REFERENCES trial.a (id))")
        session.execute("CREATE TABLE trial.c (id INT PRIMARY KEY, FOREIGN KEY (id) REFERENCES trial.b (id))")
        for table in ("a", "b", "c"):
            session.execute(f"ALTER TABLE trial.{table} DISCARD TABLESPACE")
    (directory / "a.ibd").write_bytes(b"copied, and never imported")
    (directory / "dbha-import-0123abcd").mkdir()
    clear_tables(cluster, node, "trial", ["a", "b", "c", "never made"])
    with cluster.session(node) as session:
        assert session.column(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = 'trial'"
        ) == ["kept"]
        assert session.value("SELECT COUNT(*) FROM trial.kept") == 1
    assert sorted(path.name for path in directory.iterdir()) == ["db.opt", "kept.frm", "kept.ibd"]
    clear_database(cluster, node, "trial")
    assert [path.name for path in directory.iterdir()] == ["db.opt"]
    with cluster.session(cluster.nodes[0]) as session:
        session.execute("DROP TABLE IF EXISTS trial.kept")
        session.execute("DROP DATABASE trial")
