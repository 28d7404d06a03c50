"""Metrics and endpoints of a real cluster, whatever its nodes, its clients and its operator do."""

import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from dbha.sandbox import kill_node, up
from tests.real.commands import DBHA
from tests.real.conftest import RunningSandbox
from tests.real.prometheus import prometheus
from tests.real.served import Served, served
from tests.real.test_observe import frozen
from tests.unit.test_dashboard import queries

pytestmark = pytest.mark.real

OBSERVE_TIMEOUT_S = 3.0  # limits.observe_timeout_s
VERDICT = 'dbha_cluster_verdict{cluster="sandbox",verdict="%s"}'


def dbha(running: RunningSandbox, *arguments: str) -> str:
    argv = [str(DBHA), "-c", str(running.sandbox.layout.configuration), *arguments]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


def metrics(running: RunningSandbox, *arguments: str) -> str:
    return dbha(running, "metrics", *arguments)


def value(text: str, series: str) -> float:
    (line,) = [line for line in text.splitlines() if line.startswith(f"{series} ")]
    return float(line.rpartition(" ")[2])


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


@pytest.fixture(scope="module")
def serving(sandbox: RunningSandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(sandbox, tmp_path_factory.mktemp("serve")) as found:
        yield found


@pytest.fixture
def well(serving: Served, sandbox: RunningSandbox) -> Iterator[Served]:
    """The serving process, of a cluster that is healthy before and after."""
    yield serving
    if serving.value(VERDICT % "healthy") != 1:
        up(sandbox.directory)
    serving.until_value(VERDICT % "healthy", 1)


def test_balancers_are_told_of_a_lost_writer_and_of_a_frozen_node(
    well: Served, sandbox: RunningSandbox
) -> None:
    assert [well.ask(f"/writer/node{number}")[0] for number in (1, 2, 3)] == [200, 503, 503]
    kill_node(sandbox.directory, "node1")
    well.until_status("/writer/node2", 200)
    assert (well.ask("/writer/node1")[0], well.ask("/ready/node1")[0], well.ask("/live")[0]) == (
        503,
        503,
        200,
    )
    up(sandbox.directory)
    well.until_status("/writer/node1", 200)
    with frozen(sandbox.cluster, sandbox.cluster.nodes[2]):
        started_s = time.monotonic()
        well.until_status("/ready/node3", 503)
        told_after_s = time.monotonic() - started_s
        text = metrics(sandbox)
        slowest_s = max(timed(lambda: well.ask("/metrics")) for _ in range(10))
        assert well.json("/health")["verdict"] == "degraded"
    assert value(text, VERDICT % "degraded") == 1
    assert value(text, 'dbha_node_reachable{cluster="sandbox",node="node3"}') == 0
    assert value(text, 'dbha_node_writer{cluster="sandbox",node="node1"}') == 1
    took_s = value(text, 'dbha_observation_duration_seconds{cluster="sandbox",part="nodes"}')
    assert took_s < OBSERVE_TIMEOUT_S + 1
    assert value(text, 'dbha_observation_success{cluster="sandbox",part="cluster"}') == 1, (
        "it hides nothing else"
    )
    assert told_after_s < 2 + 0.5 + 2, "timeout, interval, and what a busy machine needs"
    assert slowest_s < 1, "a scrape waits for nobody"


def test_it_stays_up_under_load_and_nonsense(well: Served) -> None:
    with ExitStack() as stack:
        idle = [stack.enter_context(socket.create_connection(("127.0.0.1", well.port))) for _ in range(1000)]
        assert well.ask("/ready")[0] == 200
        for nonsense in (
            b"\0\xff" * 500,
            b"GET / HTTP/1.1\r\nX: " + b"a" * 100_000,
            b"GET /../../etc/passwd HTTP/1.0\r\n\r\n",
            b"GET /ready/%0d%0aX-Evil:%00 HTTP/1.0\r\n\r\n",
        ):
            with socket.create_connection(("127.0.0.1", well.port)) as client:
                client.settimeout(10)
                client.sendall(nonsense)
                assert client.recv(100).startswith((b"HTTP/1.1 400", b"HTTP/1.1 404"))
        before = memory_kib(well.process.pid)
        with ThreadPoolExecutor(max_workers=8) as pool:
            answers = list(pool.map(lambda _: well.ask("/metrics")[0], range(600)))
        assert set(answers) == {200}
        assert memory_kib(well.process.pid) - before < 20_000
        slow = idle[0]
        slow.settimeout(30)
        assert slow.recv(1) == b"", "a client that asks nothing is sent away"


def test_a_reload_takes_up_what_is_right_and_refuses_what_is_wrong(well: Served) -> None:
    well.configure("serve", stale_after_s=15)
    well.reload("serve.stale_after_s: 10.0 -> 15.0")
    good = well.configuration.read_text()
    well.configuration.write_text(good.replace("serve:", "srve:"))
    well.reload("the new configuration is not used, the old one goes on")
    assert "did you mean `serve`?" in well.log
    well.configuration.write_text(good)
    assert well.ask("/ready")[0] == 200
    well.configure("backup", check={"shrunk_percent": 40})
    well.reload("reloaded: 1 key(s) changed")


def test_systemd_is_told_and_sigterm_ends_it_cleanly(sandbox: RunningSandbox, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(60)
        with served(
            sandbox, tmp_path, NOTIFY_SOCKET=str(tmp_path / "notify"), WATCHDOG_USEC="3000000"
        ) as found:
            assert systemd.recv(4096).startswith(b"READY=1\nSTATUS=cluster sandbox: healthy")
            assert systemd.recv(4096).startswith(b"WATCHDOG=1")
            found.process.send_signal(signal.SIGTERM)
            assert found.process.wait(timeout=30) == 0, found.log
            said = b""
            while said != b"STOPPING=1":
                said = systemd.recv(4096)
    assert "Traceback" not in found.log


def test_a_real_prometheus_raises_the_alarm_and_clears_it(
    well: Served, sandbox: RunningSandbox, tmp_path: Path
) -> None:
    with prometheus(tmp_path, well.port) as watcher:
        watcher.until("DbhaBackupTooOld", fires=True)  # there is none
        assert not watcher.firing() & {"DbhaClusterDegraded", "DbhaNodeUnreachable", "DbhaObservationFails"}
        kill_node(sandbox.directory, "node3")
        watcher.until("DbhaNodeUnreachable", fires=True)
        watcher.until("DbhaClusterDegraded", fires=True)
        (alert,) = watcher.query('ALERTS{alertname="DbhaNodeUnreachable"}')
        assert (alert["node"], alert["severity"], alert["cluster"]) == ("node3", "warning", "sandbox")
        up(sandbox.directory)
        watcher.until("DbhaNodeUnreachable", fires=False)
        watcher.until("DbhaClusterDegraded", fires=False)
        dbha(sandbox, "backup", "create", "--verify", "hash")
        watcher.until("DbhaBackupTooOld", fires=False)
        assert not [query for query in queries("sandbox") if not watcher.query(query)], (
            "every panel shows something"
        )
        well.configure("backup", check={"warning_age_h": 1e-5, "critical_age_h": 2e-5})
        well.reload("backup.check.critical_age_h: ")
        watcher.until("DbhaBackupTooOld", fires=True)


def timed(act: Callable[[], object]) -> float:
    started_s = time.monotonic()
    act()
    return time.monotonic() - started_s


def memory_kib(pid: int) -> int:
    (line,) = [
        text for text in Path(f"/proc/{pid}/status").read_text().splitlines() if text.startswith("VmRSS")
    ]
    return int(line.split()[1])
