"""Accounts and grants are in a backup, are proven by it, and come back with a service that lost them."""

import json
import re
from pathlib import Path

import pytest

from dbha.backup.accounts import read_accounts
from dbha.database import Account, connect
from dbha.secrets import Secret
from tests.real.cloud import Cloud

pytest_plugins = ("tests.real.cloud_fixtures",)
pytestmark = pytest.mark.real

MADE = (
    "CREATE ROLE nova_readers",
    "GRANT SELECT ON `nova\\_api`.* TO nova_readers",
    "CREATE USER audit@'10.%' IDENTIFIED BY 'a ''quoted'' word' REQUIRE SSL WITH MAX_USER_CONNECTIONS 3",
    "GRANT SELECT (id, uuid), UPDATE (host) ON nova.instances TO audit@'10.%'",
    "GRANT RELOAD ON *.* TO audit@'10.%' WITH GRANT OPTION",
    "GRANT nova_readers TO audit@'10.%'",
    "SET DEFAULT ROLE nova_readers FOR audit@'10.%'",
    "ALTER USER audit@'10.%' ACCOUNT LOCK",
    "CREATE USER watcher@localhost IDENTIFIED VIA unix_socket",
    "GRANT PROCESS ON *.* TO watcher@localhost",
)
GONE = ("DROP USER IF EXISTS audit@'10.%', watcher@localhost, nova@'%'", "DROP ROLE IF EXISTS nova_readers")


def test_accounts_come_back_with_the_service_that_lost_them(cloud: Cloud) -> None:
    """With dbha's own passwords where it knows them, else with those of the backup; other accounts are let alone."""
    cloud.execute(*MADE)
    try:
        with cloud.session() as session:
            before = {each.name: each for each in read_accounts(session).accounts}
        backup_id = cloud.json("backup", "create", "--verify", "boot")["backup"]["id"]
        shown = cloud.run("backup", "show", backup_id).stdout
        assert re.search(
            r"accounts  .*audit@10\.%, .*nova@%, .*role nova_readers, .*watcher@localhost", shown
        )
        assert cloud.json("backup", "show", backup_id)["accounts"] == sorted(before)
        hashes = _hashes(cloud.backups / backup_id / "accounts.json")
        assert not hashes & _hashes_in(shown)

        cloud.execute(*GONE, "REVOKE UPDATE ON glance.* FROM glance@'%'")
        said = cloud.run("restore", backup_id, "--service", "nova", "--yes")
        assert "nova@%: made with the passwords of dbha's configuration" in said.stderr
        assert "role nova_readers, audit@10.%: made as in the backup" in said.stderr
        assert not hashes & _hashes_in(said.stdout + said.stderr + _journal(cloud))
        with cloud.session() as session:
            now = {each.name: each for each in read_accounts(session).accounts}
        assert "watcher@localhost" not in now  # has no rights on nova
        assert now["glance@%"] != before["glance@%"]
        assert now["role nova_readers"] == before["role nova_readers"]
        assert now["nova@%"] == before["nova@%"]
        there, was = now["audit@10.%"], before["audit@10.%"]
        assert (there.create, there.locked) == (was.create, True)
        assert set(was.grants) - set(there.grants) == {
            "GRANT RELOAD ON *.* TO `audit`@`10.%` WITH GRANT OPTION"
        }
        account = Account("nova", Secret(cloud.passwords()["nova_password"]))
        with connect(cloud.cluster.nodes[1], account) as session:
            assert session.value("SELECT COUNT(*) FROM nova.instances") > 0

        cloud.execute("REVOKE DELETE ON nova.* FROM nova@'%'")
        again = cloud.run("restore", backup_id, "--service", "nova", "--yes")
        assert "nova@%: given rights again" in again.stderr
        assert "none was missing" in cloud.run("restore", backup_id, "--service", "nova", "--yes").stderr
    finally:
        cloud.execute("GRANT UPDATE ON glance.* TO glance@'%'")
        cloud.execute(*(statement.replace(", nova@'%'", "") for statement in GONE))
    cloud.assert_as_before()


def _hashes(file: Path) -> set[str]:
    assert file.stat().st_mode & 0o777 == 0o600
    return _hashes_in(json.dumps(json.loads(file.read_bytes())))


def _hashes_in(text: str) -> set[str]:
    return set(re.findall(r"\*[0-9A-F]{40}", text))


def _journal(cloud: Cloud) -> str:
    places = [*cloud.state.glob("journal.sqlite*"), *(cloud.state / "log").rglob("*.log")]
    return "".join(place.read_bytes().decode("latin-1") for place in places)
