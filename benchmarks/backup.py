"""Taking a backup: dbha beside the bare `mariadb-backup | zstd`, in turns."""

from datetime import datetime
from statistics import median

from benchmarks.cloud import ALL, Cloud, cloud, shell, timed

_BARE = (
    'mariadb-backup --defaults-extra-file="$CNF" --backup --galera-info --parallel=2 --stream=mbstream'
    ' --target-dir="$TMP" --datadir="$DATADIR" --protocol=tcp --host="$HOST" --port="$PORT" 2>"$LOG"'
    ' | zstd -1 -T2 -q -f -o "$OUT"; tail -1 "$LOG" | grep -q "completed OK!"'
)


def measure(instances: int, rounds: int = 7) -> list[dict[str, object]]:
    """Return the seconds of both sides and their ratio, pair by pair and as median."""
    with cloud(instances) as made:
        rounds_taken = [(*_our_seconds(made), bare_seconds(made)) for _ in range(rounds)]
        size = made.data_bytes(ALL)
    rows: list[dict[str, object]] = [
        {"data": f"{size / 1e9:.2f} GB", "dbha's backup (s)": round(step, 2), "bare (s)": round(bare, 2),
         "ratio": round(step / bare, 2), "whole command (s)": round(whole, 2)}
        for whole, step, bare in rounds_taken
    ]  # fmt: skip
    ratio = median(step / bare for _, step, bare in rounds_taken)
    return [*rows, {"data": "median", "ratio": round(ratio, 2)}]


def _our_seconds(made: Cloud) -> tuple[float, float]:
    """Return the wall time of the whole command, and of taking and storing the backup, by the journal."""
    whole = made.dbha("backup", "create")
    (step,) = (step for step in made.runs()[0]["steps"] if step["name"] == "backup")
    taken = datetime.fromisoformat(step["ended"]) - datetime.fromisoformat(step["started"])
    return whole, taken.total_seconds()


def bare_seconds(made: Cloud) -> float:
    donor = made.cluster.nodes[1]
    return timed(
        lambda: shell(
            _BARE, CNF=made.options_file(), TMP=made.directory, DATADIR=donor.datadir, HOST=donor.address,
            PORT=donor.port, LOG=made.directory / "bare.log", OUT=made.directory / "bare.zst",
        )
    )  # fmt: skip
