"""Replaying logs: dbha beside `mariadb-binlog | mariadb` by hand, on the same backup, in turns.

By hand there are two ways, and both are here: into a cluster of one node, which needs `sed` as well; and into a plain
server with the very settings of dbha's own.
"""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from benchmarks.cloud import DBHA, shell, timed
from dbha.backup.binlog.archive import Archive
from dbha.backup.binlog.replay import ReplayPlace, replay
from dbha.backup.binlog.replay_plan import plan_replay
from dbha.backup.binlog.replay_program import LOG, running_server, wait_for
from dbha.backup.binlog.target import Newest
from dbha.backup.directory_store import DirectoryStore
from dbha.backup.manifest import Manifest
from dbha.backup.tool_files import layout_options
from dbha.backup.verify import verify
from dbha.config import Configuration, load_configuration
from dbha.sandbox import down
from dbha.sandbox.layout import Sandbox, read_sandbox
from dbha.transport import LocalTransport
from tests.real.restored import restored_server

_BY_HAND = (
    'mariadb-binlog --start-position="$START" --stop-position="$STOP" "$LOG"'
    ' | sed "/SET @@session.server_id=/Id" | mariadb --defaults-extra-file="$CNF" --binary-mode'
)
_BY_HAND_PLAIN = (
    'mariadb-binlog --start-position="$START" --stop-position="$STOP" "$LOG"'
    ' | mariadb --no-defaults --socket="$SOCKET" --binary-mode'
)
_POOL_BYTES = 128 << 20
_WIDTH = 200  # bytes of a row


def measure(transactions: int, rounds: int = 3) -> list[dict[str, object]]:
    """Return events per second of both sides, pair by pair, and the median of their ratios.

    dbha's time has everything: it hashes the logs, finds the transactions, and reads the position back.
    """
    with tempfile.TemporaryDirectory(prefix="dbha-benchmark-") as parent, _sandbox(Path(parent)) as sandbox:
        configuration = load_configuration(sandbox.layout.configuration)
        manifest, archive = _write_and_archive(sandbox, configuration, transactions)
        store = DirectoryStore(configuration.backup.stores["local"].directory)
        prepared = verify(
            store, manifest.id, Path(parent, "staging"), on_bytes=lambda done, total: None, keep=True
        ).prepared
        assert prepared is not None
        events = _events(archive, manifest)
        rows = []
        for number in range(rounds):
            rates = {}
            sides = (_ours, _by_hand, _by_hand_plain)
            for side in sides[number % 3 :] + sides[: number % 3]:
                directory = Path(parent, f"{number}{side.__name__}")
                directory.mkdir()
                rates[side] = events / side(sandbox, prepared, archive, manifest, directory)
            rows.append(tuple(rates[side] for side in sides))
    return _table(rows, transactions, events)


def _ours(_: Sandbox, prepared: Path, archive: Archive, manifest: Manifest, directory: Path) -> float:
    """Everything from the archive to a tree that is stopped and durable: the server's start and stop as well."""
    tree = shutil.copytree(prepared, directory / "data")
    layout = layout_options((tree / "backup-my.cnf").read_text())
    place = ReplayPlace(LocalTransport(), str(tree), str(directory / "mark"), _POOL_BYTES, layout)

    def action() -> None:
        replay(place, plan_replay(archive, manifest, Newest()), on_bytes=lambda done, total: None)

    return timed(action)


def _by_hand(
    sandbox: Sandbox, prepared: Path, archive: Archive, manifest: Manifest, directory: Path
) -> float:
    """An operator who knows log and positions already, and has the server running."""
    (segment,) = plan_replay(archive, manifest, Newest()).segments
    options = directory / "client.cnf"
    options.touch(mode=0o600)
    with restored_server(prepared, directory, sandbox.cluster(os.environ).account) as (cluster, node):
        options.write_text(
            f"[client]\nprotocol=tcp\nhost={node.address}\nport={node.port}\n"
            f"user={cluster.account.user}\npassword={cluster.account.password.reveal()}\n"
        )
        return timed(
            lambda: shell(_BY_HAND, START=segment.begin, STOP=segment.end, LOG=segment.part.path, CNF=options)
        )


def _by_hand_plain(
    _: Sandbox, prepared: Path, archive: Archive, manifest: Manifest, directory: Path
) -> float:
    """The same operator, with a server that is in no cluster, set as dbha sets its own."""
    (segment,) = plan_replay(archive, manifest, Newest()).segments
    tree = shutil.copytree(prepared, directory / "data")
    request = {"datadir": str(tree), "pool_bytes": _POOL_BYTES, "layout": (), "token": "", "mark": ""}
    with running_server(request) as server:
        wait_for(server, request)
        return timed(
            lambda: shell(
                _BY_HAND_PLAIN,
                START=segment.begin, STOP=segment.end, LOG=segment.part.path, SOCKET=tree / f"{LOG}.sock",
            )
        )  # fmt: skip


def _write_and_archive(
    sandbox: Sandbox, configuration: Configuration, transactions: int
) -> tuple[Manifest, Archive]:
    cluster = sandbox.cluster(os.environ)
    with cluster.session(cluster.nodes[0]) as session:
        session.execute("CREATE DATABASE bench")
        session.execute("CREATE TABLE bench.rows (id INT PRIMARY KEY AUTO_INCREMENT, word VARCHAR(255))")
        done = _dbha(sandbox, "backup", "create", "--json")
        for number in range(transactions):
            session.execute("INSERT INTO bench.rows (word) VALUES (%s)", [f"{number:0{_WIDTH}}"])
    cluster.close()
    _dbha(sandbox, "backup", "archive", "--once")
    store = DirectoryStore(configuration.backup.stores["local"].directory)
    return store.manifest(json.loads(done)["backup"]["id"]), Archive(configuration.state / "archive")


def _events(archive: Archive, manifest: Manifest) -> int:
    """Return how many events are replayed, as the tool prints them."""
    count = 0
    for segment in plan_replay(archive, manifest, Newest()).segments:
        argv = ("mariadb-binlog", f"--start-position={segment.begin}", f"--stop-position={segment.end}",
                "--base64-output=decode-rows", segment.part.path)  # fmt: skip
        done = subprocess.run(argv, capture_output=True, check=True)
        count += done.stdout.count(b"\n# at ")
    return count


def _table(rows: list[tuple[float, ...]], transactions: int, events: int) -> list[dict[str, object]]:
    logged = f"{transactions} transactions, {events} events"
    return [
        *(
            {"logs": logged, "dbha (events/s)": round(ours), "by hand (events/s)": round(by_hand),
             "by hand, plain server (events/s)": round(plain), "ratio": round(ours / by_hand, 2),
             "ratio, plain": round(ours / plain, 2)}
            for ours, by_hand, plain in rows
        ),
        {"logs": "median", "ratio": round(median(ours / by_hand for ours, by_hand, _ in rows), 2),
         "ratio, plain": round(median(ours / plain for ours, _, plain in rows), 2)},
    ]  # fmt: skip


def _dbha(sandbox: Sandbox, *arguments: str) -> bytes:
    argv = (str(DBHA), "-c", str(sandbox.layout.configuration), *arguments)
    return subprocess.run(argv, capture_output=True, check=True).stdout


@contextmanager
def _sandbox(parent: Path) -> Iterator[Sandbox]:
    directory = parent / "sandbox"
    subprocess.run(
        [DBHA, "sandbox", "up", "--nodes", "1", "--directory", directory], check=True, capture_output=True
    )
    try:
        yield read_sandbox(directory)
    finally:
        down(directory)
