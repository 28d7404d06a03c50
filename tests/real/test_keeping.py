"""Retention, marks and checks through the command line, on real backups of a real server."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
import yaml

from dbha.backup.directory_store import DirectoryStore
from dbha.backup.manifest import Manifest, new_backup_id, sealed
from dbha.backup.records import MANIFEST
from dbha.config.model import DirectoryStore as DirectoryPolicy
from dbha.sandbox import kill_node, up
from tests.real.commands import DBHA
from tests.real.conftest import RunningSandbox, running_sandbox

pytestmark = pytest.mark.real

PATIENCE_S = 60.0
RULES = {"last": 2, "daily": 3}


@dataclass(frozen=True)
class Keeper:
    """A cluster of one node, and the store of its backups."""

    running: RunningSandbox

    @property
    def store(self) -> DirectoryStore:
        policy = self.running.configuration.backup
        found = policy.stores[policy.store]
        assert isinstance(found, DirectoryPolicy)
        return DirectoryStore(found.directory)

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        path = self.running.sandbox.layout.configuration
        return subprocess.Popen(
            [str(DBHA), "-c", str(path), "backup", *arguments], stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "NO_COLOR": "1"},
        )  # fmt: skip

    def run(self, *arguments: str, expect: int = 0) -> str:
        """Run a verb of `dbha backup` and return what it printed on stdout."""
        with self.start(*arguments) as process:
            out, talk = process.communicate()
        assert process.returncode == expect, f"{arguments}: {process.returncode}\n{out}\n{talk}"
        return out

    def ids(self) -> list[str]:
        return [backup.id for backup in self.store.list()]

    def older_copy(self, backup_id: str, *, days: float) -> str:
        """Put a copy of a real backup into the store that says it was taken so many days before."""
        manifest = self.store.manifest(backup_id)
        created = manifest.created - timedelta(days=days)
        copy = manifest.model_copy(update={"id": new_backup_id(created), "created": created})
        shutil.copytree(self.store.directory / backup_id, self.store.directory / copy.id)
        self.seal(copy)
        (self.store.directory / copy.id / "verification.json").unlink(missing_ok=True)
        return copy.id

    def seal(self, manifest: Manifest) -> None:
        (self.store.directory / manifest.id / MANIFEST).write_bytes(sealed(manifest))


@pytest.fixture(scope="module")
def shared() -> Iterator[Keeper]:
    with running_sandbox(nodes=1) as running:
        path = running.sandbox.layout.configuration
        policy = yaml.safe_load(path.read_text())
        policy["backup"]["retention"] = RULES
        path.write_text(yaml.safe_dump(policy))
        yield Keeper(running)


@pytest.fixture
def keeper(shared: Keeper) -> Iterator[Keeper]:
    """The cluster, with an empty store."""
    shutil.rmtree(shared.store.directory, ignore_errors=True)
    yield shared
    up(shared.running.directory)


def test_what_is_pruned_is_gone_and_what_stays_can_be_restored(keeper: Keeper) -> None:
    newest = json.loads(keeper.run("create", "--verify", "--json"))["backup"]["id"]
    copies = [keeper.older_copy(newest, days=days) for days in (1, 2, 3, 4, 30)]
    keeper.run("keep", copies[-1], "--note", "before the move")
    decisions = json.loads(keeper.run("prune", "--dry-run", "--json"))["backups"]
    stay = [each["id"] for each in decisions if each["decision"] == "keep"]
    assert stay == [copies[4], copies[1], copies[0], newest]
    assert len(keeper.ids()) == 6
    keeper.run("prune", "--yes")
    assert keeper.ids() == stay
    for backup_id in stay:
        keeper.run("verify", backup_id)
    assert json.loads(keeper.run("prune", "--yes", "--json"))["deleted"] == []
    keeper.run("delete", copies[4], "--yes", expect=4)
    keeper.run("keep", copies[4], "--clear")
    keeper.run("delete", copies[4], "--yes")
    assert keeper.ids() == stay[1:]


def test_a_new_backup_prunes_only_once_it_is_good(keeper: Keeper) -> None:
    first = json.loads(keeper.run("create", "--verify", "--json"))["backup"]["id"]
    copies = [keeper.older_copy(first, days=days) for days in (5, 4, 3)]
    kill_node(keeper.running.directory, "node1")
    keeper.run("create", "--verify", "--prune", expect=5)
    assert keeper.ids() == [*copies, first], "without a new backup nothing is deleted"
    up(keeper.running.directory)
    answer = json.loads(keeper.run("create", "--verify", "--prune", "--json"))
    assert answer["pruned"] == copies[:1]
    assert keeper.ids() == [*copies[1:], first, answer["backup"]["id"]]


def test_check_needs_no_database(keeper: Keeper) -> None:
    keeper.run("create", "--verify")
    assert "BACKUP OK - 7 tests passed" in keeper.run("check", "--nagios")
    kill_node(keeper.running.directory, "node1")
    assert "BACKUP OK - 7 tests passed" in keeper.run("check", "--nagios")
    keeper.run("create", expect=5)
    keeper.store.begin(new_backup_id(datetime.now(UTC) + timedelta(seconds=1))).abandon("why", b"")
    assert "BACKUP WARNING - failures: 1 since" in keeper.run("check", "--nagios", expect=1)
