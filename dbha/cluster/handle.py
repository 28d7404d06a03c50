"""How to reach the nodes of one cluster: SQL sessions and transports, one node or all side by side."""

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TypeVar

from dbha.database import Account, Session, connect
from dbha.errors import UsageError
from dbha.inventory import Node, SshSettings
from dbha.transport import LocalTransport, SshEndpoint, SshTransport, Transport

T = TypeVar("T")


class Cluster:
    """The nodes of a cluster and the administrator's account on them."""

    def __init__(
        self,
        name: str,
        nodes: tuple[Node, ...],
        account: Account,
        *,
        connect_timeout_s: float = 3,
        tls_ca_file: Path | None = None,
    ) -> None:
        self.name = name
        self.nodes = nodes
        self.account = account
        self.tls_ca_file = tls_ca_file  # None: connections are not encrypted
        self._connect_timeout_s = connect_timeout_s
        self._signature = ""
        self._transports: dict[str, Transport] = {}
        self._lock = threading.Lock()

    def node(self, name: str) -> Node:
        """Return the node called `name`. Raises UsageError that lists the nodes there are."""
        for node in self.nodes:
            if node.name == name:
                return node
        raise UsageError(f"no node is called {name}; there are {', '.join(map(str, self.nodes))}")

    def only(self, names: Iterable[str]) -> "Cluster":
        """Return the same cluster as if it had only these nodes; connections to hosts are shared."""
        chosen = frozenset(names)
        nodes = tuple(node for node in self.nodes if node.name in chosen)
        part = Cluster(
            self.name,
            nodes,
            self.account,
            connect_timeout_s=self._connect_timeout_s,
            tls_ca_file=self.tls_ca_file,
        )
        part._signature, part._transports, part._lock = self._signature, self._transports, self._lock
        return part

    def session(self, node: Node, *, read_timeout_s: float | None = None) -> AbstractContextManager[Session]:
        """Return a session on `node` as administrator; None waits for answers as long as they take."""
        return connect(
            node,
            self.account,
            connect_timeout_s=self._connect_timeout_s,
            read_timeout_s=read_timeout_s,
            signature=self._signature,
            tls_ca_file=self.tls_ca_file,
        )

    def sign_as(self, run_id: str) -> None:
        """Sign every statement of sessions that are opened from now on as one of this run."""
        self._signature = f"/* dbha {run_id} */ "

    def transport(self, node: Node) -> Transport:
        """Return the way to the node's host; connections are kept and shared until `close`."""
        with self._lock:
            if node.name not in self._transports:
                self._transports[node.name] = open_transport(node)
            return self._transports[node.name]

    def close(self) -> None:
        """End the connections to hosts."""
        with self._lock:
            for transport in self._transports.values():
                transport.close()
            self._transports.clear()


def open_transport(node: Node) -> Transport:
    """Return a transport to the host of `node`, as the inventory says to reach it."""
    if node.ssh is None:
        return LocalTransport()
    return SshTransport(
        SshEndpoint(
            host=node.ssh.host,
            port=node.ssh.port,
            user=node.ssh.user,
            private_key_file=node.ssh.private_key_file,
            known_hosts_file=node.ssh.known_hosts_file,
        )
    )


def side_by_side(function: Callable[[Node], T], nodes: Iterable[Node]) -> dict[str, T]:
    """Return what `function` returned for each node, run on all of them at once, keyed by node name.

    Waits for all of them; then raises the first error in the order of `nodes`, if there was one.
    """
    ordered = tuple(nodes)
    with ThreadPoolExecutor(max_workers=max(1, len(ordered))) as pool:
        futures = {node.name: pool.submit(function, node) for node in ordered}
    return {name: future.result() for name, future in futures.items()}


def host_by_host(function: Callable[[Node], T], nodes: Iterable[Node]) -> dict[str, T]:
    """Return what `function` returned for each node: hosts side by side, the nodes of one host one after the other.

    For work that fills a processor: several servers at it on one host leave none to commit for their clients.
    Raises the first error of the first host that had one, once all hosts have ended.
    """
    hosts: dict[SshSettings | None, list[Node]] = {}
    for node in nodes:
        hosts.setdefault(node.ssh, []).append(node)
    with ThreadPoolExecutor(max_workers=max(1, len(hosts))) as pool:
        futures = [pool.submit(_in_turn, function, on_host) for on_host in hosts.values()]
    return {name: result for future in futures for name, result in future.result().items()}


def _in_turn(function: Callable[[Node], T], nodes: Iterable[Node]) -> dict[str, T]:
    return {node.name: function(node) for node in nodes}
