"""Metrics of a real cluster, whatever its nodes do."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.real.commands import DBHA
from tests.real.conftest import RunningSandbox
from tests.real.test_observe import frozen, wait_until

pytestmark = pytest.mark.real

OBSERVE_TIMEOUT_S = 3.0  # limits.observe_timeout_s


def metrics(running: RunningSandbox, *arguments: str) -> str:
    argv = [str(DBHA), "-c", str(running.sandbox.layout.configuration), "metrics", *arguments]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


def value(text: str, series: str) -> float:
    (line,) = [line for line in text.splitlines() if line.startswith(f"{series} ")]
    return float(line.rpartition(" ")[2])


def test_a_frozen_node_is_told_in_time_and_hides_nothing_else(sandbox: RunningSandbox) -> None:
    last = sandbox.cluster.nodes[-1]
    metrics(sandbox)  # the inventory is known from here on
    with frozen(sandbox.cluster, last):
        text = metrics(sandbox)
    wait_until(sandbox.cluster, lambda verdict: verdict.level == "healthy")
    assert value(text, 'dbha_cluster_verdict{cluster="sandbox",verdict="degraded"}') == 1
    assert value(text, 'dbha_node_reachable{cluster="sandbox",node="node3"}') == 0
    assert value(text, 'dbha_node_writer{cluster="sandbox",node="node1"}') == 1
    assert (
        value(text, 'dbha_observation_duration_seconds{cluster="sandbox",part="nodes"}')
        < OBSERVE_TIMEOUT_S + 1
    )
    assert value(text, 'dbha_observation_success{cluster="sandbox",part="cluster"}') == 1
    assert value(text, 'dbha_backup_check_level{cluster="sandbox",store="local",test="age"}') == 2


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian: prometheus)")
def test_the_textfile_is_whole_readable_and_to_promtools_liking(
    sandbox: RunningSandbox, tmp_path: Path
) -> None:
    file = tmp_path / "dbha.prom"
    file.write_text("old")
    assert metrics(sandbox, "--textfile", str(file)) == ""
    assert file.stat().st_mode & 0o777 == 0o644
    assert list(tmp_path.iterdir()) == [file]
    subprocess.run(["promtool", "check", "metrics"], input=file.read_bytes(), check=True)
    assert value(file.read_text(), 'dbha_cluster_verdict{cluster="sandbox",verdict="healthy"}') == 1
