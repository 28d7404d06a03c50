"""The servers of a sandbox as processes: find them, kill one, start one, stop them all."""

import os
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from dbha.ansible import end_leftovers
from dbha.cluster.bootstrap import start_nodes, wait_until_synced
from dbha.errors import DbhaError, UsageError
from dbha.inventory import Node
from dbha.node_server import servers_on
from dbha.sandbox.layout import Sandbox, read_sandbox

_MARK = "DBHA_DATADIR"  # what the playbooks put into the environment of a server and its helpers
_LOOKS_FOR_POSITION = "--wsrep-recover"  # the argument of a server that only looks for it, and ends
_POLL_S = 0.02
_GONE_WITHIN_S = 10.0
_SYNCED_WITHIN_S = 120.0


def server_pid(node: Node) -> int | None:
    """Return the process id of the node's server, or None when it does not run.

    Its file with the process id is not asked: the server empties that file for a moment while it starts, and
    a process id that a killed server left in it may have been given away again.
    """
    servers = servers_on(node.datadir)
    return next((pid for pid in servers if _LOOKS_FOR_POSITION not in _words(pid, "cmdline")), None)


def processes_of(node: Node) -> tuple[int, ...]:
    """Return the node's server and its helpers: donors, joiners, and what a killed server left of them."""
    found = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]
    return tuple(pid for pid in found if _belongs_to(pid, node))


def kill_node(directory: Path, name: str) -> int:
    """Kill the server of a node as a crash would, and return the process id it had.

    Raises UsageError when it does not run.
    """
    node = read_sandbox(directory).node(name)
    pid = server_pid(node)
    if pid is None:
        raise UsageError(f"{name} does not run")
    _send(pid, signal.SIGKILL)
    _wait_until(lambda: not _words(pid, "cmdline"), f"{name} (process {pid}) was killed and is still there")
    return pid


def start_node(
    directory: Path, name: str, *, environment: Mapping[str, str], on_line: Callable[[str], None]
) -> None:
    """Start one node and return once it is Synced with the others."""
    sandbox = read_sandbox(directory)
    node = sandbox.node(name)
    layout = sandbox.layout
    start_nodes([node], inventory=layout.inventory, run_directory=layout.ansible, on_line=on_line)
    cluster = sandbox.cluster(environment)
    wait_until_synced(cluster, [node], _SYNCED_WITHIN_S, check=lambda: still_running(node))


def still_running(node: Node) -> None:
    """Return when the node's server runs. Raises DbhaError with its last error when it ended."""
    if server_pid(node) is None:
        log = Path(node.datadir).with_name("error.log")
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
        errors = [line for line in lines[-200:] if "ERROR" in line]
        raise DbhaError(
            f"the server of {node} ended: {(errors or lines or ['it logged nothing'])[-1]}", hint=f"{log}"
        )


def stop_sandbox(sandbox: Sandbox) -> int:
    """Kill every process of the sandbox, for its data is not needed any more; return how many there were."""
    end_leftovers(sandbox.layout.ansible)  # a playbook that goes on would start servers again
    return sum(_kill_all(node) for node in sandbox.nodes)


def _kill_all(node: Node) -> int:
    killed: set[int] = set()

    def none_left() -> bool:  # a helper may start another one meanwhile, so look anew each time
        found = processes_of(node)
        for pid in set(found) - killed:
            _send(pid, signal.SIGKILL)
        killed.update(found)
        return not found

    _wait_until(none_left, f"processes of {node} do not end")
    return len(killed)


def _belongs_to(pid: int, node: Node) -> bool:
    # A server of another make than ours has no mark.
    return f"{_MARK}={node.datadir}" in _words(pid, "environ") or (
        f"--datadir={node.datadir}" in _words(pid, "cmdline")
    )


def _words(pid: int, name: str) -> tuple[str, ...]:
    """Return the words of /proc/PID/NAME; none for a process that is gone, ended, or somebody else's."""
    try:
        content = Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return ()
    return tuple(os.fsdecode(content).rstrip("\0").split("\0")) if content else ()


def _send(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return  # it ended by itself


def _wait_until(happened: Callable[[], bool], complaint: str) -> None:
    deadline = time.monotonic() + _GONE_WITHIN_S
    while not happened():
        if time.monotonic() > deadline:
            raise DbhaError(complaint)
        time.sleep(_POLL_S)
