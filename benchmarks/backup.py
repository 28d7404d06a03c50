"""Taking a backup: dbha beside the bare pipeline and beside kolla's, its memory, and what writers notice of it."""

import os
import subprocess
import time
from datetime import datetime
from pathlib import Path
from statistics import median

from benchmarks.cloud import ALL, DBHA, Cloud, cloud, shell, timed
from dbha.sandbox.ledger import TABLES, WriterProcess, WriterSettings

_TAKE = (
    'mariadb-backup --defaults-extra-file="$CNF" --backup --galera-info {parallel} --stream=mbstream'
    ' --target-dir="$TMP" --datadir="$DATADIR" --protocol=tcp --host="$HOST" --port="$PORT" 2>"$LOG"'
    ' | {compress}; tail -1 "$LOG" | grep -q "completed OK!"'
)
_BARE = _TAKE.format(parallel="--parallel=2", compress='zstd -1 -T2 -q -f -o "$OUT"')
# What kolla's backup.sh runs: one thread reads, one compresses.
_KOLLA = _TAKE.format(parallel="", compress='gzip > "$OUT"')
_KOLLA_ROUNDS = 2  # it takes long, and hardly varies
_POLL_S = 0.02
_IDLE_S = 15.0


def measure(instances: int, rounds: int = 5) -> list[dict[str, object]]:
    """Return the seconds of all sides pair by pair and as medians, peak memory, and a writer's longest wait."""
    with cloud(instances) as made:
        taken = [(*_our_seconds(made), bare_seconds(made)) for _ in range(rounds)]
        kolla_s = median(pipeline_seconds(made, _KOLLA) for _ in range(_KOLLA_ROUNDS))
        idle_s, wait_s = _longest_waits(made)
        size = made.data_bytes(ALL)
    rows: list[dict[str, object]] = [
        {
            "data": f"{size / 1e9:.2f} GB", "dbha's backup (s)": round(step, 2), "bare (s)": round(bare, 2),
            "times bare": round(step / bare, 2), "whole command (s)": round(whole, 2),
            "peak memory of dbha (MiB)": round(peak / 2**20),
        }
        for whole, step, peak, bare in taken
    ]  # fmt: skip
    step_s = median(step for _, step, _, _ in taken)
    summary: dict[str, object] = {
        "data": "median", "dbha's backup (s)": round(step_s, 2),
        "times bare": round(median(step / bare for _, step, _, bare in taken), 2),
        "kolla's gzip (s)": round(kolla_s, 2), "times kolla": round(step_s / kolla_s, 2),
        "peak memory of dbha (MiB)": round(max(peak for _, _, peak, _ in taken) / 2**20),
        "longest wait of a writer elsewhere (s)": round(wait_s, 3), "the same, idle (s)": round(idle_s, 3),
    }  # fmt: skip
    return [*rows, summary]


def _our_seconds(made: Cloud) -> tuple[float, float, int]:
    """Return the time of the whole command, of taking and storing by the journal, and peak memory in bytes."""
    os.sync()
    whole_s, peak_bytes = _watched(made, "backup", "create")
    (step,) = (step for step in made.runs()[0]["steps"] if step["name"] == "backup")
    taken = datetime.fromisoformat(step["ended"]) - datetime.fromisoformat(step["started"])
    return whole_s, taken.total_seconds(), peak_bytes


def _watched(made: Cloud, *arguments: str) -> tuple[float, int]:
    """Run `dbha`; return its wall time and the most memory that its own process had, tools not counted."""
    environment = {**os.environ, "DBHA_CONFIG": str(made.sandbox.layout.configuration)}
    started, peak_bytes = time.monotonic(), 0
    argv = (str(DBHA), *arguments)
    with subprocess.Popen(
        argv, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        while process.poll() is None:
            peak_bytes = max(peak_bytes, _peak_bytes(process.pid))
            time.sleep(_POLL_S)
    if process.returncode != 0:
        raise RuntimeError(f"dbha {' '.join(arguments)} exited {process.returncode}")
    return time.monotonic() - started, peak_bytes


def _peak_bytes(pid: int) -> int:
    """Return VmHWM of a process; 0 for one that has just ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)


def _longest_waits(made: Cloud) -> tuple[float, float]:
    """Return the longest wait of a writer on the first node: of some idle seconds, and during a backup of another."""
    waits = []
    for act in (lambda: time.sleep(_IDLE_S), lambda: _watched(made, "backup", "create")):
        os.sync()  # before the writer begins: its commits would wait for all that others left to be written
        # Made anew: a second writer of the same run would meet the rows of the first.
        settings = WriterSettings(TABLES["keystone"], (made.writer,), made.cluster.account, rate_per_s=100.0)
        with WriterProcess(settings) as writer:
            act()
            waits.append(writer.stop().longest_wait_s)
    return waits[0], waits[1]


def bare_seconds(made: Cloud) -> float:
    """Return the wall time of `mariadb-backup | zstd`."""
    return pipeline_seconds(made, _BARE)


def pipeline_seconds(made: Cloud, script: str) -> float:
    """Return the wall time of a pipeline on the node that dbha would read."""
    donor = made.cluster.nodes[1]
    return timed(
        lambda: shell(
            script, CNF=made.options_file(), TMP=made.directory, DATADIR=donor.datadir, HOST=donor.address,
            PORT=donor.port, LOG=made.directory / "bare.log", OUT=made.directory / "bare.out",
        )
    )  # fmt: skip
