"""Bring a sandbox up: make it where there is none, start what does not run where there is one."""

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from dbha.cluster.bootstrap import bootstrap, start_nodes, wait_until_synced
from dbha.cluster.evidence import gather
from dbha.cluster.handle import Cluster
from dbha.errors import BusyError, UnreachableError, UnsafeError, UsageError
from dbha.inventory import Node
from dbha.sandbox.files import write_files
from dbha.sandbox.layout import MAX_NODES, Layout, Sandbox, read_sandbox, runtime_root, socket_directory
from dbha.sandbox.ports import FIRST_PORT, LAST_PORT, choose_ports, is_free, reserve, reserving
from dbha.sandbox.processes import still_running, stop_sandbox
from dbha.sandbox.remains import choose_beginning

DEFAULT_NODES = 3
DEFAULT_RELEASE = "2025.1"
_TOOLS = ("mariadbd", "mariadb", "mariadb-install-db", "mariadb-backup", "socat", "tar", "zstd")
_SYNCED_WITHIN_S = 120.0


@dataclass(frozen=True, slots=True)
class UpResult:
    """A running sandbox, and what it took."""

    sandbox: Sandbox
    created: bool
    changed: bool
    seconds: float


def up(
    directory: Path,
    *,
    nodes: int | None = None,
    release: str | None = None,
    environment: Mapping[str, str] = os.environ,
    on_line: Callable[[str], None] = lambda line: None,
) -> UpResult:
    """Return a running sandbox in `directory`, all nodes Synced; a second call changes nothing.

    None for `nodes` and `release` takes what the sandbox has, or 3 nodes of 2025.1 for a new one. Raises
    UsageError when an existing one has others, UnsafeError when the directory is something else, BusyError
    when it is being brought up or down already, UnreachableError when a tool is missing.
    """
    started_s = time.monotonic()
    _require_tools()
    if nodes is not None and not 1 <= nodes <= MAX_NODES:
        raise UsageError(f"a sandbox has 1 to {MAX_NODES} nodes, not {nodes}")
    with locked(directory):
        created = not Layout(directory).inventory.exists()
        if created:
            _create(directory, nodes or DEFAULT_NODES, release or DEFAULT_RELEASE, environment)
        sandbox = read_sandbox(directory)
        _require_same(sandbox, nodes, release)
        cluster = sandbox.cluster(environment)
        sandbox.sockets.mkdir(mode=0o700, exist_ok=True)  # /tmp may have been emptied meanwhile
        bring = _restart if sandbox.layout.bootstrapped.exists() else _bootstrap
        changed = bring(sandbox, cluster, on_line)
        on_line("Wait until every node is Synced")
        _wait(cluster, sandbox.nodes)
    return UpResult(sandbox, created, changed, time.monotonic() - started_s)


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the sandbox in `directory`, made if need be.

    Raises BusyError when another process holds it, UnsafeError when the directory is something else.
    """
    layout = Layout(directory)
    if layout.inventory.exists():
        read_sandbox(directory)
    elif directory.is_dir() and any(directory.iterdir()) and not layout.lock.exists():
        raise UnsafeError(f"{directory} is not empty and not a sandbox")
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    with layout.lock.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BusyError(f"the sandbox in {directory} is being brought up or down") from error
        yield


def _create(directory: Path, nodes: int, release: str, environment: Mapping[str, str]) -> None:
    layout = Layout(directory.resolve())
    sockets = socket_directory(directory, environment)
    sockets.mkdir(mode=0o700, exist_ok=True)
    with reserving(runtime_root(environment)) as reserved:
        # Two sandboxes begin to look at different places, so they rarely want the same ports.
        start = FIRST_PORT + int(sockets.name, 16) % (LAST_PORT - FIRST_PORT)
        ports = choose_ports(nodes, reserved=reserved, is_free=is_free, start=start)
        reserve(sockets, layout.directory, ports)
    write_files(layout, release=release, ports=ports, sockets=sockets)


def _bootstrap(sandbox: Sandbox, cluster: Cluster, on_line: Callable[[str], None]) -> bool:
    """Make the cluster; what an interrupted attempt left is thrown away, for nobody ever used it."""
    stop_sandbox(sandbox)
    shutil.rmtree(sandbox.layout.directory / "nodes", ignore_errors=True)
    for node in sandbox.nodes:
        (sandbox.layout.node(node.name) / "tmp").mkdir(parents=True, mode=0o700)
    layout = sandbox.layout
    bootstrap(cluster, inventory=layout.inventory, run_directory=layout.ansible, on_line=on_line)
    layout.bootstrapped.touch()
    return True


def _restart(sandbox: Sandbox, cluster: Cluster, on_line: Callable[[str], None]) -> bool:
    """Start what does not run, and return whether anything did not; first those that form the cluster."""
    beginning = choose_beginning(gather(cluster, is_settled=True))
    for node in sandbox.nodes:
        Path(node.datadir).mkdir(
            mode=0o700, exist_ok=True
        )  # one that was removed is filled by a state transfer
    first = [sandbox.node(name) for name in beginning.first]
    others = [node for node in sandbox.nodes if node not in first]
    for nodes, chosen in ((first, beginning.new_cluster_node), (others, None)):
        if nodes:
            layout = sandbox.layout
            result = start_nodes(
                nodes, inventory=layout.inventory, run_directory=layout.ansible,
                new_cluster_node=sandbox.node(chosen) if chosen else None, on_line=on_line,
            )  # fmt: skip
            _wait(cluster, nodes)
    return bool(first) or result.changed_anything


def _wait(cluster: Cluster, nodes: Sequence[Node]) -> None:
    """Return once `nodes` are Synced; a server that ended ends the waiting."""
    wait_until_synced(cluster, nodes, _SYNCED_WITHIN_S, check=lambda: _all_run(nodes))


def _all_run(nodes: Sequence[Node]) -> None:
    for node in nodes:
        still_running(node)


def _require_tools() -> None:
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))  # few users have sbin
    if missing := [tool for tool in _TOOLS if shutil.which(tool, path=path) is None]:
        raise UnreachableError(
            f"not installed: {', '.join(missing)}",
            hint="apt install mariadb-server mariadb-backup galera-4 socat zstd",
        )


def _require_same(sandbox: Sandbox, nodes: int | None, release: str | None) -> None:
    hint = "dbha sandbox down     removes it, with its data"
    if nodes is not None and nodes != len(sandbox.nodes):
        raise UsageError(f"the sandbox has {len(sandbox.nodes)} nodes, not {nodes}", hint=hint)
    services = yaml.safe_load(sandbox.layout.configuration.read_text(encoding="utf-8"))["services"]
    releases = {policy["release"] for policy in services.values()}
    if release is not None and releases != {release}:
        raise UsageError(f"the sandbox was made with release {', '.join(sorted(releases))}", hint=hint)
