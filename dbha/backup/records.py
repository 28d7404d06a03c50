"""The small files of one backup, and what they make of it: read the same way from every store."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from dbha.backup.immutable import LOCK, Lock, unreadable_lock
from dbha.backup.keep import KeepMark, unreadable_mark
from dbha.backup.manifest import AccountsFile, DefinitionsFile, Manifest, Verification, require_same, unsealed
from dbha.backup.store import Status, StoredBackup
from dbha.errors import FoundWrongError

MANIFEST, VERIFICATION, FAILURE, LOG = "manifest.json", "verification.json", "failure.json", "backup.log"
MARK = "keep.json"


@dataclass(frozen=True, slots=True)
class Records:
    """The files beside the stream of a backup; `read` returns one by its name, and raises OSError without it."""

    backup_id: str
    read: Callable[[str], bytes]

    def manifest(self) -> Manifest:
        """Return the manifest. Raises FoundWrongError when it is damaged, not there, or of another backup."""
        what = f"the manifest of backup {self.backup_id}"
        manifest = unsealed(self._there(MANIFEST), Manifest, what)
        if manifest.id != self.backup_id:
            raise FoundWrongError(f"{what} belongs to {manifest.id}", hint="dbha backup list")
        return manifest

    def definitions_file(self) -> bytes:
        """Return the definitions as they are stored. Raises FoundWrongError when they are not what was written."""
        return self._proven(self.manifest().definitions, "definitions")

    def accounts_file(self) -> bytes | None:
        """Return the accounts as they are stored, None without any. Raises FoundWrongError as for definitions."""
        expected = self.manifest().accounts
        return self._proven(expected, "accounts") if expected else None

    def lock(self) -> Lock | None:
        """Return the lock, if there is one; one that is damaged, or belongs to another backup, counts as holding."""
        try:
            lock = unsealed(self.read(LOCK), Lock, LOCK)
        except FileNotFoundError:
            return None
        except (OSError, FoundWrongError):
            return unreadable_lock(self.backup_id)
        return lock if lock.backup == self.backup_id else unreadable_lock(self.backup_id)

    def mark(self) -> KeepMark | None:
        """Return the mark, if there is one; one that is damaged, or belongs to another backup, counts as keeping."""
        try:
            mark = unsealed(self.read(MARK), KeepMark, MARK)
        except FileNotFoundError:
            return None
        except (OSError, FoundWrongError):
            return unreadable_mark(self.backup_id, datetime.now(UTC))
        return mark if mark.backup == self.backup_id else unreadable_mark(self.backup_id, mark.when)

    def look(self, size_bytes: int, problem_of: Callable[[Manifest], str]) -> StoredBackup:
        """Return what is known of a backup that was complete once.

        `size_bytes` is that of all its files, `problem_of` what anybody can see to be wrong with them, in words.
        """
        lock, mark = self.lock(), self.mark()
        try:
            manifest = self.manifest()
        except FoundWrongError as error:
            return StoredBackup(self.backup_id, Status.DAMAGED, str(error), size_bytes, lock=lock, mark=mark)
        verification, problem = self._verification()
        problem = problem or problem_of(manifest)
        return StoredBackup(
            self.backup_id, Status.BAD if problem else Status.COMPLETE, problem, manifest.stream.stored_bytes,
            manifest, verification, lock, mark,
        )  # fmt: skip

    def reason(self) -> str:
        """Return why the backup failed, as was noted then; what cannot be read is one reason more."""
        try:
            return str(json.loads(self.read(FAILURE))["reason"])
        except (OSError, ValueError, KeyError, TypeError):
            return "its reason cannot be read"

    def _verification(self) -> tuple[Verification | None, str]:
        """Return the verdict that counts, and what it has against the backup: it may have been found bad, too, when
        the verdict cannot be read."""
        try:
            found = unsealed(self.read(VERIFICATION), Verification, VERIFICATION)
        except FileNotFoundError:
            return None, ""
        except (OSError, FoundWrongError):
            return None, "its verdict cannot be read: verify it again"
        return found, "" if found.good else found.problem

    def _proven(self, expected: DefinitionsFile | AccountsFile, what: str) -> bytes:
        return require_same(self._there(expected.file), expected, f"the {what} of backup {self.backup_id}")

    def _there(self, file: str) -> bytes:
        try:
            return self.read(file)
        except OSError as error:
            raise FoundWrongError(
                f"{file} of backup {self.backup_id} cannot be read: {error.strerror or error}",
                hint="dbha backup list",
            ) from error
