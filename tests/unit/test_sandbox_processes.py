"""Whether a node's server runs, told from its command line: processes that only look like one."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dbha.errors import DbhaError
from dbha.inventory import Node
from dbha.sandbox.processes import server_pid, still_running

_WAITS = ("-c", "import sys; print('begun', flush=True); sys.stdin.read()")


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(name="node1", address="127.0.0.1", port=3306, datadir=str(tmp_path / "data"))


@contextmanager
def running(*words: str) -> Iterator[int]:
    """Yield the process id of a process whose command line is `words`, ended afterwards."""
    command = [words[0], *_WAITS, *words[1:]]
    with subprocess.Popen(
        command, executable=sys.executable, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid
        process.kill()


def test_a_server_runs_whatever_the_file_with_its_process_id_says(node: Node) -> None:
    Path(node.datadir).with_name("mariadb.pid").write_text("")  # as in the moment when a server writes it
    with running("/usr/sbin/mariadbd", f"--datadir={node.datadir}") as pid:
        assert server_pid(node) == pid
        still_running(node)
    assert server_pid(node) is None


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(
            ("mariadbd", "--datadir={}", "--wsrep-recover"), id="a server that looks for its position"
        ),
        pytest.param(("mariadbd", "--datadir={}-of-another"), id="the server of another node"),
        pytest.param(("mariadb-backup", "--datadir={}"), id="a backup"),
    ],
)
def test_what_is_no_server_of_the_node(node: Node, words: tuple[str, ...]) -> None:
    with running(*(word.format(node.datadir) for word in words)):
        assert server_pid(node) is None


def test_a_server_that_ended_is_told_with_its_last_error(node: Node) -> None:
    log = Path(node.datadir).with_name("error.log")
    log.write_text("[ERROR] no room\n[Note] shutdown complete\n")
    with pytest.raises(DbhaError, match=r"the server of node1 ended: .*no room"):
        still_running(node)
