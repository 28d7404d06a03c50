"""Where the matrix is played: three nodes, one good older backup, and the oracle that all cases share."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from dbha.backup.directory_store import DirectoryStore
from dbha.backup.levels import Level
from dbha.backup.manifest import Manifest, new_backup_id, sealed
from dbha.backup.records import MANIFEST
from dbha.backup.store import Status, StoredBackup, resolve
from dbha.backup.verify import verify
from dbha.cluster.assess import Verdict
from dbha.database import connect
from dbha.inventory import Node
from dbha.sandbox import up
from dbha.sandbox.processes import server_pid
from tests.real.cloud import Cloud
from tests.real.commands import Said, Started
from tests.real.processes import eventually
from tests.real.test_observe import wait_until

STAND_IN = Path(__file__).with_name("stand_in.py")
WRITER, DONOR, THIRD = (
    0,
    1,
    2,
)  # which node serves as what: a backup is read from the first that is not the writer
FILLING_MIB = 16  # random bytes: enough of them that a backup has a middle
CONTENT = f"""
CREATE TABLE placement.alembic_version (version_num VARCHAR(32) PRIMARY KEY);
INSERT INTO placement.alembic_version VALUES ('a082b8bb98d0');
CREATE TABLE placement.allocations (id INT PRIMARY KEY AUTO_INCREMENT, consumer VARCHAR(36));
INSERT INTO placement.allocations (consumer) SELECT seq FROM placement.seq_1_to_500;
CREATE TABLE placement.filling (id INT PRIMARY KEY AUTO_INCREMENT, data BLOB);
INSERT INTO placement.filling (data) SELECT RANDOM_BYTES(1024) FROM placement.seq_1_to_{FILLING_MIB << 10}
"""
UNCHANGED = {
    1: "nothing was changed",
    4: "nothing was changed",
    5: "nothing was changed",
    6: "no schema was changed, and older backups are as they were",
    7: "everything was put back as it was before the run",
    9: "nothing was changed",
    10: "nothing was changed by this command",
}


@dataclass
class Scene:
    """The cluster, its good older backup, and the tools that stand in for the real ones."""

    cloud: Cloud
    older: str = ""
    before: tuple[StoredBackup, ...] = field(default=(), repr=False)

    def build(self) -> None:
        """Make the little of placement that there is, and the backup of it."""
        policy = yaml.safe_load(self.cloud.configuration.read_text())
        policy["backup"]["retention"] = {"last": 1}
        self.cloud.configuration.write_text(yaml.safe_dump(policy))
        self.cloud.run("database", "create")
        self.cloud.execute(*CONTENT.strip().split(";\n"))
        self.older = self.cloud.json("backup", "create", "--verify")["backup"]["id"]
        self.cloud.backup = self.older
        for tool in ("mariadb-backup", "zstd"):
            self._stand_in(tool)

    def _stand_in(self, tool: str) -> None:
        self.tools.mkdir(exist_ok=True)
        script = self.tools / tool
        script.write_text(
            f'#!/bin/sh\nexec {sys.executable} {STAND_IN} {shutil.which(tool)} {self.tools} "$@"\n'
        )
        script.chmod(0o755)

    @property
    def store(self) -> DirectoryStore:
        return DirectoryStore(self.cloud.backups)

    @property
    def tools(self) -> Path:
        return self.cloud.directory / "tools"

    @property
    def donor(self) -> Node:
        return self.cloud.cluster.nodes[DONOR]

    # --- commands, and where they are held up

    @contextmanager
    def ordered(self, **order: Any) -> Iterator[None]:
        """Have the tools do this meanwhile; see stand_in."""
        for name in ("reached", "go", "pid"):
            (self.tools / name).unlink(missing_ok=True)
        (self.tools / "order.json").write_text(json.dumps(order))
        try:
            yield
        finally:
            (self.tools / "order.json").unlink()

    def run(self, *arguments: str, **options: Any) -> Said:
        """Run a command with the tools that stand in, whatever its end."""
        with self._started(*arguments, **options) as command:
            return command.end(expect=None)

    def backup_spoilt(self, *arguments: str, **order: Any) -> Said:
        """Take a backup with tools that do this."""
        with self.ordered(**order):
            return self.run("backup", "create", *arguments)

    def backup_while(
        self, point: str, act: Callable[[Started], object], *arguments: str, **options: Any
    ) -> Said:
        """Take a backup, act while its copy is held up at a point, and let it go on."""
        with (
            self.ordered(tool="backup", at=point, do="wait"),
            self._started("backup", "create", *arguments, **options) as command,
        ):
            eventually(lambda: self._is_at_the_point(command), f"it never came to its {point}")
            act(command)
            (self.tools / "go").touch()
            return command.end(expect=None)

    def backup_until_killed(self, point: str) -> None:
        """Take a backup, and kill the controller while its copy is held up at a point."""
        with (
            self.ordered(tool="backup", at=point, do="wait"),
            self._started("backup", "create") as command,
        ):
            eventually(lambda: self._is_at_the_point(command), f"it never came to its {point}")
            command.kill()

    def require_good(self, first: Said) -> None:
        """Require that a backup succeeded in spite of all, and is a good one; remove it."""
        assert first.code == 0, first
        *_, new = self.store.list()
        assert (new.status, new.id > self.older) == (Status.COMPLETE, True)
        self.cloud.run("backup", "verify", new.id)
        self.store.delete(new.id)

    def policy(self, change: Callable[[Any], object]) -> Path:
        """Return a configuration that differs from the sandbox's."""
        policy = yaml.safe_load(self.cloud.configuration.read_text())
        change(policy)
        path = self.cloud.directory / "changed.yml"
        path.write_text(yaml.safe_dump(policy))
        return path

    def _is_at_the_point(self, command: Started) -> bool | None:
        if (self.tools / "reached").exists():
            return True
        assert command.process.poll() is None, command.end(expect=None)
        return None

    def _started(self, *arguments: str, **options: Any) -> AbstractContextManager[Started]:
        return self.cloud.started(*arguments, PATH=f"{self.tools}:{os.environ['PATH']}", **options)

    def tool(self) -> int:
        """Return the process of the mariadb-backup that is held up."""
        return int((self.tools / "pid").read_text())

    # --- full disks, which only the command and what it starts can see

    def small_disk(self, name: str) -> Path:
        """Return a directory where a small file system can be mounted."""
        disk = self.cloud.directory / name
        disk.mkdir(exist_ok=True)
        return disk

    def mounted(self, place: Path, size_mib: int, script: str = "") -> tuple[str, ...]:
        """Return what runs a command that sees a small file system at `place`; `script` runs before it."""
        alone = ("unshare", "--mount") if os.geteuid() == 0 else ("unshare", "--map-root-user", "--mount")
        if subprocess.run([*alone, "mount", "-t", "tmpfs", "small", str(place)], check=False).returncode:
            pytest.skip("this machine does not let this user mount anything")
        mount = f'mount -t tmpfs -o size={size_mib}m small "$0" || exit 70; {script} exec "$@"'
        return (*alone, "sh", "-c", mount, str(place))

    # --- backups

    def copy_of_older(self) -> Path:
        """Put a newer copy of the older backup into the store, complete as a backup can be; return where it is."""
        manifest = self.store.manifest(self.older)
        newest = max(backup.created for backup in self.store.list()) + timedelta(seconds=1)
        copy = manifest.model_copy(update={"id": new_backup_id(newest), "created": newest})
        place = self.cloud.backups / copy.id
        shutil.copytree(self.cloud.backups / self.older, place)
        (place / "verification.json").unlink()
        self.seal(copy)
        return place

    def seal(self, manifest: Manifest) -> None:
        """Write a manifest as if it had been published like this."""
        (self.cloud.backups / manifest.id / MANIFEST).write_bytes(sealed(manifest))

    # --- the oracle

    def begin(self) -> None:
        """Remember what there is."""
        self.before = self.store.list()

    def require_unharmed(self) -> None:
        """Require all that has to be true after a fault, whatever it was."""
        assert self._complete(self.store.list()) == self._complete(self.before), "what counts is what counted"
        assert resolve(self.store.list(), "latest") == self.older
        verify(
            self.store, self.older, self.cloud.state, on_bytes=lambda *_: None, keep=False, level=Level.HASH
        )
        if not all(server_pid(node) for node in self.cloud.cluster.nodes):  # one that the case killed
            up(self.cloud.directory)
        wait_until(self.cloud.cluster, _is_healthy)
        self.require_writes()
        assert self.cloud.locked_accounts() == []
        for node in self.cloud.cluster.nodes:
            with self.cloud.cluster.session(node) as session:
                assert session.value("SELECT @@GLOBAL.wsrep_desync") == 0, f"{node} is desynced"
        deadline_s = time.monotonic() + 5  # what ends with its controller may take a moment
        while (left := self.cloud.leftovers()) and time.monotonic() < deadline_s:
            time.sleep(0.05)
        assert not left, left

    def require_writes(self, *, without: int | None = None) -> None:
        """Require that the service can write through each node, and reads it on each; but for one that is down."""
        account = self.cloud.running.sandbox.account("placement", os.environ)
        nodes = [node for number, node in enumerate(self.cloud.cluster.nodes) if number != without]
        for node in nodes:
            with connect(node, account) as session:
                session.execute("INSERT INTO placement.allocations (consumer) VALUES ('still served')")
        for node in nodes:
            with connect(node, account) as session:
                session.execute("SET SESSION wsrep_sync_wait = 1")
                found = session.value(
                    "SELECT COUNT(*) FROM placement.allocations WHERE consumer = 'still served'"
                )
                assert found == len(nodes)
        self.cloud.execute("DELETE FROM placement.allocations WHERE consumer = 'still served'")

    @staticmethod
    def _complete(backups: tuple[StoredBackup, ...]) -> list[tuple[str, bool]]:
        return [(backup.id, backup.verified) for backup in backups if backup.status is Status.COMPLETE]

    def tidy(self) -> None:
        """Remove what cases leave to be seen."""
        for backup in self.store.list():
            if backup.id != self.older:
                self.store.delete(backup.id)


def require_explained(said: Said, code: int, words: tuple[str, ...]) -> None:
    """Require the documented exit code, and that the cause, what stayed unchanged and what to type are named."""
    assert said.code == code, said
    if code == 0:
        return
    for word in (*words, UNCHANGED[code], "hint: "):
        assert word in said.stderr, f"{word!r} is not said in\n{said}"
    assert "Traceback" not in said.stderr


def _is_healthy(verdict: Verdict) -> bool:
    return verdict.level == "healthy"
