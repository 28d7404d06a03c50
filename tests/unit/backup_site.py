"""A configuration with backups to keep and to prune, for `dbha backup` without any server."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml

from dbha.backup.directory_store import DirectoryStore
from dbha.backup.keep import KeepMark
from dbha.backup.manifest import Verification, new_backup_id
from dbha.cli.main import run
from tests.unit.test_backup_store import FIRST, complete

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
MARK = KeepMark(backup=FIRST, kept=True, note="before the move", when=NOW)


class Site:
    """A configuration with a store of its own; no node of it exists."""

    def __init__(self, directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.directory, self._capsys = directory, capsys
        self.store = DirectoryStore(directory / "backups")
        self.configuration = directory / "dbha.yml"
        node = {"galera_address": "192.0.2.1", "ansible_connection": "local"}
        inventory = {"galera": {"hosts": {"db1": node}}}
        (directory / "inventory.yml").write_text(yaml.safe_dump(inventory))
        (directory / "secrets.yml").touch(mode=0o600)
        (directory / "secrets.yml").write_text("admin_password: hidden")
        self.configure(retention={"last": 2})

    def configure(self, **backup: object) -> None:
        policy = {
            "cluster": "lab", "inventory": "inventory.yml", "state": "state", "secrets": {"file": "secrets.yml"},
            "services": {"keystone": {"release": "2025.1"}},
            "backup": {"stores": {"local": {"directory": "backups"}}, **backup},
        }  # fmt: skip
        self.configuration.write_text(yaml.safe_dump(policy))

    def run(self, *arguments: str, expect: int = 0) -> str:
        """Run a verb of `dbha backup` and return what it printed, the talk last."""
        code = run(["-c", str(self.configuration), "backup", *arguments])
        said = self._capsys.readouterr()
        assert code == expect, said
        return said.out + said.err

    def backup(self, *, days: float, verified: bool = False, base: str = "") -> str:
        """Put a backup of that age into the store and return its id."""
        backup_id = new_backup_id(datetime.now(UTC) - timedelta(days=days))
        manifest = complete(self.store, backup_id, base=self.store.manifest(base) if base else None)
        if verified:
            self.verify(backup_id, manifest.stream.sha256, "")
        return backup_id

    def verify(self, backup_id: str, sha256: str, problem: str) -> None:
        self.store.record_verification(
            Verification(
                backup=backup_id, outcome="bad" if problem else "good", problem=problem, when=NOW,
                stream_sha256=sha256, tool_version="1", dbha_version="1",
            )
        )  # fmt: skip

    def ids(self) -> list[str]:
        return [backup.id for backup in self.store.list()]
