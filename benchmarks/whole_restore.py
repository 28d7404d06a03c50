"""Restoring the whole cluster: dbha beside one node and two state transfers, and beside only unpacking."""

import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from benchmarks.cloud import ALL, Cloud, cloud, shell, timed
from dbha.cluster.bootstrap import start_nodes, wait_until_synced
from dbha.sandbox import stop_sandbox

_UNPACK = 'mkdir -p "$TO" && zstd -dcq "$FROM" | mbstream -x -p 2 -C "$TO" && sync -f "$TO"'
_BY_HAND = (  # kolla-ansible's documentation, "MariaDB backup and restore", on the first node
    'rm -rf "$DATA" && mkdir -m 700 "$DATA" && zstd -dcq "$FROM" | mbstream -x -p 2 -C "$DATA" && '
    'mariadb-backup --no-defaults --prepare --use-memory=1G --target-dir="$DATA" 2>/dev/null && '
    'rm -rf "$DATA"/xtrabackup_* "$DATA"/backup-my.cnf'
)
_DBHA = "dbha restore ID, whole command"


def measure(instances: int) -> list[dict[str, object]]:
    """Return one row for each side: seconds, and the ratio of dbha to it."""
    with cloud(instances) as made:
        made.dbha("backup", "create", "--verify")
        store = made.sandbox.layout.directory / "backups"
        backup = sorted(store.iterdir())[-1]
        stream = backup / "stream.mbs.zst"
        size = made.data_bytes(ALL)
        sides: dict[str, Callable[[], object]] = {
            _DBHA: lambda: made.dbha("restore", backup.name, "--yes"),
            "one node by hand, the others by state transfer": partial(_by_hand, made, stream),
            "only unpacking, on each node": partial(_unpack_everywhere, made, stream),
        }
        taken = {}
        for name, side in sides.items():
            taken[name] = timed(side)
            _clean(made)
    return [
        {
            "data": f"{size / 1e9:.2f} GB", "side": name, "seconds": round(seconds, 1),
            "dbha's share": round(taken[_DBHA] / seconds, 2),
        }
        for name, seconds in taken.items()
    ]  # fmt: skip


def _unpack_everywhere(made: Cloud, stream: Path) -> None:
    with ThreadPoolExecutor(max_workers=len(made.cluster.nodes)) as pool:
        places = [Path(f"{node.datadir}.unpacked") for node in made.cluster.nodes]
        list(pool.map(lambda place: shell(_UNPACK, FROM=stream, TO=place), places))


def _by_hand(made: Cloud, stream: Path) -> None:
    first, *others = made.cluster.nodes
    layout = made.sandbox.layout
    stop_sandbox(made.sandbox)
    shell(_BY_HAND, FROM=stream, DATA=first.datadir)
    start_nodes([first], inventory=layout.inventory, run_directory=layout.ansible, new_cluster_node=first)
    wait_until_synced(made.cluster, [first], 600)
    for node in others:
        shutil.rmtree(node.datadir)
        Path(node.datadir).mkdir(mode=0o700)
    start_nodes(others, inventory=layout.inventory, run_directory=layout.ansible)
    wait_until_synced(made.cluster, made.cluster.nodes, 600)


def _clean(made: Cloud) -> None:
    for node in made.cluster.nodes:
        for name in (f"{node.datadir}.dbha", f"{node.datadir}.unpacked"):
            shutil.rmtree(name, ignore_errors=True)
    os.sync()
