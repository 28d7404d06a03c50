"""A real Prometheus on a free port, with dbha's own alert rules at a pace for tests."""

import contextlib
import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

import yaml

from tests.real.processes import eventually
from tests.real.served import free_port

RULES = Path(__file__).parents[2] / "packaging" / "prometheus" / "dbha.rules.yml"
WITHIN_S = 60.0


@dataclass(frozen=True)
class Prometheus:
    """The process, and what it knows."""

    port: int

    def query(self, expression: str) -> list[dict[str, str]]:
        """Return the labels of everything that an expression finds now."""
        url = f"http://127.0.0.1:{self.port}/api/v1/query?{urlencode({'query': expression})}"
        with urlopen(url, timeout=10) as answer:
            result: list[dict[str, Any]] = json.load(answer)["data"]["result"]
        return [each["metric"] for each in result]

    def firing(self) -> set[str]:
        """Return the names of the alerts that fire."""
        return {labels["alertname"] for labels in self.query('ALERTS{alertstate="firing"}')}

    def until(self, alert: str, *, fires: bool) -> None:
        """Wait until an alert fires, or does not any more."""
        eventually(
            lambda: True if (alert in self.firing()) == fires else None,
            f"{alert} {'never fired' if fires else 'never cleared'}", within_s=WITHIN_S, every_s=0.2,
        )  # fmt: skip


def is_ready(port: int) -> bool | None:
    """Return True once a Prometheus on this port answers queries, else None."""
    with contextlib.suppress(OSError), urlopen(f"http://127.0.0.1:{port}/-/ready", timeout=10):
        return True
    return None


def hurried(rules: str) -> str:
    """Return the rules with nothing changed but how long an alert waits before it fires."""
    data = yaml.safe_load(rules)
    for rule in data["groups"][0]["rules"]:
        if "for" in rule:
            rule["for"] = "1s"
    return yaml.safe_dump(data)


@contextmanager
def prometheus(directory: Path, target: int) -> Iterator[Prometheus]:
    """Scrape what listens on a port twice a second; the process is gone after the block, whatever happens."""
    port = free_port()
    (directory / "dbha.rules.yml").write_text(hurried(RULES.read_text()))
    policy = {
        "global": {"scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "500ms"},
        "rule_files": ["dbha.rules.yml"],
        "scrape_configs": [{"job_name": "dbha", "static_configs": [{"targets": [f"127.0.0.1:{target}"]}]}],
    }
    (directory / "prometheus.yml").write_text(yaml.safe_dump(policy))
    argv = [
        "prometheus", f"--config.file={directory}/prometheus.yml", f"--storage.tsdb.path={directory}/data",
        f"--web.listen-address=127.0.0.1:{port}",
    ]  # fmt: skip
    log_file = directory / "prometheus.log"
    with (
        log_file.open("wb") as log,
        subprocess.Popen(argv, stdout=log, stderr=log, start_new_session=True) as process,
    ):
        try:
            eventually(
                lambda: is_ready(port), f"it was never ready: {log_file}", within_s=WITHIN_S, every_s=0.1
            )
            yield Prometheus(port)
        finally:
            process.kill()
