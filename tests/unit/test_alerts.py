"""The alert rules, judged by the real promtool: each fires when it should, not before, and clears."""

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from dbha.health.metrics import METRICS
from tests.unit.test_docs import ROOT, commands_in, verbs

RULES = ROOT / "packaging" / "prometheus" / "dbha.rules.yml"
BAD_FROM, BAD_UNTIL = 10, 100  # minutes


@dataclass(frozen=True)
class Case:
    """An alert, the series it goes by, and the minute at which it has to fire."""

    alert: str
    series: dict[str, str]
    fires_at: int
    labels: str = ""


def turns(good: str, bad: str) -> str:
    """Return a series that is bad from minute 10 to 99, one value a minute."""
    return f"{good}x9 {bad}x89 {good}x30"


ON, OFF = turns("0", "1"), turns("1", "0")
CRITICAL = turns("0", "2")
FREE = {"dbha_lease_held{%s}": "0x130"}

CASES = (
    Case("DbhaSilent", {"dbha_build_info{%s}": turns("1", "_").replace("_x89", "_x90")}, 21),
    Case("DbhaObservationStale",
         {'dbha_observation_timestamp_seconds{%s,part="nodes"}': "0+60x9 600x89 6000+60x30"}, 16, 'part="nodes"'),
    Case("DbhaObservationFails", {'dbha_observation_success{%s,part="archive"}': OFF}, 21, 'part="archive"'),
    Case("DbhaClusterUnsafe", {'dbha_cluster_verdict{%s,verdict="unsafe"}': ON}, 12, 'verdict="unsafe"'),
    Case("DbhaClusterDown", {'dbha_cluster_verdict{%s,verdict="down"}': ON}, 12, 'verdict="down"'),
    Case("DbhaClusterDegraded", {'dbha_cluster_verdict{%s,verdict="degraded"}': ON}, 21, 'verdict="degraded"'),
    Case("DbhaNodeUnreachable", {'dbha_node_reachable{%s,node="a"}': OFF}, 13, 'node="a"'),
    Case("DbhaNodeStale",
         {'dbha_node_synced{%s,node="a"}': "1x130", 'dbha_node_view_agrees{%s,node="a"}': OFF}, 12, 'node="a"'),
    Case("DbhaNodeDesynced", {'dbha_node_desynced{%s,node="a"}': ON, **FREE}, 41, 'node="a"'),
    Case("DbhaFenceLeftUp", {'dbha_service_fenced{%s,service="nova"}': ON, **FREE}, 16, 'service="nova"'),
    Case("DbhaRunFailed",
         {'dbha_run_last_state{%s,workflow="upgrade",state="failed"}': ON}, 11, 'state="failed", workflow="upgrade"'),
    Case("DbhaRunInterrupted", {'dbha_run_unfinished{%s,workflow="upgrade"}': ON}, 13, 'workflow="upgrade"'),
    Case("DbhaLeaseExpired", {"dbha_lease_expired{%s}": ON}, 16),
    Case("DbhaRunStuck",
         {'dbha_run_step_started_timestamp_seconds{%s,workflow="upgrade",step="sync:nova"}': "_x10 600x89 _x40",
          'dbha_run_active{%s,workflow="upgrade"}': ON}, 77, 'step="sync:nova", workflow="upgrade"'),
    Case("DbhaRunWentBack",
         {'dbha_run_last_state{%s,workflow="upgrade",state="rolled-back"}': ON,
          'dbha_run_last_ended_timestamp_seconds{%s,workflow="upgrade"}': "600x130"}, 11,
         'state="rolled-back", workflow="upgrade"'),
    Case("DbhaSchemaNotCurrent",
         {'dbha_service_schema_current{%s,service="nova"}': OFF, **FREE}, 26, 'service="nova"'),
    Case("DbhaBackupTooOld",
         {'dbha_backup_check_level{%s,store="s",test="age"}': CRITICAL}, 16, 'store="s", test="age"'),
    Case("DbhaBackupUnverified",
         {'dbha_backup_check_level{%s,store="s",test="verified"}': CRITICAL}, 16, 'store="s", test="verified"'),
    Case("DbhaBackupFails",
         {'dbha_backup_check_level{%s,store="s",test="failures"}': CRITICAL}, 16, 'store="s", test="failures"'),
    Case("DbhaBackupWarning",
         {'dbha_backup_check_level{%s,store="s",test="size"}': ON}, 71, 'store="s", test="size"'),
    Case("DbhaArchiveStopped",
         {"dbha_archive_busy{%s}": OFF, "dbha_archive_windows{%s}": "1x130"}, 26),
)  # fmt: skip


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load(RULES.read_text())["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


def rule(alert: str) -> dict[str, Any]:
    (found,) = [each for each in rules() if each["alert"] == alert]
    return found


def as_test(case: Case) -> dict[str, Any]:
    """Return the case as promtool wants it: quiet, still quiet, firing, quiet again."""
    cluster = "" if case.alert == "DbhaSilent" else ', cluster="lab"'
    labels = f", {case.labels}" if case.labels else ""
    severity = rule(case.alert)["labels"]["severity"]
    sample = (
        f'ALERTS{{alertname="{case.alert}", alertstate="firing"{cluster}, severity="{severity}"{labels}}}'
    )
    at = [(BAD_FROM - 1, False), (case.fires_at - 2, False), (case.fires_at, True), (BAD_UNTIL + 11, False)]
    return {
        "interval": "1m",
        "name": case.alert,
        "input_series": [
            {"series": name.replace("%s", 'cluster="lab"'), "values": text}
            for name, text in case.series.items()
        ],
        "promql_expr_test": [
            {
                "expr": f'ALERTS{{alertname="{case.alert}",alertstate="firing"}}',
                "eval_time": f"{minute}m",
                "exp_samples": [{"labels": sample, "value": 1}] if fires else [],
            }
            for minute, fires in at
        ],
    }


def test_every_alert_fires_when_it_should_and_clears(tmp_path: Path) -> None:
    assert [case.alert for case in CASES] == [each["alert"] for each in rules()]
    file = tmp_path / "test.yml"
    data = {
        "rule_files": [str(RULES)],
        "evaluation_interval": "30s",
        "tests": [as_test(case) for case in CASES],
    }
    file.write_text(yaml.safe_dump(data))
    done = subprocess.run(["promtool", "test", "rules", file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + done.stdout


def test_promtool_finds_no_mistake() -> None:
    argv = ["promtool", "check", "rules", "--lint=all", "--lint-fatal", str(RULES)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + done.stdout


@pytest.mark.parametrize("each", rules(), ids=lambda each: str(each["alert"]))
def test_an_alert_says_what_to_do(each: dict[str, Any]) -> None:
    assert each["labels"]["severity"] in ("critical", "warning")
    notes = each["annotations"]
    assert set(notes) == {"summary", "description", "runbook_url"}
    assert (ROOT / notes["runbook_url"]).is_file()
    told = re.findall(r"`([^`]+)`", notes["description"])
    assert not commands_in("\n".join(f"`{words}`" for words in told)) - verbs().keys()


def test_alerts_go_by_metrics_that_there_are() -> None:
    named = {name for each in rules() for name in re.findall(r"\bdbha_\w+", each["expr"])}
    assert named and not named - {metric.name for metric in METRICS}
