"""What a directory store lists after any sequence of what can happen to backups, also when it is cut off."""

import hashlib
import os
import shutil
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule

from dbha.backup.directory_store import DirectoryDraft, DirectoryStore
from dbha.backup.keep import KeepMark
from dbha.backup.manifest import Verification
from dbha.backup.store import Status
from dbha.errors import BusyError, UsageError
from tests.unit.test_backup_store import DEFINITIONS, manifest_of

NOW = datetime(2026, 11, 23, tzinfo=UTC)
CONTENT = DEFINITIONS.model_dump_json(by_alias=True).encode()


@dataclass(frozen=True)
class Expected:
    """What is to be seen of one backup."""

    status: Status
    verified: bool = False
    mark: KeepMark | None = None


class Catalogue(RuleBasedStateMachine):
    """A store beside a model of it: both are told the same, and have to show the same at every moment."""

    drafts: Bundle[str] = Bundle("drafts")
    whole: Bundle[str] = Bundle("whole")

    def __init__(self) -> None:
        super().__init__()
        self.store = DirectoryStore(Path(tempfile.mkdtemp(prefix="dbha-test-")) / "store")
        self.open: dict[str, DirectoryDraft] = {}
        self.model: dict[str, Expected] = {}

    def teardown(self) -> None:
        for draft in self.open.values():
            draft.abandon("the test ended", b"")
        shutil.rmtree(self.store.directory.parent)

    @rule(target=drafts, second=st.integers(0, 5))
    def begin(self, second: int) -> str:
        backup_id = f"20261123T04300{second}Z-0001"
        if backup_id in self.model:
            with pytest.raises(UsageError):
                self.store.begin(backup_id)
        else:
            self.open[backup_id] = self.store.begin(backup_id)
            self.open[backup_id].write(b"stream")
            self.model[backup_id] = Expected(Status.WRITING)
        return backup_id

    @rule(target=whole, backup_id=consumes(drafts))
    def publish(self, backup_id: str) -> str:
        if backup_id in self.open:
            self.open.pop(backup_id).publish(CONTENT, manifest_of(backup_id, CONTENT))
            self.model[backup_id] = Expected(Status.COMPLETE)
        return backup_id

    @rule(backup_id=drafts)
    def abandon(self, backup_id: str) -> None:
        if backup_id in self.open:
            self.open.pop(backup_id).abandon("why", b"log")
            self.model[backup_id] = Expected(Status.FAILED)

    @rule(backup_id=drafts)
    def its_process_ends(self, backup_id: str) -> None:
        if backup_id in self.open:
            draft = self.open.pop(backup_id)
            draft._stream.close()
            os.close(draft._lock)
            self.model[backup_id] = Expected(Status.INTERRUPTED)

    @rule(backup_id=whole, good=st.booleans())
    def verify(self, backup_id: str, good: bool) -> None:
        known = self.model.get(backup_id)
        if known and known.status in (Status.COMPLETE, Status.BAD):
            found = Verification(
                backup=backup_id, outcome="good" if good else "bad", problem="" if good else "why", when=NOW,
                stream_sha256=hashlib.sha256(b"stream").hexdigest(), tool_version="1", dbha_version="1",
            )  # fmt: skip
            self.store.record_verification(found)
            status = Status.COMPLETE if good else Status.BAD
            self.model[backup_id] = Expected(status, verified=good, mark=known.mark)

    @rule(backup_id=st.one_of(drafts, whole), kept=st.booleans(), note=st.text(max_size=5))
    def mark(self, backup_id: str, kept: bool, note: str) -> None:
        mark = KeepMark(backup=backup_id, kept=kept, note=note, when=NOW)
        known = self.model.get(backup_id)
        if known and known.status in (Status.COMPLETE, Status.BAD, Status.DAMAGED):
            self.store.record_mark(mark)
            self.model[backup_id] = Expected(known.status, known.verified, mark)
        else:
            with pytest.raises(UsageError):
                self.store.record_mark(mark)

    @rule(backup_id=whole)
    def its_manifest_is_damaged(self, backup_id: str) -> None:
        known = self.model.get(backup_id)
        if known and known.status in (Status.COMPLETE, Status.BAD):
            (self.store.directory / backup_id / "manifest.json").write_bytes(b"{}")
            self.model[backup_id] = Expected(Status.DAMAGED, mark=known.mark)

    @rule(backup_id=st.one_of(drafts, whole))
    def delete(self, backup_id: str) -> None:
        if backup_id not in self.model:
            with pytest.raises(UsageError):
                self.store.delete(backup_id)
        elif backup_id in self.open:
            with pytest.raises(BusyError):
                self.store.delete(backup_id)
        else:
            self.store.delete(backup_id)
            del self.model[backup_id]

    @rule(backup_id=whole)
    def its_deletion_is_cut_off(self, backup_id: str) -> None:
        known = self.model.get(backup_id)
        if known and known.status in (Status.COMPLETE, Status.BAD, Status.DAMAGED):
            place = self.store.directory / backup_id
            place.rename(place.with_name(f"{backup_id}.deleting"))
            (place.with_name(f"{backup_id}.deleting") / "manifest.json").unlink()
            self.model[backup_id] = Expected(Status.INTERRUPTED)

    @precondition(lambda self: self.model)
    @invariant()
    def nothing_is_left_that_nobody_lists(self) -> None:
        assert len(list(self.store.directory.iterdir())) == len(self.model)

    @invariant()
    def it_shows_what_happened(self) -> None:
        shown = {each.id: Expected(each.status, each.verified, each.mark) for each in self.store.list()}
        assert shown == self.model
        assert list(shown) == sorted(shown)


TestCatalogue = Catalogue.TestCase
TestCatalogue.settings = settings(
    max_examples=60,
    stateful_step_count=30,
    deadline=None,
    # Every step flushes files to a disk that others use, too; and rules wait for one another.
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
