"""The Grafana dashboard: its queries are ones that Prometheus takes, and go by metrics that there are."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import yaml

from dbha.health.metrics import METRICS
from tests.unit.test_docs import ROOT

FILE = ROOT / "packaging" / "prometheus" / "dbha.dashboard.json"


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(FILE.read_text())["panels"]
    return found


def queries(cluster: str) -> list[str]:
    """Return the query of every panel, for a cluster."""
    return [target["expr"].replace("$cluster", cluster) for panel in panels() for target in panel["targets"]]


def test_queries_go_by_metrics_that_there_are() -> None:
    named = {name for query in queries("lab") for name in re.findall(r"\bdbha_\w+", query)}
    assert named and not named - {metric.name for metric in METRICS}
    assert all('{cluster="lab"' in query for query in queries("lab")), "two clusters are not mixed"


def test_prometheus_takes_the_queries(tmp_path: Path) -> None:
    rules = [{"record": f"panel:{number}", "expr": query} for number, query in enumerate(queries("lab"))]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    argv = ["promtool", "check", "rules", str(tmp_path / "rules.yml")]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + done.stdout


def test_panels_lie_beside_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (place["x"] + column, place["y"] + row)
            for column in range(place["w"])
            for row in range(place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
    assert (
        len({panel["id"] for panel in panels()})
        == len({panel["title"] for panel in panels()})
        == len(panels())
    )
