"""What a store lists after any sequence of what can happen to backups, with crashes at every change, and with damage.

`list` never raises; what it shows as complete is whole as far as anybody can see without reading all of it; what was
published is there until it is deleted; `latest` is never a backup that is known to be bad.
"""

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from dbha.backup.keep import KeepMark
from dbha.backup.manifest import Verification
from dbha.backup.store import Draft, Status, StoredBackup, resolve
from dbha.errors import BusyError, FoundWrongError, UsageError
from tests.unit.mortal_places import CrashError, DirectoryPlace, ObjectsPlace
from tests.unit.test_backup_store import DEFINITIONS, manifest_of

NOW = datetime(2026, 11, 23, tzinfo=UTC)
CONTENT = DEFINITIONS.model_dump_json(by_alias=True).encode()
STREAM = b"stream"
SPOILT = (Status.BAD, Status.DAMAGED)
UNFINISHED = (Status.WRITING, Status.INTERRUPTED, Status.FAILED)


@dataclass(frozen=True)
class Known:
    """What may be seen of one backup; `spoilt` once anything was done to its files."""

    may_be: tuple[Status, ...]
    found_bad: bool = False
    spoilt: bool = False
    mark: KeepMark | None = None


class Catalogue(RuleBasedStateMachine):
    """A store beside a model of it, which knows what may be seen of each backup."""

    new_place: Callable[[], Any]
    ids: Bundle[str] = Bundle("ids")

    def __init__(self) -> None:
        super().__init__()
        self.place = type(self).new_place()
        self.store = self.place.store
        self.open: dict[str, Draft] = {}
        self.model: dict[str, Known] = {}

    def teardown(self) -> None:
        for backup_id, draft in self.open.items():
            draft.leave()
            self.place.its_process_is_gone(backup_id, draft)
        self.place.remove()

    # --- what happens; `dies_after` so many changes, if it comes to that

    @rule(target=ids, second=st.integers(0, 4))
    def an_id(self, second: int) -> str:
        return f"20261123T04300{second}Z-0001"

    @rule(backup_id=ids, go_on=st.booleans(), dies_after=st.integers(0, 6))
    def begin(self, backup_id: str, go_on: bool, dies_after: int) -> None:
        known = self.model.get(backup_id)
        refused: tuple[type[Exception], ...] = ()
        if known and backup_id in self.open:
            refused = (BusyError, UsageError)
        elif known and (not go_on or not set(known.may_be) <= set(UNFINISHED)):
            refused = (UsageError,)
        if refused:
            with pytest.raises(refused):
                self.store.begin(backup_id, go_on=go_on)
            return
        before = known.may_be if known else ()
        if self._looks_written(backup_id):
            return
        with self._dying(backup_id, dies_after, (*before, Status.INTERRUPTED), or_gone=True):
            draft = self.store.begin(backup_id, go_on=go_on)
            self.open[backup_id] = draft
            for _ in draft.kept():
                pass
            # What is there of an attempt before is trusted by its name and size; only reading it tells.
            self.model[backup_id] = Known((Status.WRITING,), spoilt=bool(known and known.spoilt))

    @rule(backup_id=ids, dies_after=st.integers(0, 9))
    def write_and_publish(self, backup_id: str, dies_after: int) -> None:
        if (draft := self.open.get(backup_id)) is None:
            return
        if kept := sum(map(len, draft.kept())):  # of an attempt before
            draft.abandon("no need of two halves", b"")
            self.open.pop(backup_id)
            self.model[backup_id] = Known((Status.FAILED,))
            assert kept <= len(STREAM) * 9
            return
        with self._dying(backup_id, dies_after, (Status.INTERRUPTED, Status.COMPLETE)):
            draft.write(STREAM)
            draft.publish({"definitions.json": CONTENT}, manifest_of(backup_id, CONTENT))
            self.open.pop(backup_id)
            self.model[backup_id] = replace(self.model[backup_id], may_be=(Status.COMPLETE,))

    @rule(backup_id=ids)
    def write(self, backup_id: str) -> None:
        if backup_id in self.open:
            self.open[backup_id].write(STREAM)
            with self._dying(backup_id, 0, (Status.INTERRUPTED,)):
                raise CrashError

    @rule(backup_id=ids, dies_after=st.integers(0, 7))
    def abandon(self, backup_id: str, dies_after: int) -> None:
        if (draft := self.open.get(backup_id)) is not None:
            with self._dying(backup_id, dies_after, (Status.INTERRUPTED, Status.FAILED)):
                draft.abandon("why", b"log")
                self.open.pop(backup_id)
                self.model[backup_id] = Known((Status.FAILED,))

    @rule(backup_id=ids, dies_after=st.integers(0, 2))
    def leave(self, backup_id: str, dies_after: int) -> None:
        if (draft := self.open.get(backup_id)) is not None:
            with self._dying(backup_id, dies_after, (Status.INTERRUPTED,)):
                draft.leave()
                self.open.pop(backup_id)
                self.model[backup_id] = Known((Status.INTERRUPTED,))
            if not self.place.files(backup_id):
                self._may_be_gone(backup_id)

    @rule(backup_id=ids, good=st.booleans(), dies_after=st.integers(0, 3))
    def verify(self, backup_id: str, good: bool, dies_after: int) -> None:
        known = self.model.get(backup_id)
        if known is None or not set(known.may_be) <= {Status.COMPLETE, Status.BAD} or known.spoilt:
            return
        found = Verification(
            backup=backup_id, outcome="good" if good else "bad", problem="" if good else "why", when=NOW,
            stream_sha256=hashlib.sha256(STREAM).hexdigest(), tool_version="1", dbha_version="1",
        )  # fmt: skip
        after = Status.COMPLETE if good else Status.BAD
        with self._dying(backup_id, dies_after, (*known.may_be, after)):
            self.store.record_verification(found)
            self.model[backup_id] = replace(known, may_be=(after,), found_bad=not good)

    @rule(backup_id=ids, kept=st.booleans(), dies_after=st.integers(0, 3))
    def mark(self, backup_id: str, kept: bool, dies_after: int) -> None:
        mark, known = KeepMark(backup=backup_id, kept=kept, when=NOW), self.model.get(backup_id)
        if known is None or set(known.may_be) & set(UNFINISHED):
            return
        with self._dying(backup_id, dies_after, known.may_be):
            self.store.record_mark(mark)
            self.model[backup_id] = replace(known, mark=mark)

    @rule(backup_id=ids, dies_after=st.integers(0, 8))
    def delete(self, backup_id: str, dies_after: int) -> None:
        known = self.model.get(backup_id)
        if known is None or backup_id in self.open:
            with pytest.raises(UsageError if known is None else BusyError):
                self.store.delete(backup_id)
            return
        if self._looks_written(backup_id):
            return
        with self._dying(backup_id, dies_after, (*known.may_be, Status.INTERRUPTED), or_gone=True):
            self.store.delete(backup_id)
            del self.model[backup_id]

    @rule(
        backup_id=ids,
        number=st.integers(0, 9),
        change=st.sampled_from([
            lambda old: None, lambda old: b"", lambda old: old[:-1], lambda old: b"[]", lambda old: b"\xff" + old[1:],
            lambda old: old[:9] + bytes([old[9] ^ 1]) + old[10:] if len(old) > 9 else b"{}",
        ]),
    )  # fmt: skip
    def something_is_spoilt(
        self, backup_id: str, number: int, change: Callable[[bytes], bytes | None]
    ) -> None:
        files, known = self.place.files(backup_id), self.model.get(backup_id)
        if known is None or not files or backup_id in self.open:
            return
        file = files[number % len(files)]
        self.place.spoil(backup_id, file, change)
        may_be: tuple[Status, ...]
        if not self.place.files(backup_id):
            self._may_be_gone(backup_id)
        if backup_id not in self.model:
            return
        if set(known.may_be) <= set(UNFINISHED):
            may_be = UNFINISHED  # a note or a reason less, but never a backup more
        elif file.endswith("verification.json"):
            may_be = (*known.may_be, Status.COMPLETE)
            known = replace(known, found_bad=False)
        elif file.endswith("manifest.json"):
            may_be = (*SPOILT, Status.INTERRUPTED)  # elsewhere a backup is there because of its manifest
        else:
            may_be = (*known.may_be, Status.BAD)
        status = self._shown()[backup_id].status
        assert status in may_be, f"{file} was spoilt, and it is {status}"
        self.model[backup_id] = replace(known, may_be=(status,), spoilt=True, mark=None)

    @contextmanager
    def _dying(
        self, backup_id: str, after: int, may_be: tuple[Status, ...], *, or_gone: bool = False
    ) -> Iterator[None]:
        """Act for a process that survives `after` changes, and then look at which of `may_be` it left."""
        known = self.model.get(backup_id) or Known(())
        try:
            with self.place.dying_after(after):
                yield
        except CrashError:
            self.place.its_process_is_gone(backup_id, self.open.pop(backup_id, None))
            found = self._shown().get(backup_id)
            assert found is not None or or_gone, f"{backup_id} is lost"
            if found is None:
                self.model.pop(backup_id, None)
                return
            assert found.status in may_be, found
            assert found.mark in (known.mark, None) or found.mark.backup == backup_id
            is_bad = found.status is Status.BAD and not known.spoilt
            self.model[backup_id] = replace(known, may_be=(found.status,), found_bad=is_bad, mark=found.mark)

    def _may_be_gone(self, backup_id: str) -> None:
        """Forget a backup of which there is nothing any more where only files tell of one."""
        if backup_id not in self._shown():
            self.model.pop(backup_id, None)

    def _looks_written(self, backup_id: str) -> bool:
        """Tell whether a draft whose writer's note was spoilt is believed to be written, and so refused."""
        if (found := self._shown().get(backup_id)) is None or found.status is not Status.WRITING:
            return False
        for refused in (self.store.delete, self.store.begin):
            with pytest.raises((BusyError, UsageError)):
                refused(backup_id)
        return True

    # --- what has to be true at every moment

    def _shown(self) -> dict[str, StoredBackup]:
        found = self.store.list()
        assert [each.id for each in found] == sorted({each.id for each in found})
        return {each.id: each for each in found}

    @invariant()
    def it_shows_what_happened(self) -> None:
        shown = self._shown()
        assert shown.keys() == self.model.keys()
        for backup_id, known in self.model.items():
            found = shown[backup_id]
            assert found.status in known.may_be, found
            if not known.spoilt:
                assert found.mark == known.mark
            if known.mark is not None and found.status is Status.COMPLETE:
                assert found.mark is not None

    @invariant()
    def what_counts_is_whole(self) -> None:
        for backup_id, found in self._shown().items():
            if found.status is Status.COMPLETE and not self.model[backup_id].spoilt:
                assert found.manifest == manifest_of(backup_id, CONTENT)
                assert self.store.definitions_file(backup_id) == CONTENT
                with self.store.open_stream(backup_id) as stream:
                    assert stream.read() == STREAM

    @invariant()
    def the_latest_is_none_that_is_known_to_be_bad(self) -> None:
        with contextlib.suppress(FoundWrongError):
            latest = resolve(self.store.list(), "latest")
            assert not self.model[latest].found_bad
            assert self.store.manifest(latest).id == latest
            self.store.open_stream(latest).close()


class InADirectory(Catalogue):
    new_place = DirectoryPlace


class OfObjects(Catalogue):
    new_place = ObjectsPlace


TestInADirectory = InADirectory.TestCase
TestOfObjects = OfObjects.TestCase
# Every step flushes files to a disk that others use, too; and rules wait for one another.
SLOW = [HealthCheck.too_slow, HealthCheck.filter_too_much]
STEPS = settings(max_examples=80, stateful_step_count=40, deadline=None, suppress_health_check=SLOW)
TestInADirectory.settings = STEPS
TestOfObjects.settings = STEPS
