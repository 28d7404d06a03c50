"""The controller is killed at the points that matter most, a real upgrade is taken up, and the end is the same.

The full matrix of points runs on a simulated world (tests/crash); here every part is real.
"""

import contextlib
import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from dbha.backup.aside import tables_of
from dbha.backup.tablespaces import local_session
from dbha.cluster.observe import observe
from dbha.database import SqlError
from dbha.sandbox import kill_node, start_node, up
from tests.real.cloud import LEFT_OVER_IN_KEYSTONE, LEFT_OVER_IN_NOVA, NEW, Cloud
from tests.real.commands import Started
from tests.real.processes import command_line, descendants, eventually

pytest_plugins = ("tests.real.cloud_fixtures",)
pytestmark = [pytest.mark.real, pytest.mark.releases]

UPGRADE_KEYSTONE = ("upgrade", "run", "--to", NEW, "--service", "keystone", "--yes")


def resume(cloud: Cloud, *options: str, expect: int = 0, fault: str = "") -> str:
    """Take the run up that was cut off, and return what was said."""
    return cloud.run("runs", "resume", *options, expect=expect, fault=fault).stderr


def interrupted(cloud: Cloud) -> str:
    """Return the run that was cut off; all other mutating commands name it and refuse."""
    status = cloud.json("status")
    assert status["active_run"] is None
    run: str = status["interrupted_run"]["id"]
    refused = cloud.run("backup", "create", expect=10)
    assert f"dbha runs resume {run}" in refused.stderr
    return run


# --- the way to success --------------------------------------------------------------------------------------


def test_an_upgrade_that_is_killed_again_and_again_succeeds(cloud: Cloud) -> None:
    cloud.upgrade("keystone", fault="after:done:fence")
    run = interrupted(cloud)
    assert cloud.locked_accounts() == ["keystone"]
    with cloud.started("runs", "resume") as command:
        eventually(lambda: list(cloud.backups.glob("*.partial")) or None, "no backup began")
        command.kill()
    with cloud.started("runs", "resume") as command:
        eventually(lambda: preparing(command), "the backup was never verified")
        command.kill()
    with cloud.started("runs", "resume") as command:
        tool = command.freeze("keystone-manage")
        command.kill()
        # What the first statement of the migration would have done by now; the tool itself lives on, frozen.
        cloud.execute(
            "CREATE INDEX ix_revocation_event_project_id_user_id"
            " ON keystone.revocation_event (project_id, user_id)"
        )
        said = resume(cloud, fault="before:intend:prove")
        assert "was cut off half done: putting it back first" in said
        require_powerless(tool)
    resume(cloud, fault="before:intend:unfence")
    resume(cloud, fault="before:end")
    resume(cloud, run)
    assert cloud.last_run()["id"] == run
    assert cloud.last_run()["state"] == "done"
    cloud.assert_upgraded("keystone")
    assert f"run {run} has ended: done" in resume(cloud, run, expect=2)


def preparing(command: Started) -> bool | None:
    """Return True once the command prepares a backup."""
    return any("--prepare" in command_line(pid) for pid in descendants(command.process.pid)) or None


def require_powerless(tool: int) -> None:
    """Let a tool go on that outlived its run, and require that it ends by itself: it has no account any more."""
    os.kill(tool, signal.SIGCONT)
    eventually(lambda: None if command_line(tool) else True, "the old tool goes on", within_s=60)


# --- the way back --------------------------------------------------------------------------------------------


def test_a_way_back_that_is_killed_again_and_again_puts_everything_back(cloud: Cloud) -> None:
    cloud.leave_index(LEFT_OVER_IN_KEYSTONE)
    before = cloud.snapshot()
    cloud.upgrade("keystone", fault="before:failed:sync:keystone")
    interrupted(cloud)
    for fault in (
        "after:done:restore:keystone:aside",  # while it is put back for another try
        "after:failed:sync:keystone",
        "before:done:restore:keystone:aside",
        "after:done:restore:keystone:import:node1",
        "before:intend:restore:keystone:prove",
        "before:intend:unfence-undo",
        "before:done:restore:keystone:drop",
        "before:end",
    ):
        resume(cloud, fault=fault)
    said = resume(cloud, expect=7)
    assert "ix_revocation_event_composite" in said
    assert cloud.last_run()["state"] == "rolled-back"
    cloud.assert_as_before(before)


def test_killed_between_two_nodes_of_the_restore_of_nova(cloud: Cloud) -> None:
    cloud.leave_index(LEFT_OVER_IN_NOVA)
    before = cloud.snapshot()
    with cloud.writers("keystone"):
        cloud.upgrade("nova", fault="after:done:restore:nova:import:node1")
        resume(cloud, expect=7)
    cloud.assert_as_before(before)


