"""Sandboxes on real servers: what `dbha sandbox` promises."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from dbha.cluster.bootstrap import (
    may_bootstrap,
    observe_datadirs,
    stop_nodes,
    wait_until_synced,
)
from dbha.cluster.observe import observe
from dbha.errors import UnsafeError, UsageError
from dbha.sandbox import down, kill_node, start_node, up
from dbha.sandbox.processes import processes_of, server_pid
from tests.real.conftest import RunningSandbox, running_sandbox

pytestmark = pytest.mark.real

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def everything_synced_again(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "sandbox" in request.fixturenames:
        up(request.getfixturevalue("sandbox").directory)


def pids(running: RunningSandbox) -> list[int | None]:
    return [server_pid(node) for node in running.sandbox.nodes]


def transfers(running: RunningSandbox) -> list[str]:
    """Return the whole-data transfers that the error logs tell of.

    A joiner without a position of its own asks for one; other lines also show when only transactions were sent.
    """
    found = []
    for node in running.sandbox.nodes:
        log = (running.sandbox.layout.node(node.name) / "error.log").read_text(errors="replace")
        found += re.findall(r"State transfer required:.*\n.*\n\tLocal state: 0{8}-[0-:-]*-1", log)
    return found


def write_and_read_everywhere(running: RunningSandbox, table: str) -> list[int]:
    with running.cluster.session(running.cluster.nodes[0]) as session:
        session.execute(f"CREATE TABLE IF NOT EXISTS dbha.{table} (id INT PRIMARY KEY)")
        session.execute(f"REPLACE INTO dbha.{table} VALUES (1), (2)")
    counts = []
    for node in running.cluster.nodes:
        with running.cluster.session(node) as session:
            session.execute("SET SESSION wsrep_sync_wait = 1")
            counts.append(session.value(f"SELECT COUNT(*) FROM dbha.{table}"))
    return counts


def test_three_nodes_are_one_synced_cluster(sandbox: RunningSandbox) -> None:
    states = wait_until_synced(sandbox.cluster, sandbox.cluster.nodes, 30)
    assert [state.local_state_comment for state in states] == ["Synced"] * 3
    assert {state.cluster_size for state in states} == {3}
    assert len({(state.cluster_state_uuid, state.conf_id) for state in states}) == 1
    assert write_and_read_everywhere(sandbox, "one_cluster") == [2, 2, 2]


def test_no_node_copied_the_data_of_another(sandbox: RunningSandbox) -> None:
    assert transfers(sandbox) == []


def test_nodes_agree_on_replicated_transactions(sandbox: RunningSandbox) -> None:
    write_and_read_everywhere(sandbox, "gtids")
    positions = set()
    for node in sandbox.cluster.nodes:
        with sandbox.cluster.session(node) as session:
            position = str(session.value("SELECT @@GLOBAL.gtid_binlog_pos"))
            positions.add(",".join(part for part in position.split(",") if part.startswith("0-")))
    assert len(positions) == 1
    assert positions != {""}


def test_a_second_up_changes_nothing(sandbox: RunningSandbox) -> None:
    before = pids(sandbox)
    again = up(sandbox.directory, nodes=3)
    assert not again.changed
    assert not again.created
    assert pids(sandbox) == before


def test_other_nodes_than_the_sandbox_has_are_refused(sandbox: RunningSandbox) -> None:
    with pytest.raises(UsageError, match="has 3 nodes, not 2"):
        up(sandbox.directory, nodes=2)
    with pytest.raises(UsageError, match=r"was made with release 2025\.1"):
        up(sandbox.directory, release="2026.2")


def test_a_cluster_that_is_there_is_not_bootstrapped_again(sandbox: RunningSandbox) -> None:
    with pytest.raises(UnsafeError, match="node1 answers; node2 answers; node3 answers; node1 has data"):
        may_bootstrap(observe_datadirs(sandbox.cluster))


def test_a_killed_node_comes_back(sandbox: RunningSandbox) -> None:
    kill_node(sandbox.directory, "node2")
    with pytest.raises(UsageError, match="node2 does not run"):
        kill_node(sandbox.directory, "node2")
    start_node(sandbox.directory, "node2", environment=os.environ, on_line=lambda line: None)
    assert write_and_read_everywhere(sandbox, "one_killed") == [2, 2, 2]
    assert transfers(sandbox) == []


def test_a_node_that_lost_its_data_gets_it_from_another() -> None:
    with running_sandbox(nodes=3) as running:  # two others keep the quorum
        assert write_and_read_everywhere(running, "lost") == [2, 2, 2]
        kill_node(running.directory, "node2")
        shutil.rmtree(running.sandbox.node("node2").datadir)
        up(running.directory)
        assert write_and_read_everywhere(running, "lost") == [2, 2, 2]
        assert len(transfers(running)) == 1


def test_all_killed_nodes_come_back(sandbox: RunningSandbox) -> None:
    assert write_and_read_everywhere(sandbox, "all_killed") == [2, 2, 2]
    for _ in range(2):  # the second time they were recovered before
        for node in sandbox.sandbox.nodes:
            kill_node(sandbox.directory, node.name)
        assert up(sandbox.directory).changed
        assert write_and_read_everywhere(sandbox, "all_killed") == [2, 2, 2]
    assert transfers(sandbox) == []


def test_nodes_killed_one_after_the_other_come_back(sandbox: RunningSandbox) -> None:
    kill_node(sandbox.directory, "node3")
    survivors = list(sandbox.cluster.nodes[:2])
    wait_for_size(sandbox, 2)
    with sandbox.cluster.session(survivors[0]) as session:
        session.execute("CREATE TABLE IF NOT EXISTS dbha.after_the_kill (id INT PRIMARY KEY)")
    for node in survivors:
        kill_node(sandbox.directory, node.name)
    up(sandbox.directory)
    with sandbox.cluster.session(sandbox.cluster.nodes[2]) as session:
        assert session.value("SELECT COUNT(*) FROM dbha.after_the_kill") == 0


def test_nodes_that_were_stopped_come_back(sandbox: RunningSandbox) -> None:
    for _ in range(2):
        assert stop(sandbox) == {"node1": 1, "node2": 1, "node3": 1}
        assert pids(sandbox) == [None, None, None]
        assert stop(sandbox) == {}
        up(sandbox.directory)
        assert write_and_read_everywhere(sandbox, "stopped") == [2, 2, 2]


def test_secrets_are_nowhere_but_in_their_file(sandbox: RunningSandbox) -> None:
    secrets = sandbox.sandbox.layout.secrets
    assert secrets.stat().st_mode & 0o777 == 0o600
    words = [str(word).encode() for word in yaml.safe_load(secrets.read_text()).values()]
    assert len(words) == 5
    listed = [path for path in sandbox.directory.rglob("*") if path.is_file() and path != secrets]
    assert [path for path in listed if any(word in path.read_bytes() for word in words)] == []
    processes = [pid for node in sandbox.sandbox.nodes for pid in processes_of(node)]
    assert len(processes) >= 3
    for pid in processes:
        for name in ("cmdline", "environ"):
            assert not any(word in Path(f"/proc/{pid}/{name}").read_bytes() for word in words)


def test_root_enters_by_the_unix_socket_only(sandbox: RunningSandbox) -> None:
    with sandbox.cluster.session(sandbox.cluster.nodes[0]) as session:
        accounts = session.rows(
            "SELECT User, Host, JSON_VALUE(Priv, '$.plugin') AS plugin FROM mysql.global_priv"
        )
    assert [account for account in accounts if not account["User"]] == []
    assert {account["Host"] for account in accounts if account["User"] == "root"} == {"localhost"}
    assert {account["User"] for account in accounts if account["Host"] == "%"} == {"dbha"}


def test_two_sandboxes_side_by_side_and_a_single_node(sandbox: RunningSandbox) -> None:
    with running_sandbox(nodes=1) as other:
        ours = {node.port for node in sandbox.sandbox.nodes}
        assert ours.isdisjoint({node.port for node in other.sandbox.nodes})
        assert [state.cluster_size for state in observe(other.cluster, 3)] == [1]
        assert [state.cluster_size for state in observe(sandbox.cluster, 3)] == [3, 3, 3]
        kill_node(other.directory, "node1")
        up(other.directory)
        assert write_and_read_everywhere(other, "alone") == [2]
        layout, sockets = other.sandbox.layout, other.sandbox.sockets
        processes = [pid for node in other.sandbox.nodes for pid in processes_of(node)]
        assert down(other.directory) == len(processes)
    assert not layout.directory.exists()
    assert not sockets.exists()
    assert [pid for pid in processes if is_alive(pid)] == []


def test_down_refuses_what_is_not_a_sandbox(tmp_path: Path) -> None:
    (tmp_path / "inventory.yml").write_text("all: {vars: {ansible_user: root}}\n")
    (tmp_path / "precious").write_text("data")
    for verb in (down, up):
        with pytest.raises(UnsafeError, match="not the inventory of a sandbox"):
            verb(tmp_path)
    with pytest.raises(UnsafeError, match="is not empty and not a sandbox"):
        up(tmp_path.parent)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["inventory.yml", "precious"]


def test_it_needs_no_privileges() -> None:
    if os.geteuid() != 0:
        pytest.skip("not root, so every other test shows it already")
    home = Path("/tmp") / f"dbha-unprivileged-{os.getpid()}"  # others may enter it
    home.mkdir()
    try:
        python = interpreter_for_everybody(home)
        for name in ("dbha", "playbooks"):
            shutil.copytree(ROOT / name, home / name, ignore=shutil.ignore_patterns(".mypy_cache"))
        (home / "run").mkdir(mode=0o700)
        subprocess.run(["chown", "-R", "65534:65534", home], check=True)
        program = (
            "from pathlib import Path; from dbha.sandbox import up, down\n"
            "print('nodes', len(up(Path('box'), nodes=2).sandbox.nodes)); print('ended', down(Path('box')))"
        )
        done = subprocess.run(
            ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", python, "-c", program],
            cwd=home, env={"PATH": os.environ["PATH"], "HOME": str(home), "PYTHONPATH": str(home),
                            "XDG_RUNTIME_DIR": str(home / "run")},
            capture_output=True, text=True, check=False, timeout=180,
        )  # fmt: skip
        assert done.stdout == "nodes 2\nended 2\n", done.stderr
    finally:
        shutil.rmtree(home)


def interpreter_for_everybody(home: Path) -> Path:
    """Return a Python that other users may run, with the packages of this one and Ansible's program beside it."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    packages = Path(pytest.__file__).parents[1]
    found = [
        path
        for path in (Path(sys.base_prefix, "bin/python3"), Path(f"/usr/bin/python{version}"))
        if path.exists()
    ]
    readable = [path for path in found if open_to_others(path.resolve())]
    if not readable or not open_to_others(packages):
        pytest.skip("other users cannot read this Python, and there is no other one of its version")
    environment = home / "environment"
    subprocess.run([readable[0], "-m", "venv", "--without-pip", environment], check=True)
    (environment / f"lib/python{version}/site-packages/packages.pth").write_text(f"{packages}\n")
    python = environment / "bin/python3"
    (environment / "bin/ansible-playbook").write_text(
        f"#!{python}\nfrom ansible.cli.playbook import main\nraise SystemExit(main())\n"
    )
    (environment / "bin/ansible-playbook").chmod(0o755)
    return python


def open_to_others(path: Path) -> bool:
    return all(each.stat().st_mode & 0o005 for each in (path, *path.parents))


def stop(running: RunningSandbox) -> dict[str, int]:
    layout, nodes = running.sandbox.layout, running.sandbox.nodes
    stopped = stop_nodes(nodes, inventory=layout.inventory, run_directory=layout.ansible)
    return {host: number for host, number in stopped.changed.items() if number}


def is_alive(pid: int) -> bool:
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())  # empty for one that only waits to be reaped
    except OSError:
        return False


def wait_for_size(running: RunningSandbox, size: int) -> None:
    deadline = time.monotonic() + 30
    while {state.cluster_size for state in observe(running.cluster, 3) if state.reachable} != {size}:
        assert time.monotonic() < deadline
        time.sleep(0.2)
