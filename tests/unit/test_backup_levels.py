"""Which of several verdicts on a backup counts, and that none is forgotten which could still matter."""

import itertools
import random
from datetime import UTC, datetime, timedelta

import pytest

from dbha.backup.levels import Level, remembered, standing
from dbha.backup.manifest import Verdict, Verification, sealed, unsealed
from dbha.backup.plans import BackupSpec
from dbha.backup.verdicts import with_verdict
from tests.unit.test_backup_manifest import MANIFEST

START = datetime(2026, 11, 23, 4, 30, tzinfo=UTC)


def verdict(words: str, number: int = 0, stream: str = "0") -> Verdict:
    """Return the verdict in words like `good boot`; `number` is its place in time."""
    outcome, level = words.split()
    assert outcome in ("good", "bad")
    return Verdict(
        level=Level(level), outcome="good" if outcome == "good" else "bad",
        problem="why" if outcome == "bad" else "", when=START + timedelta(hours=number),
        stream_sha256=stream * 64, tool_version="10.11.19-MariaDB", dbha_version="0.1.0",
    )  # fmt: skip


def verdicts(*words: str) -> list[Verdict]:
    return [verdict(each, number) for number, each in enumerate(words)]


def test_each_level_includes_the_ones_before_it() -> None:
    order = [Level.HASH, Level.PREPARE, Level.PAGES, Level.BOOT]
    assert [[one.includes(other) for other in order] for one in order] == [
        [True, False, False, False], [True, True, False, False], [True, True, True, False], [True] * 4,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("given", "counts"),
    [
        (["good prepare"], 0),
        (["bad hash"], 0),
        (["good boot", "good hash"], 0),
        (["good hash", "good boot"], 1),
        (["good pages", "good pages"], 1),
        (["good boot", "bad hash"], 1),
        (["bad hash", "good hash"], 1),
        (["bad hash", "good boot"], 1),
        (["good boot", "bad hash", "good hash"], 2),
        (["good boot", "bad hash", "good hash", "good prepare", "good hash"], 3),
        (["bad boot", "good hash"], 0),
        (["bad boot", "good pages", "good pages"], 0),
        (["bad boot", "good boot"], 1),
        (["bad boot", "good boot", "good hash"], 1),
        (["bad pages", "bad hash"], 1),
        (["bad pages", "bad hash", "good prepare"], 0),
        (["bad pages", "bad hash", "good prepare", "good pages"], 3),
        (["bad hash", "bad pages", "good hash"], 1),
    ],
    ids=lambda value: ", ".join(value) if isinstance(value, list) else "",
)
def test_what_counts(given: list[str], counts: int) -> None:
    found = verdicts(*given)
    assert standing(found) is found[counts]


def test_verdicts_on_another_stream_do_not_count() -> None:
    found = [verdict("good boot", 0, "1"), verdict("bad boot", 1, "1"), verdict("good hash", 2, "0")]
    assert standing(found) is found[2]


def test_the_clock_does_not_decide_which_came_last() -> None:
    found = [verdict("bad hash", 5), verdict("good hash", 1)]
    assert standing(found) is found[1]


KINDS = [f"{outcome} {level}" for outcome, level in itertools.product(("good", "bad"), Level)]


@pytest.mark.parametrize("seed", range(40))
def test_what_is_forgotten_never_matters(seed: int) -> None:
    chance = random.Random(seed)
    everything: list[Verdict] = []
    kept: tuple[Verdict, ...] = ()
    for number in range(120):
        # Mostly one kind, so that the others are long ago.
        new = verdict(chance.choice(KINDS) if chance.random() < 0.1 else "good hash", number)
        everything.append(new)
        kept = remembered((*kept, new))
        assert standing(kept) == standing(everything)
        assert len(kept) <= 24


def test_both_verdicts_stay_to_be_seen() -> None:
    record: Verification | None = None
    for each in verdicts("good boot", "bad hash", "good hash"):
        record = with_verdict(record, MANIFEST.id, each)
    assert record is not None
    assert (record.outcome, record.level, record.when) == ("good", Level.HASH, START + timedelta(hours=2))
    assert [each.outcome for each in record.verdicts] == ["good", "bad", "good"]
    assert unsealed(sealed(record), Verification, "it") == record


OLD = (
    b'{"backup":"20261123T043000Z-3f2a","dbha_version":"0.1.0","level":"prepared","outcome":"good","problem":"",'
    b'"schema":1,"sha256":"3328b8ca9469cbc0a95405a7761a065953bbc180af7843b25be5683916238a6f",'
    b'"stream_sha256":"%s","tool_version":"10.11.19-MariaDB","when":"2026-11-23T04:30:00Z"}\n' % (b"0" * 64)
)


def test_a_record_of_an_earlier_version_is_read() -> None:
    """It knew one level, by another name, and no history."""
    record = unsealed(OLD, Verification, "it")
    assert (record.level, record.outcome, record.history) == (Level.PREPARE, "good", ())
    newer = with_verdict(record, MANIFEST.id, verdict("good hash", 1))
    assert (newer.level, newer.when) == (Level.PREPARE, START)
    assert [each.level for each in newer.verdicts] == [Level.PREPARE, Level.HASH]


@pytest.mark.parametrize(
    ("recorded", "meant"),
    [(True, Level.PREPARE), (False, None), ("boot", Level.BOOT), (None, None), ("hash", Level.HASH)],
)
def test_a_journaled_backup_of_an_earlier_version_is_taken_up(recorded: object, meant: Level | None) -> None:
    arguments = {
        "backup_id": MANIFEST.id,
        "donor": "db2",
        "donor_reasons": {},
        "label": "",
        "backup_bytes": 1,
    }
    spec = BackupSpec.model_validate({**arguments, "verify": recorded})
    assert spec.verify is meant
    assert BackupSpec.model_validate(spec.model_dump(mode="json")) == spec
