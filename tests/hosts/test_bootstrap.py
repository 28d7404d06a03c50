"""`dbha cluster bootstrap` on fresh hosts over SSH: what is there afterwards, and that doing it again is nothing."""

from pathlib import Path

import pytest
import yaml

from dbha.ansible import PlaybookError, run_playbook
from dbha.cluster.bootstrap import bootstrap, first_view
from tests.hosts.lab import Lab
from tests.hosts.site import HostedCluster

pytestmark = [pytest.mark.real, pytest.mark.hosts]


def test_a_host_with_an_unknown_key_is_not_touched(lab: Lab, new_site: Path, tmp_path: Path) -> None:
    stranger = HostedCluster(lab, new_site)
    text = yaml.safe_load((new_site.parent / "inventory.yml").read_text())
    (tmp_path / "known_hosts").touch()
    variables = text["galera"]["vars"]
    variables["dbha_known_hosts_file"] = str(tmp_path / "known_hosts")
    variables["ansible_ssh_common_args"] = f"-o UserKnownHostsFile={tmp_path}/known_hosts"
    (tmp_path / "inventory.yml").write_text(yaml.safe_dump(text))
    (tmp_path / "secrets.yml").touch(mode=0o600)
    (tmp_path / "secrets.yml").write_text((new_site.parent / "secrets.yml").read_text())
    (tmp_path / "dbha.yml").write_text(new_site.read_text())
    said = stranger.run("cluster", "bootstrap", "--yes", expect=5, configuration=tmp_path / "dbha.yml")
    assert "host key" in said.stderr
    assert lab["node1"].run("ls", "/var/lib") and "mysql" not in lab["node1"].run("ls", "/var/lib").split()


def test_fresh_hosts_become_a_healthy_cluster(hosted: HostedCluster) -> None:
    status = hosted.run("status", "--json").json
    assert status["verdict"] == "healthy"
    assert [node["state"] for node in status["nodes"]] == ["Synced"] * 3
    checks = {
        each["name"]: each["result"] for each in hosted.run("check", "--json", expect=None).json["checks"]
    }
    failed = [name for name, result in checks.items() if result.startswith("FAILED")]
    assert all(name.startswith("release of") for name in failed), checks  # which were never installed here


def test_nobody_copied_the_data_of_another(hosted: HostedCluster) -> None:
    for machine in hosted.lab.machines:
        log = machine.run("cat", "/var/log/mysql/error.log")
        assert "State transfer required" not in log


def test_a_second_run_changes_nothing(hosted: HostedCluster) -> None:
    result = bootstrap(
        hosted.cluster, inventory=hosted.directory / "inventory.yml", run_directory=hosted.directory / "again",
        view=first_view(hosted.cluster.nodes), certificates=hosted.certificates,
    )  # fmt: skip
    assert not result.changed_anything
    refused = hosted.run("cluster", "bootstrap", "--yes", expect=4)
    assert "node1 answers" in refused.stderr and "nothing was changed" in refused.stderr


def test_settings_are_firm(hosted: HostedCluster) -> None:
    with hosted.cluster.session(hosted.cluster.nodes[1]) as session:
        assert session.value("SELECT @@innodb_flush_log_at_trx_commit") == 1
        said = str(session.value("SELECT @@wsrep_provider_options"))
    pairs = (each.partition("=") for each in said.split(";"))
    options = {name.strip(): value.strip() for name, _, value in pairs}
    assert options["gcache.recover"] == "yes" and options["gcache.size"] == "64M"
    assert options["evs.suspect_timeout"] == "PT5S" and options["evs.inactive_timeout"] == "PT15S"
    text = hosted.lab["node2"].run("cat", "/etc/mysql/my.cnf")
    assert text.count("wsrep_provider_options") == 1  # a second line would replace the first


def test_systemd_never_ends_a_state_transfer_and_starts_the_server_with_the_host(
    hosted: HostedCluster,
) -> None:
    shown = hosted.lab["node1"].run(
        "systemctl", "show", "mariadb", "-p", "TimeoutStartUSec,UnitFileState,ActiveState"
    )
    assert set(shown.split()) == {"TimeoutStartUSec=infinity", "UnitFileState=enabled", "ActiveState=active"}
    assert hosted.lab["node1"].run("systemctl", "is-system-running").strip() == "running"


def test_timeouts_in_the_wrong_order_are_refused(hosted: HostedCluster) -> None:
    machine = hosted.lab["node3"]
    before = machine.run("cat", "/etc/mysql/my.cnf")
    inventory = hosted.directory / "wrong.yml"
    text = yaml.safe_load((hosted.directory / "inventory.yml").read_text())
    text["galera"]["vars"]["mariadb_evs_suspect_s"] = 60
    inventory.write_text(yaml.safe_dump(text))
    with pytest.raises(PlaybookError, match="mariadb_evs_suspect_s < mariadb_evs_install_s"):
        run_playbook(
            "configure",
            inventory=inventory,
            run_directory=hosted.directory / "wrong",
            variables={},
            secrets={},
        )
    assert machine.run("cat", "/etc/mysql/my.cnf") == before