def test_rolled_back_on_request_after_a_kill_in_the_middle_of_the_sync(cloud: Cloud) -> None:
    with cloud.started(*UPGRADE_KEYSTONE) as command:
        tool = command.freeze("keystone-manage")
        command.process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        command.process.send_signal(signal.SIGINT)  # the second one stops at once
        command.end(expect=130)
        interrupted(cloud)
        said = resume(cloud, "--roll-back", expect=7)
        assert "everything was put back as it was before the run" in said
        require_powerless(tool)
    cloud.assert_as_before()


def test_rolled_back_on_request_before_any_schema_was_touched(cloud: Cloud) -> None:
    cloud.upgrade("glance", fault="after:done:verify")
    said = resume(cloud, "--roll-back", expect=7)
    assert "put back" in said
    cloud.assert_as_before()


def test_a_run_that_is_decided_cannot_be_rolled_back(cloud: Cloud) -> None:
    cloud.upgrade("glance", fault="before:intend:unfence")
    said = resume(cloud, "--roll-back", expect=2)
    assert "it can only be finished" in said
    resume(cloud)
    cloud.assert_upgraded("glance")


def test_an_abandoned_run_lifts_its_own_fence_and_no_other(cloud: Cloud) -> None:
    cloud.execute("ALTER USER 'placement'@'%' ACCOUNT LOCK")  # by somebody else, for reasons of their own
    with cloud.started(*UPGRADE_KEYSTONE) as command:
        tool = command.freeze("keystone-manage")
        command.kill()
        run = interrupted(cloud)
        assert cloud.run("runs", "abandon", expect=2).stderr.count("--yes")
        said = cloud.run("runs", "abandon", "--yes")
        assert f"run {run} is abandoned" in said.stdout
        assert "the fence was lifted" in said.stdout
        require_powerless(tool)
    assert cloud.locked_accounts() == ["placement"]
    cloud.execute("ALTER USER 'placement'@'%' ACCOUNT UNLOCK")
    cloud.assert_as_before()


# --- nodes that fail -----------------------------------------------------------------------------------------


def test_the_writer_dies_in_the_middle_of_the_sync(cloud: Cloud) -> None:
    with cloud.started(*UPGRADE_KEYSTONE) as command:
        tool = command.freeze("keystone-manage")
        kill_node(cloud.directory, "node1")
        os.kill(tool, signal.SIGCONT)
        said = command.end(expect=None)
    assert said.code in (7, 8), said
    assert "node1" in said.stderr
    up(cloud.directory)
    if said.code == 8:
        assert "dbha runs resume" in said.stderr
        resume(cloud, expect=7)
    cloud.assert_as_before()


def test_a_node_dies_after_it_imported_and_the_controller_too(cloud: Cloud) -> None:
    cloud.leave_index(LEFT_OVER_IN_KEYSTONE)
    before = cloud.snapshot()
    cloud.upgrade("keystone", fault="after:done:restore:keystone:import:node3")
    kill_node(cloud.directory, "node3")
    said = cloud.run("runs", "resume", expect=None)
    assert said.code in (7, 8), said
    assert "node3" in said.stderr
    start_node(cloud.directory, "node3", environment=os.environ, on_line=lambda line: None)
    if said.code == 8:
        resume(cloud, expect=7)
    cloud.assert_as_before(before)


def test_a_node_that_differs_after_the_import_is_loaded(cloud: Cloud) -> None:
    """As after a state transfer between its own import and that of its donor."""
    cloud.leave_index(LEFT_OVER_IN_KEYSTONE)
    before = cloud.snapshot()
    cloud.upgrade("keystone", fault="before:intend:restore:keystone:prove")
    with cloud.session(2) as session:
        session.execute("SET SESSION wsrep_on = OFF")
        session.execute("DELETE FROM keystone.alembic_version LIMIT 1")
    said = resume(cloud, expect=7)
    assert "node3: the schema is at" in said
    assert "so keystone is loaded instead" in said
    cloud.assert_as_before(before)


def test_everything_dies_in_the_middle_of_an_import(cloud: Cloud) -> None:
    """As when the power fails: every server, and the controller, while files wait for their import."""
    cloud.execute("DELETE FROM keystone.region")
    copied = [Path(node.datadir, "keystone") for node in cloud.cluster.nodes]
    with cloud.started("restore", cloud.backup, "--service", "keystone", "--yes") as command:
        eventually(lambda: [*copied[0].glob("*.cfg")] or None, "nothing was copied", every_s=0.002)
        command.process.send_signal(signal.SIGSTOP)
        for node in cloud.cluster.nodes:
            kill_node(cloud.directory, node.name)
        command.kill()
    up(cloud.directory)
    resume(cloud)
    cloud.assert_as_before()


def test_everything_dies_just_after_a_restore(cloud: Cloud) -> None:
    cloud.execute("DELETE FROM keystone.region")
    cloud.run("restore", cloud.backup, "--service", "keystone", "--yes")
    cloud.execute("INSERT INTO keystone.region (id, description, extra) VALUES ('later', '', '{}')")
    before = cloud.snapshot()
    for node in cloud.cluster.nodes:
        kill_node(cloud.directory, node.name)
    up(cloud.directory)
    cloud.assert_as_before(before)


