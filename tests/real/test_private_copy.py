"""A private server on a backup: for looking around, in no cluster, and never forgotten by dbha."""

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.real.cloud import INSTANCES, Cloud
from tests.real.processes import command_line, eventually

pytest_plugins = ("tests.real.cloud_fixtures",)
pytestmark = pytest.mark.real

HOW_MANY = "SELECT COUNT(*) FROM nova.instances"
HOW_IT_IS = "SELECT @@skip_networking, @@wsrep_on, @@wsrep_provider"
PROVIDER = "/usr/lib/galera/libgalera_smm.so"


def listed(cloud: Cloud) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = cloud.json("restore", "--list-dirs")
    return found


def test_looking_around_in_a_backup(cloud: Cloud, tmp_path: Path) -> None:
    directory = tmp_path / "with" / "a copy"
    said = cloud.run("restore", cloud.backup, "--restore-to", str(directory))
    try:
        (copy,) = listed(cloud)
        assert (copy["directory"], copy["backup"], copy["ready"]) == (str(directory), cloud.backup, True)
        assert f"runs in {directory} (process {copy['pid']})" in said.stdout
        assert directory.stat().st_mode & 0o777 == 0o700
        line = f"private copy of backup {cloud.backup} in {directory}: process {copy['pid']}"
        assert line in cloud.run("status").stdout
        for name in (str(directory), cloud.backup):
            looked = cloud.run("sql", "--restored", name, "-e", HOW_MANY, "--", "-N", "-B")
            assert int(looked.stdout) >= INSTANCES
        assert (
            cloud.run("sql", "--restored", cloud.backup, "-e", HOW_IT_IS, "--", "-N", "-B").stdout
            == "1\t0\tnone\n"
        )
        said = cloud.run("restore", cloud.backup, "--restore-to", str(directory), expect=4)
        assert f"has a private copy of backup {cloud.backup} already" in said.stderr

        os.kill(copy["pid"], signal.SIGKILL)
        eventually(lambda: listed(cloud)[0]["pid"] is None or None, "it is still listed as running")
        assert "stopped" in cloud.run("restore", "--list-dirs").stdout
        cannot_be_in_a_cluster(directory / cloud.backup, tmp_path)
        cloud.run("sql", "--restored", str(directory), "-e", HOW_MANY)  # starts it again
        (copy,) = listed(cloud)
        assert "mariadbd" in command_line(copy["pid"])
    finally:
        said = cloud.run("restore", "--forget-dir", str(directory), "--yes")
    assert "its server is stopped" in said.stdout
    assert (listed(cloud), directory.exists(), command_line(copy["pid"])) == ([], False, "")
    assert cloud.run("sql", "--restored", str(directory), "-e", "SELECT 1", expect=2)
    cloud.assert_as_before()


def cannot_be_in_a_cluster(datadir: Path, tmp_path: Path) -> None:
    """Require that a server of a cluster refuses to begin one on this data."""
    log = tmp_path / "refused.log"
    argv = (
        "mariadbd", "--no-defaults", "--user=root", f"--datadir={datadir}", f"--socket={tmp_path / 'refused.sock'}",
        "--skip-networking", "--binlog-format=ROW", "--wsrep-on=ON", f"--wsrep-provider={PROVIDER}",
        "--wsrep-new-cluster", "--wsrep-cluster-address=gcomm://", f"--log-error={log}",
        "--wsrep-provider-options=gmcast.listen_addr=tcp://127.0.0.1:0", "--wsrep-node-address=127.0.0.1",
    )  # fmt: skip
    done = subprocess.run(argv, capture_output=True, timeout=60, check=False)
    assert done.returncode != 0
    assert "It may not be safe to bootstrap the cluster from this node" in log.read_text()


def test_where_a_copy_must_not_be(cloud: Cloud, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place, why in (
        (tmp_path, "is not an empty directory"),
        (tmp_path / "file", "is not an empty directory"),
        (Path(cloud.cluster.nodes[0].datadir), "is in use"),
        (Path(cloud.cluster.nodes[1].datadir, "new"), "is in use"),
        (cloud.backups / "new", "is in use"),
    ):
        said = cloud.run("restore", cloud.backup, "--restore-to", str(place), expect=4)
        assert why in said.stderr
    assert listed(cloud) == []
    assert not (cloud.backups / "new").exists()
    for wrong in (
        ("--restore-to", str(tmp_path)),
        (cloud.backup, "--restore-to", str(tmp_path), "--service", "nova"),
        ("--undo", "RUN", "--store", "local"),
        ("--forget-dir", str(tmp_path), cloud.backup),
    ):
        cloud.run("restore", *wrong, expect=2)


def test_a_copy_whose_maker_was_killed_is_not_forgotten(cloud: Cloud, tmp_path: Path) -> None:
    directory = tmp_path / "copy"
    with cloud.started("restore", cloud.backup, "--restore-to", str(directory)) as making:
        eventually(lambda: next(directory.glob("*.partial/ibdata1"), None), "it never began to unpack")
        making.kill()
    assert [(copy["ready"], copy["pid"]) for copy in listed(cloud)] == [(False, None)]
    assert "not made to its end" in cloud.run("restore", "--list-dirs").stdout
    cloud.run("sql", "--restored", str(directory), "-e", "SELECT 1", expect=4)
    cloud.run("restore", cloud.backup, "--restore-to", str(directory))
    cloud.run("sql", "--restored", str(directory), "-e", HOW_MANY)
    (directory / "mine.txt").touch()
    said = cloud.run("restore", "--forget-dir", cloud.backup, "--yes")
    assert f"{directory} itself stays: there are other files in it" in said.stdout
    assert [path.name for path in directory.iterdir()] == ["mine.txt"]
    assert listed(cloud) == []
