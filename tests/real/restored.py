"""A cluster of one node on the prepared form of a backup, set up as the role sets nodes up."""

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from dbha.cluster.handle import Cluster
from dbha.database import Account
from dbha.errors import DbhaError
from dbha.inventory import Node
from tests.real.lone_server import free_ports

PATIENCE_S = 60.0


@contextmanager
def restored_server(prepared: Path, directory: Path, account: Account) -> Iterator[tuple[Cluster, Node]]:
    """Yield the cluster and its node; the prepared tree stays as it is."""
    data = directory / "data"
    shutil.copytree(prepared, data)
    ports = free_ports(4)
    argv = [
        "mariadbd", "--no-defaults", f"--datadir={data}", f"--socket={directory}/s", f"--port={ports[0]}",
        "--bind-address=127.0.0.1", f"--log-error={directory}/error.log", f"--pid-file={directory}/pid",
        "--wsrep-on=ON", "--wsrep-provider=/usr/lib/galera/libgalera_smm.so", "--binlog-format=ROW",
        "--wsrep-cluster-address=gcomm://", "--wsrep-node-address=127.0.0.1", "--innodb-autoinc-lock-mode=2",
        "--innodb-buffer-pool-size=128M", "--log-bin=binlog", "--log-slave-updates", "--server-id=1",
        "--wsrep-gtid-mode=ON", "--wsrep-gtid-domain-id=1", "--gtid-domain-id=101",
        "--log-bin-trust-function-creators", "--innodb-flush-log-at-trx-commit=1",
        f"--wsrep-provider-options=base_port={ports[1]};gmcast.listen_addr=tcp://127.0.0.1:{ports[2]};"
        f"ist.recv_addr=127.0.0.1:{ports[3]};gcache.size=16M",
        *(["--user=root"] if os.geteuid() == 0 else []),
    ]  # fmt: skip
    node = Node("restored", "127.0.0.1", ports[0], str(data))
    cluster = Cluster("restored", (node,), account)
    with subprocess.Popen(argv, stderr=subprocess.DEVNULL) as process:
        try:
            wait_for("the restored server", lambda: _serves(cluster, node))
            yield cluster, node
        finally:
            process.kill()


def wait_for(what: str, condition: Callable[[], bool]) -> None:
    """Return once the condition is true; fail when it never is."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline_s, f"{what}: waited too long"
        time.sleep(0.2)


def _serves(cluster: Cluster, node: Node) -> bool:
    try:
        with cluster.session(node) as session:
            return bool(session.rows("SHOW STATUS LIKE 'wsrep_ready'")[0]["Value"] == "ON")
    except DbhaError:  # it does not answer yet
        return False
