"""What a backup that is based on others needs, and how it stands when one of them does not."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dbha.backup.chains import based_on, chain_of, judged, refuse_needed
from dbha.backup.manifest import Base, Manifest
from dbha.backup.pruning import listed
from dbha.backup.retention import good_ones
from dbha.backup.store import Status, StoredBackup, resolve
from dbha.errors import FoundWrongError, UnsafeError
from tests.unit.test_backup_manifest import MANIFEST

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
COMPLETE, BAD, ORPHANED = Status.COMPLETE, Status.BAD, Status.ORPHANED


def named(number: int) -> str:
    return f"{NOW + timedelta(hours=number):%Y%m%dT%H%M%SZ}-0000"


def manifest(number: int, base: int | None = None, *, depth: int = 0, sha256: str = "") -> Manifest:
    """Return the manifest of backup `number`; its stream's sha256 is made of its number."""
    upon = None if base is None else Base(id=named(base), sha256=sha256 or sha_of(base))
    stream = MANIFEST.stream.model_copy(update={"sha256": sha_of(number)})
    kind = "full" if base is None else "incremental"
    return MANIFEST.model_copy(
        update={"id": named(number), "kind": kind, "base": upon, "depth": depth, "stream": stream}
    )


def sha_of(number: int) -> str:
    return f"{number:064x}"


def stored(known: Manifest, status: Status = COMPLETE) -> StoredBackup:
    return StoredBackup(known.id, status, "a byte is another" if status is BAD else "", 1, known)


FULL, FIRST, SECOND = manifest(0), manifest(1, 0, depth=1), manifest(2, 1, depth=2)


@pytest.mark.parametrize(
    ("backups", "expected", "why"),
    [
        pytest.param([stored(FULL), stored(FIRST)], [COMPLETE, COMPLETE], "", id="all is there"),
        pytest.param([stored(FIRST)], [ORPHANED], f"its base {FULL.id} is not there", id="no base"),
        pytest.param(
            [stored(FULL, BAD), stored(FIRST)], [BAD, ORPHANED],
            f"its base {FULL.id} is bad: a byte is another", id="a bad base",
        ),
        pytest.param(
            [stored(FULL, BAD), stored(FIRST), stored(SECOND)], [BAD, ORPHANED, ORPHANED],
            f"its base {FIRST.id} is orphaned: its base {FULL.id} is bad: a byte is another", id="a bad chain",
        ),
        pytest.param(
            [StoredBackup(FULL.id, Status.DAMAGED, "unreadable", 1), stored(FIRST)], [Status.DAMAGED, ORPHANED],
            f"its base {FULL.id} is damaged: unreadable", id="a damaged base",
        ),
        pytest.param(
            [StoredBackup(FULL.id, Status.WRITING, "", 1), stored(FIRST)], [Status.WRITING, ORPHANED],
            f"its base {FULL.id} is writing", id="a base that is only being copied",
        ),
        pytest.param(
            [stored(FULL), stored(manifest(1, 0, depth=1, sha256="f" * 64))], [COMPLETE, ORPHANED],
            f"its base {FULL.id} is another backup than the one it was taken upon", id="another base",
        ),
        pytest.param([stored(FULL), stored(FIRST, BAD)], [COMPLETE, BAD], "a byte is another", id="bad itself"),
    ],
)  # fmt: skip
def test_how_they_stand(backups: list[StoredBackup], expected: list[Status], why: str) -> None:
    for order in (backups, backups[::-1]):
        found = {each.id: each for each in judged(order)}
        assert [found[each.id].status for each in backups] == expected
        assert found[backups[-1].id].reason == why
        assert [each.id for each in judged(order)] == [each.id for each in order]


def test_the_latest_is_one_that_can_be_restored() -> None:
    assert resolve(judged([stored(FULL), stored(FIRST)]), "latest") == FIRST.id
    assert resolve(judged([stored(FULL), stored(manifest(3, 9, depth=1))]), "latest") == FULL.id


def test_the_chain_of_a_backup() -> None:
    known = {each.id: each for each in (FULL, FIRST, SECOND)}
    assert chain_of(SECOND, known.__getitem__) == (FULL, FIRST, SECOND)
    assert chain_of(FULL, known.__getitem__) == (FULL,)
    with pytest.raises(FoundWrongError, match="another backup than the one it was taken upon"):
        chain_of(manifest(3, 0, depth=1, sha256="f" * 64), known.__getitem__)
    circle = manifest(4, 4, depth=1)
    with pytest.raises(FoundWrongError, match="another backup"):
        chain_of(circle, lambda _: circle)


def test_what_is_based_on_a_backup() -> None:
    backups = [stored(FULL), stored(FIRST), stored(SECOND, BAD), stored(manifest(3))]
    assert based_on(backups, FULL.id) == (FIRST.id, SECOND.id)
    assert based_on(backups, SECOND.id) == ()
    refuse_needed(backups, SECOND.id)
    with pytest.raises(UnsafeError, match=f"the base of {FIRST.id}, {SECOND.id}") as refused:
        refuse_needed(backups, FULL.id)
    assert refused.value.hint.splitlines()[0] == f"dbha backup delete {SECOND.id}"


@st.composite
def stores(draw: st.DrawFn) -> list[StoredBackup]:
    """Return chains of which anything may be missing or spoilt."""
    known: list[Manifest] = []
    for number in range(draw(st.integers(0, 12))):
        base = draw(st.sampled_from([None, *range(number)]))
        depth = 0 if base is None else known[base].depth + 1
        known.append(manifest(number, base, depth=depth))
    statuses = [status for status in Status if status is not ORPHANED]
    found = [stored(each, draw(st.sampled_from([COMPLETE, COMPLETE, *statuses]))) for each in known]
    return [each for each in found if draw(st.integers(0, 4))]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(stores())
def test_what_is_complete_with_its_bases_is_what_retention_calls_good(backups: list[StoredBackup]) -> None:
    complete = {each.id for each in judged(backups) if each.status is COMPLETE}
    assert complete == {each.id for each in good_ones(listed(backups, [], NOW))}
    assert complete == {each.id for each in good_ones(listed(judged(backups), [], NOW))}
    for backup in backups:
        if backup.id in complete:
            assert backup.manifest is not None
            by_id = {each.id: each.manifest for each in backups if each.manifest is not None}
            assert {each.id for each in chain_of(backup.manifest, by_id.__getitem__)} <= complete
