"""The main job on real parts: real syncs of real releases, real failures, and everything put back."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from dbha.sandbox import kill_node, start_node
from tests.real.cloud import (
    DATABASES,
    EXPECTED_HEADS,
    LEFT_OVER_IN_KEYSTONE,
    LEFT_OVER_IN_NOVA,
    NEW,
    OLD,
    Cloud,
)
from tests.real.commands import Started
from tests.real.processes import command_line, descendants, eventually

pytest_plugins = ("tests.real.cloud_fixtures",)
pytestmark = [pytest.mark.real, pytest.mark.releases]


# --- success -------------------------------------------------------------------------------------------------


def test_upgrade_of_all_services(cloud: Cloud) -> None:
    with watched_processes() as seen:
        said = cloud.upgrade()
    run = said.json["run"]
    assert (said.json["outcome"], run["state"], run["workflow"]) == ("upgraded", "done", "upgrade")
    assert {step["state"] for step in run["steps"]} == {"done"}
    assert cloud.last_run()["id"] == run["id"]
    assert run["id"] in cloud.run("runs", "show").stdout
    cloud.assert_upgraded(*DATABASES)
    backup = cloud.json("backup", "list")[-1]
    assert backup["id"] == run["arguments"]["backup_id"]
    assert (backup["status"], bool(backup["verified"]), backup["services"]) == (
        "complete", True, sorted(DATABASES),
    )  # fmt: skip
    services = {each["name"]: each for each in cloud.json("status")["services"]}
    for name, heads in EXPECTED_HEADS.items():
        assert services[name]["release"] == NEW
        assert services[name]["heads"] == {database: list(found) for database, found in heads.items()}
    secrets_are_only_in_their_file(cloud, seen)
    a_second_upgrade_changes_nothing(cloud)


def a_second_upgrade_changes_nothing(cloud: Cloud) -> None:
    before, runs, backups = cloud.snapshot(), cloud.json("runs", "list"), cloud.json("backup", "list")
    position = committed(cloud)
    again = cloud.upgrade()
    assert again.json == {"schema": 1, "outcome": "nothing to do", "run": None}
    assert f"every service is at {NEW} already; nothing was changed" in again.stderr
    assert committed(cloud) == position
    assert cloud.json("runs", "list") == runs
    assert cloud.json("backup", "list") == backups
    cloud.assert_as_before(before)


def committed(cloud: Cloud) -> int:
    """Return how many transactions the cluster has committed."""
    with cloud.session() as session:
        return int(session.value("SHOW STATUS LIKE 'wsrep_last_committed'") and session.rows(
            "SHOW STATUS LIKE 'wsrep_last_committed'")[0]["Value"])  # fmt: skip


@contextmanager
def watched_processes() -> Iterator[dict[str, bytes]]:
    """Yield the words and surroundings of every process that is seen until the end, by a name.

    What a native tool reads on its standard input, where its password is, is kept under `stdin`.
    """
    seen: dict[str, bytes] = {"stdin": b""}
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.02):
            for entry in Path("/proc").iterdir():
                if entry.name.isdecimal() and int(entry.name) != os.getpid():
                    look_at(entry, seen)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield seen
    finally:
        stop.set()
        watcher.join()


def look_at(process: Path, seen: dict[str, bytes]) -> None:
    for name in ("cmdline", "environ"):
        try:
            content = (process / name).read_bytes()
        except OSError:
            return
        seen[f"{process.name}/{name}/{hash(content)}"] = content
        if name == "cmdline" and b"-manage\0" in content:
            with contextlib.suppress(OSError):
                stdin = process / "fd" / "0"
                if "memfd:" in str(stdin.readlink()):  # reading a pipe would take it away from the tool
                    seen["stdin"] += stdin.read_bytes()


def secrets_are_only_in_their_file(cloud: Cloud, seen: dict[str, bytes]) -> None:
    passwords = {name: word.encode() for name, word in cloud.passwords().items()}
    told = seen.pop("stdin").decode(errors="replace")
    migration = {
        line.partition("dbha_migrate_")[2].partition("@")[0].partition(":")[2] for line in told.splitlines()
    }
    migration |= {line.partition("password=")[2] for line in told.splitlines() if "password=" in line}
    passwords |= {f"migration {word}": word.encode() for word in migration if len(word) > 16}
    assert len(passwords) >= 5 + 3, "the passwords of the migration accounts were not seen"
    for name, password in passwords.items():
        assert [where for where, content in seen.items() if password in content] == [], name
        files = [path for path in cloud.directory.rglob("*") if path.is_file() and path.name != "secrets.yml"]
        told_in = [path for path in files if "/data/" not in str(path) and password in path.read_bytes()]
        assert told_in == [], name


# --- failure, and everything put back ------------------------------------------------------------------------


def test_left_over_index_fails_nova_and_everything_is_put_back(cloud: Cloud) -> None:
    cloud.leave_index(LEFT_OVER_IN_NOVA)
    before = cloud.snapshot()
    with cloud.writers("keystone", "glance") as reports:
        said = cloud.upgrade("nova", expect=7)
    assert "Duplicate key name 'migrations_by_src_host_nodes_and_status_idx'" in said.stderr
    assert "everything was put back as it was before the run" in said.stderr
    assert f"dbha upgrade run --to {NEW}" in said.stderr
    assert said.stdout == ""
    assert max(report.longest_wait_s for report in reports.values()) < 30
    run = cloud.last_run()
    assert run["state"] == "rolled-back"
    cloud.assert_as_before(before)
    cloud.drop_index(LEFT_OVER_IN_NOVA)
    cloud.upgrade("nova")
    cloud.assert_upgraded("nova")


def test_first_sync_of_glance_that_may_not_create_triggers(cloud: Cloud) -> None:
    cloud.execute("DROP DATABASE glance", "CREATE DATABASE glance CHARACTER SET utf8mb3")
    policy = changed_policy(cloud, "phases.yml", sync_method="phases")
    upgrade = ("upgrade", "run", "--to", NEW, "--service", "glance", "--yes")
    before = cloud.snapshot()
    try:
        on_all_nodes(cloud, "SET GLOBAL log_bin_trust_function_creators = 0")
        said = cloud.run(*upgrade, configuration=policy, expect=7)
    finally:
        on_all_nodes(cloud, "SET GLOBAL log_bin_trust_function_creators = 1")
    assert "1419" in said.stderr
    assert not any(table.startswith("glance.") for table in before.checksums["node1"])
    cloud.assert_as_before(before)
    cloud.run(*upgrade, configuration=policy)
    cloud.assert_upgraded("glance")


def changed_policy(cloud: Cloud, name: str, **glance: str) -> Path:
    """Return a configuration in which glance has other settings."""
    policy = yaml.safe_load(cloud.configuration.read_text())
    policy["services"]["glance"] |= glance
    path = cloud.directory / name
    path.write_text(yaml.safe_dump(policy))
    return path


def on_all_nodes(cloud: Cloud, statement: str) -> None:
    for number in range(len(cloud.cluster.nodes)):
        with cloud.session(number) as session:
            session.execute(statement)


def test_all_services_come_back_when_one_fails(cloud: Cloud) -> None:
    """A service whose sync went well goes back too, for the release is that of all of them."""
    cloud.leave_index(LEFT_OVER_IN_KEYSTONE)
    before = cloud.snapshot()
    said = cloud.upgrade("keystone", "glance", "placement", expect=7)
    assert "ix_revocation_event_composite" in said.stderr
    states = {step["name"]: step["state"] for step in cloud.last_run()["steps"]}
    assert (states["sync:keystone"], states["sync:glance"], states["sync:placement"]) == (
        "failed",
        "done",
        "done",
    )
    cloud.assert_as_before(before)


# --- nodes that fail -----------------------------------------------------------------------------------------


def test_a_node_that_is_down_refuses_the_upgrade(cloud: Cloud) -> None:
    runs, backups = cloud.json("runs", "list"), cloud.json("backup", "list")
    kill_node(cloud.directory, "node3")
    said = cloud.upgrade("glance", expect=5)
    assert "node3" in said.stderr
    assert "nothing was changed" in said.stderr
    assert "dbha status" in said.stderr
    assert cloud.json("runs", "list") == runs
    assert cloud.json("backup", "list") == backups
    start(cloud, "node3")
    cloud.assert_as_before()


def test_a_node_killed_in_the_middle_of_its_import_gets_everything_when_it_returns(cloud: Cloud) -> None:
    cloud.leave_index(LEFT_OVER_IN_KEYSTONE)
    before = cloud.snapshot()
    copied = Path(cloud.cluster.nodes[2].datadir, "keystone")
    with cloud.started("upgrade", "run", "--to", NEW, "--service", "keystone", "--yes") as command:
        # Some of its tables are files that wait for their import, when the node dies.
        eventually(lambda: list(copied.glob("*.cfg")) or None, "no restore began", every_s=0.002)
        os.kill(command.process.pid, signal.SIGSTOP)
        kill_node(cloud.directory, "node3")
        os.kill(command.process.pid, signal.SIGCONT)
        said = command.end(expect=7)
    assert "importing on node3 failed, so keystone is loaded instead" in said.stderr
    start(cloud, "node3")
    cloud.assert_as_before(before)


def start(cloud: Cloud, node: str) -> None:
    start_node(cloud.directory, node, environment=os.environ, on_line=lambda line: None)


# --- restoring on request ------------------------------------------------------------------------------------


def test_restore_brings_rows_back_while_others_write(cloud: Cloud) -> None:
    cloud.json("backup", "create")
    cloud.execute(
        "SET foreign_key_checks = 0",
        "DELETE FROM keystone.project LIMIT 7",
        "UPDATE keystone.user SET enabled = 0",
        "DROP TABLE keystone.trust_role",
        "ALTER TABLE keystone.role ADD COLUMN odd INT",
        "CREATE TABLE keystone.odd (id INT PRIMARY KEY)",
    )
    with cloud.writers("glance"):
        said = cloud.run("restore", "latest", "--service", "keystone", "--yes")
    assert (
        f"keystone is as it was in backup {cloud.json('backup', 'show')['id']} (release {OLD})" in said.stdout
    )
    cloud.assert_as_before()


MORE_THAN_TABLES = (
    "CREATE VIEW keystone.a_view AS SELECT id FROM keystone.b_view",  # made in the order that works, kept in another
    "CREATE FUNCTION keystone.seven () RETURNS INT DETERMINISTIC RETURN 7",
    "CREATE TRIGGER keystone.loud BEFORE INSERT ON keystone.region FOR EACH ROW SET NEW.description = 'loud'",
    "CREATE EVENT keystone.daily ON SCHEDULE EVERY 1 DAY DISABLE DO DELETE FROM keystone.token WHERE id = ''",
)


def test_a_restore_that_fails_brings_the_present_tables_back(cloud: Cloud) -> None:
    cloud.execute("DELETE FROM keystone.region", "CREATE TABLE keystone.odd (id INT PRIMARY KEY)")
    cloud.execute("CREATE VIEW keystone.b_view AS SELECT id FROM keystone.region", *MORE_THAN_TABLES)
    before = cloud.snapshot()
    obstacle = Path(cloud.cluster.nodes[0].datadir, "keystone", "x.ibd", "in the way")
    obstacle.parent.mkdir()
    obstacle.touch()
    try:
        said = cloud.run("restore", cloud.backup, "--service", "keystone", "--yes", expect=7)
    finally:
        obstacle.unlink()
        obstacle.parent.rmdir()
    assert "Directory not empty" in said.stderr
    assert "everything was put back as it was before the run" in said.stderr
    cloud.assert_as_before(before)
    cloud.run("restore", cloud.backup, "--service", "keystone", "--yes")
    cloud.assert_as_before()


def test_an_interrupt_at_the_terminal_does_not_harm_the_tools_of_the_step(cloud: Cloud) -> None:
    with cloud.started("upgrade", "run", "--to", NEW, "--service", "glance", "--yes") as command:
        eventually(lambda: below(command, "--prepare"), "the backup was never verified")
        os.killpg(command.process.pid, signal.SIGINT)  # the terminal sends it to the whole foreground group
        said = command.end(expect=130)
    assert "everything was put back as it was before the run" in said.stderr
    assert [step["state"] for step in cloud.last_run()["steps"] if step["name"] == "verify"] == ["done"]
    assert cloud.json("backup", "list")[-1]["verified"]
    cloud.assert_as_before()


def below(command: Started, word: str) -> bool | None:
    """Return True once a process with this word in its command line was started by the command."""
    return any(word in command_line(pid) for pid in descendants(command.process.pid)) or None


# --- one at a time, and stopping -----------------------------------------------------------------------------


def test_others_are_refused_meanwhile_and_one_interrupt_puts_everything_back(cloud: Cloud) -> None:
    elsewhere = another_controller(cloud)
    with cloud.started("upgrade", "run", "--to", NEW, "--service", "keystone", "--yes") as command:
        tool = command.freeze("keystone-manage")
        status = cloud.json("status")
        run = status["active_run"]["id"]
        assert [service["name"] for service in status["services"] if service["fenced"]] == ["keystone"]
        for arguments in (
            ("backup", "create"),
            ("sync",),
            ("restore", "latest", "--yes"),
            ("runs", "resume"),
        ):
            assert run in cloud.run(*arguments, expect=9).stderr
        assert run in cloud.run("backup", "create", configuration=elsewhere, expect=9).stderr
        os.killpg(command.process.pid, signal.SIGINT)
        time.sleep(0.5)
        os.kill(tool, signal.SIGCONT)
        said = command.end(expect=130)
    assert "stopping: the step in progress is finished, then everything is put back" in said.stderr
    steps = {step["name"]: step["state"] for step in cloud.last_run()["steps"]}
    assert steps["sync:keystone"] == "done"
    assert "prove" not in steps
    assert cloud.last_run()["state"] == "rolled-back"
    cloud.assert_as_before()


def another_controller(cloud: Cloud) -> Path:
    """Return a configuration for the same cluster with a journal of its own, as on another host."""
    policy = yaml.safe_load(cloud.configuration.read_text()) | {"state": "elsewhere"}
    path = cloud.directory / "elsewhere.yml"
    path.write_text(yaml.safe_dump(policy))
    return path