# --- restoring on request ------------------------------------------------------------------------------------


def test_a_restore_that_is_killed_again_and_again_succeeds(cloud: Cloud) -> None:
    cloud.execute("DELETE FROM keystone.region", "CREATE TABLE keystone.odd (id INT PRIMARY KEY)")
    restore = ("restore", cloud.backup, "--service", "keystone", "--yes")
    cloud.run(*restore, fault="before:done:restore:keystone:aside")
    interrupted(cloud)
    for fault in (
        "after:done:restore:keystone:import:node2",
        "after:done:restore:keystone:prove",
        "before:done:unfence",
        "before:done:restore:keystone:drop",
    ):
        resume(cloud, fault=fault)
    resume(cloud)
    cloud.assert_as_before()


def test_a_restore_that_is_killed_can_be_rolled_back(cloud: Cloud) -> None:
    cloud.execute("DELETE FROM keystone.region", "CREATE TABLE keystone.odd (id INT PRIMARY KEY)")
    before = cloud.snapshot()
    restore = ("restore", cloud.backup, "--service", "keystone", "--yes")
    cloud.run(*restore, fault="after:done:restore:keystone:import:node2")
    lost = cloud.backups.rename(
        cloud.backups.with_name("lost")
    )  # going back to what is aside needs no backup
    try:
        resume(cloud, "--roll-back", expect=7)
    finally:
        lost.rename(cloud.backups)
    cloud.assert_as_before(before)


def test_a_restore_that_is_abandoned_keeps_its_fence_and_what_is_aside(cloud: Cloud) -> None:
    cloud.execute("DELETE FROM keystone.region")
    before = cloud.snapshot()
    restore = ("restore", cloud.backup, "--service", "keystone", "--yes")
    cloud.run(*restore, fault="after:done:restore:keystone:import:node2")
    run = interrupted(cloud)
    aside = f"dbha_aside_{run.lower().replace('-', '_')}_keystone"
    said = cloud.run("runs", "abandon", "--yes").stdout
    assert f"still in database {aside}" in said
    assert "the fence stays up" in said
    assert cloud.locked_accounts() == ["keystone"]
    assert aside in cloud.run(*restore, expect=4).stderr
    put_back_by_hand(cloud, "keystone", aside)
    cloud.execute("ALTER USER 'keystone'@'%' ACCOUNT UNLOCK")
    cloud.assert_as_before(before)


def put_back_by_hand(cloud: Cloud, database: str, aside: str) -> None:
    """Do what docs/runbooks/restore-failed.md says under "By hand from the tables aside"."""
    for node in cloud.cluster.nodes:
        with local_session(cloud.cluster, node) as session:
            while made := tables_of(session, database):
                for table in made:  # one that a discarded table refers to is refused until that one is gone
                    with contextlib.suppress(SqlError):
                        session.execute(f"DROP TABLE `{database}`.`{table}`")
        for staged in Path(node.datadir, database).glob("dbha-import-*"):
            shutil.rmtree(staged)
    with cloud.session() as session:
        session.execute("SET foreign_key_checks = 0")
        for table in tables_of(session, aside):
            session.execute(f"RENAME TABLE `{aside}`.`{table}` TO `{database}`.`{table}`")
        session.execute(f"DROP DATABASE `{aside}`")


def test_killed_while_a_private_server_serves_the_backup(cloud: Cloud) -> None:
    """A database with more than tables is loaded, not imported; nothing of the loading outlives its run."""
    view = "CREATE VIEW keystone.regions AS SELECT id FROM keystone.region"
    cloud.execute(view)
    before = cloud.snapshot()
    backup = cloud.json("backup", "create")["backup"]["id"]
    cloud.execute("DELETE FROM keystone.region")
    with cloud.started("restore", backup, "--service", "keystone", "--yes") as command:
        eventually(lambda: serving(command, cloud.state), "no private server was seen")
        command.kill()
    resume(cloud)
    with contextlib.suppress(AssertionError):  # what outlived the controller may need a moment to notice
        eventually(lambda: None if cloud.processes() else True, "still there", within_s=10)
    cloud.assert_as_before(before)


def serving(command: Started, state: Path) -> bool | None:
    """Return True once a private server runs on the prepared backup."""
    lines = [command_line(pid) for pid in descendants(command.process.pid)]
    return any("mariadbd" in line and f"--datadir={state}" in line for line in lines) or None


def test_the_cluster_is_one_after_all_of_this(cloud: Cloud) -> None:
    states = observe(cloud.cluster, 5)
    assert [state.local_state_comment for state in states] == ["Synced"] * len(states)
    assert len({(state.cluster_state_uuid, state.conf_id) for state in states}) == 1
