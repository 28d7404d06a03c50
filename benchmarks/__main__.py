"""`python -m benchmarks [NAME ...] [SIZE ...]`: prints tables for docs/benchmarks.md; names: see `_MEASURES`."""

import sys
from collections.abc import Sequence

from benchmarks import backup, recover, replay, restore, upgrade, whole_restore

_DEFAULTS = {
    "restore": (20_000, 60_000),
    "backup": (15_000, 60_000),  # some 0.5 and 2 GB
    "upgrade": (20_000,),
    "whole-restore": (15_000, 80_000),
    "replay": (20_000,),
    "recover": (1_000,),
}
_MEASURES = {
    "restore": restore.measure,
    "backup": backup.measure,
    "upgrade": upgrade.measure,
    "whole-restore": whole_restore.measure,
    "replay": replay.measure,
    "recover": recover.measure,
}


def main(arguments: Sequence[str]) -> None:
    """Run the benchmarks that are named, or all of them, and print their tables."""
    names = [name for name in arguments if name in _MEASURES] or list(_MEASURES)
    sizes = [int(word) for word in arguments if word.isdecimal()]
    for name in names:
        for instances in sizes or _DEFAULTS[name]:
            what = "transactions" if name == "replay" else "instances"
            print(f"\n{name}, {instances} {what}\n")
            print(table(_MEASURES[name](instances)), flush=True)


def table(rows: Sequence[dict[str, object]]) -> str:
    """Return rows as a Markdown table."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    lines = [
        columns,
        ["---"] * len(columns),
        *([str(row.get(column, "")) for column in columns] for row in rows),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    main(sys.argv[1:])
