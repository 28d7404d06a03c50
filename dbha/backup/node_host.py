"""What a node's host has for a restore of the whole cluster: tools, their versions, and room beside the data."""

from collections.abc import Sequence
from dataclasses import dataclass

from dbha.cluster.handle import Cluster
from dbha.errors import UnreachableError
from dbha.inventory import Node

_LOOK = (
    'data=$1; shift; PATH=$PATH:/usr/sbin:/sbin; [ -d "$data" ] || { echo "it has no directory $data"; exit 3; }; '
    'for tool in mariadbd bash "$@"; do '
    'command -v "$tool" >/dev/null || { echo "$tool is not installed"; exit 3; }; done; '
    '[ -w "${data%/*}" ] || { echo "${data%/*} cannot be written to"; exit 3; }; '
    'stat -c %d "${data%/*}"; if mountpoint -q "$data"; then echo mounted; else stat -c %d "$data"; fi; '
    'df --output=avail -B1 "${data%/*}" | tail -n 1; '
    "mariadbd --no-defaults --version; mariadb-backup --no-defaults --version 2>&1"
)
_MISSING = 'for tool in "$@"; do command -v "$tool" >/dev/null || echo "$tool"; done'


@dataclass(frozen=True, slots=True)
class HostState:
    """What a node's host said; `problem` is why it cannot take part, in words, and then the rest is empty."""

    node: str
    problem: str = ""
    filesystem: str = ""
    free_bytes: int = 0
    server_version: str = ""  # of the programs that are installed there
    tool_version: str = ""
    is_mount_point: bool = False  # the data directory itself: it cannot be renamed


def look_at(cluster: Cluster, node: Node, tools: Sequence[str]) -> HostState:
    """Return what the node's host says; `tools` are those that unpack the backup.

    Never raises for a host: one that cannot be reached is a state.
    """
    try:
        done = cluster.transport(node).run(("sh", "-c", _LOOK, "sh", node.datadir, *tools))
    except UnreachableError as error:
        return HostState(node.name, problem=f"its host cannot be reached: {error}")
    said = done.stdout.decode(errors="replace").splitlines()
    if done.returncode != 0 or len(said) < 5:
        return HostState(node.name, problem=(said or [done.stderr.decode(errors="replace").strip()])[-1])
    return parse_host(node.name, "here" if node.ssh is None else node.ssh.host, said)


def missing_tools(cluster: Cluster, node: Node, tools: Sequence[str]) -> tuple[str, ...]:
    """Return which tools the node's host has not; none where it cannot be asked, which others notice."""
    try:
        done = cluster.transport(node).run(("sh", "-c", _MISSING, "sh", *tools))
    except UnreachableError:
        return ()
    return tuple(done.stdout.decode(errors="replace").split())


def parse_host(node: str, host: str, said: list[str]) -> HostState:
    """Return the state that the lines of the look describe."""
    parent, own, free, server, tool = said[:5]
    return HostState(
        node,
        filesystem=f"{host}:{parent}",
        free_bytes=int(free),
        server_version=server.partition("Ver ")[2].split(" ")[0],
        tool_version=tool.partition("server ")[2].split(" ")[0],
        is_mount_point=parent != own,
    )
