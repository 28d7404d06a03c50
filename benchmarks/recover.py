"""All nodes killed at once: `dbha cluster recover` beside the steps of kolla-ansible's recovery, done by hand."""

import os
import re
import subprocess
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.cloud import Cloud, cloud, timed
from dbha.cluster.bootstrap import wait_until_synced
from dbha.errors import DbhaError
from dbha.inventory import Node
from dbha.sandbox import kill_node
from dbha.sandbox.processes import server_pid

_ROUNDS = 3
_SYNCED_WITHIN_S = 300.0


def measure(instances: int) -> list[dict[str, object]]:
    """Return one row for each side: seconds until all nodes are Synced, in turns, and dbha's share of it."""
    taken: dict[str, list[float]] = {}
    with cloud(instances) as made:
        sides: dict[str, Callable[[], object]] = {
            "dbha cluster recover, whole command": lambda: made.dbha("cluster", "recover", "--yes"),
            "kolla-ansible's steps, looking ten times a second": lambda: _by_hand(made, joiner_every_s=0.1),
            "kolla-ansible's steps, with its own waits": lambda: _by_hand(made, joiner_every_s=10),
        }
        for _ in range(_ROUNDS):
            for name, side in sides.items():
                for node in made.cluster.nodes:
                    kill_node(made.sandbox.layout.directory, node.name)
                taken.setdefault(name, []).append(timed(side))
                wait_until_synced(made.cluster, made.cluster.nodes, _SYNCED_WITHIN_S)
    medians = {name: sorted(seconds)[len(seconds) // 2] for name, seconds in taken.items()}
    own = next(iter(medians.values()))
    return [
        {
            "side": name, "seconds, median": round(medians[name], 1),
            "all rounds": " ".join(f"{each:.1f}" for each in seconds), "dbha's share": round(own / medians[name], 2),
        }
        for name, seconds in taken.items()
    ]  # fmt: skip


def _by_hand(made: Cloud, *, joiner_every_s: float) -> None:
    """Do what roles/mariadb/tasks/recover_cluster.yml does, and nothing of Ansible's own time.

    All hosts at once: ask the storage engine. The one with the most forms a new cluster; then the others, one after
    the other, each looked at every so many seconds until it is Synced; then the first is started anew, as a member.
    """
    nodes = made.cluster.nodes
    with ThreadPoolExecutor(len(nodes)) as pool:
        positions = dict(zip((node.name for node in nodes), pool.map(_position, nodes), strict=True))
    first = max(nodes, key=lambda node: int(positions[node.name].partition(":")[2].partition(",")[0]))
    state = Path(first.datadir, "grastate.dat")
    state.write_text(re.sub(r"safe_to_bootstrap: \d", "safe_to_bootstrap: 1", state.read_text()))
    Path(first.datadir, "gvwstate.dat").unlink(missing_ok=True)
    _start(first, positions[first.name], "--wsrep-new-cluster")
    _until_synced(made, [first], every_s=0.1)
    for node in nodes:
        if node is not first:
            _start(node, positions[node.name])
            _until_synced(made, [node], every_s=joiner_every_s)
    pid = server_pid(first)
    assert pid is not None
    os.kill(pid, 15)
    while server_pid(first) is not None:
        time.sleep(0.1)
    _start(first, "")
    _until_synced(made, nodes, every_s=0.1)


def _argv(node: Node, *options: str) -> list[str]:
    configuration = Path(node.datadir).with_name("my.cnf")
    user = ["--user=root"] if os.geteuid() == 0 else []
    return ["mariadbd", f"--defaults-file={configuration}", f"--datadir={node.datadir}", *user, *options]


def _environment(node: Node) -> dict[str, str]:
    return {**os.environ, "DBHA_DATADIR": node.datadir}  # so that the sandbox finds it, and its helpers


def _position(node: Node) -> str:
    log = Path(node.datadir).with_name("recover.log")
    log.unlink(missing_ok=True)
    argv = _argv(node, "--wsrep-recover", f"--log-error={log}", f"--pid-file={log}.pid")
    subprocess.run(argv, env=_environment(node), capture_output=True, check=True)
    return re.findall(r"Recovered position:\s*(\S+)", log.read_text())[-1]


def _start(node: Node, position: str, *options: str) -> None:
    at = (f"--wsrep-start-position={position}",) if position else ()
    subprocess.Popen(
        _argv(node, *at, *options), env=_environment(node), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, start_new_session=True, cwd="/",
    )  # fmt: skip


def _until_synced(made: Cloud, nodes: Sequence[Node], *, every_s: float) -> None:
    deadline = time.monotonic() + _SYNCED_WITHIN_S
    while True:
        try:
            wait_until_synced(made.cluster, nodes, 0)
            return
        except DbhaError:
            if time.monotonic() > deadline:
                raise
            time.sleep(every_s)
