"""Which backup an incremental one goes on from, and why not from another; which files hold imported pages."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from dbha.backup.base import choose_base, require_descent, why_not_upon
from dbha.backup.donor import choose_donor
from dbha.backup.estimate import incremental_estimate
from dbha.backup.lineage import PROGRAM, Directory, in_words
from dbha.backup.manifest import LsnRange, Manifest, Origin
from dbha.backup.node_pages import has_imported_page
from dbha.backup.pipeline import expected_members
from dbha.backup.store import Status, StoredBackup
from dbha.backup.tool_files import lsn_range
from dbha.config.model import IncrementalPolicy
from dbha.errors import UnsafeError, UsageError
from tests.unit.test_backup_chains import FIRST, FULL, SECOND, manifest, stored
from tests.unit.test_backup_donor import SECOND as DB2
from tests.unit.test_backup_donor import THIRD as DB3
from tests.unit.test_backup_donor import WRITER as DB1

ORIGIN = Origin(mark="m", mark_table=58, last_table=400)
KNOWN = {"origin": ORIGIN, "lsn": LsnRange(from_lsn=0, to_lsn=1000), "donor": "node2"}
GOOD = Directory(
    state_uuid=FULL.cluster_state_uuid, server_series="10.11", lsn=2000, mark="m", mark_table=58, imported=()
)


def fit(of: Manifest) -> Manifest:
    return of.model_copy(update=KNOWN)


OLDER, FIT, UPON, DEEPER = fit(manifest(-5)), fit(FULL), fit(FIRST), fit(SECOND)


@pytest.mark.parametrize(
    ("backups", "name", "depth", "expected"),
    [
        pytest.param([OLDER, FIT], "", 1, FIT, id="the newest full one"),
        pytest.param([FIT, UPON], "", 1, FIT, id="never an incremental one by itself"),
        pytest.param([FIT, UPON], "", 2, FIT, id="nor in a longer chain"),
        pytest.param([OLDER, FIT], OLDER.id, 1, OLDER, id="the one that is named"),
        pytest.param([FIT, UPON], "latest", 2, UPON, id="a chain that is allowed"),
        pytest.param([FIT, UPON], UPON.id, 1, "it is number 1 of a chain, and", id="one that is not"),
        pytest.param([FIT, UPON, DEEPER], "latest", 2, "it is number 2 of a chain, and", id="too deep"),
        pytest.param([], "", 1, "there is no good full backup to go on from", id="nothing is there"),
        pytest.param([FULL], "", 1, "it was taken by a dbha that did not record", id="an older dbha's"),
    ],
)
def test_the_base(backups: list[Manifest], name: str, depth: int, expected: Manifest | str) -> None:
    there, policy = [stored(each) for each in backups], IncrementalPolicy(max_depth=depth)
    if isinstance(expected, Manifest):
        assert choose_base(there, name, policy) == expected
        return
    with pytest.raises(UnsafeError, match=expected) as refused:
        choose_base(there, name, policy)
    assert refused.value.hint.startswith("dbha backup create")


def test_what_is_not_good_is_no_base() -> None:
    policy = IncrementalPolicy()
    assert choose_base([stored(OLDER), stored(FIT, Status.BAD)], "", policy) == OLDER
    assert choose_base([stored(OLDER), StoredBackup("x", Status.FAILED, "", 1)], "", policy) == OLDER
    with pytest.raises(UnsafeError, match=f"backup {FIT.id} is bad: a byte is another"):
        choose_base([stored(OLDER), stored(FIT, Status.BAD)], FIT.id, policy)
    with pytest.raises(UnsafeError, match="there is no good full backup"):
        choose_base([stored(FIT, Status.BAD)], "", policy)
    with pytest.raises(UsageError):
        choose_base([stored(FIT)], "20200101T000000Z-0000", policy)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        pytest.param({}, "", id="the same"),
        pytest.param({"lsn": 1000}, "", id="nothing was written since"),
        pytest.param(
            {"state_uuid": "other"}, "the cluster began a new history since then, other", id="history"
        ),
        pytest.param({"mark": ""}, "node2 has the data of another node since then", id="no mark"),
        pytest.param({"mark": "n"}, "node2 has the data of another node since then", id="another mark"),
        pytest.param(
            {"mark_table": 59}, "node2 has the data of another node", id="the mark in a logical copy"
        ),
        pytest.param({"lsn": 999}, "the data of node2 is older than the backup", id="older"),
        pytest.param({"server_series": "11.8"}, "node2 runs MariaDB 11.8", id="another series"),
        pytest.param(
            {"imported": ("nova/a",)}, "nova/a was imported since then, by a restore", id="imported"
        ),
    ],
)
def test_when_lsns_do_not_tell_all(changes: dict[str, object], why: str) -> None:
    directory = replace(GOOD, **changes)  # type: ignore[arg-type]
    found = why_not_upon(FIT, directory)
    assert found.startswith(why) and bool(found) is bool(why)
    if why:
        with pytest.raises(UnsafeError, match=f"no incremental backup upon {FIT.id}: "):
            require_descent(FIT, directory)


def test_only_the_node_of_the_base_is_read() -> None:
    three = [DB1, DB2, DB3]
    chosen = choose_donor(three, only="db2")
    assert chosen.node == "db2"
    assert chosen.rejected == {"db1": "was not read for the base", "db3": "was not read for the base"}
    with pytest.raises(UnsafeError, match="db1 takes the writes; db2 was not"):
        choose_donor(three, only="db1")
    with pytest.raises(UnsafeError, match="db3 was not read for the base"):
        choose_donor(three, only="gone")


def test_words_for_many() -> None:
    assert in_words(("a", "b", "c")) == "a, b, c"
    assert in_words(("a", "b", "c", "d", "e")) == "a, b, c and 2 more"


def test_lsns_of_the_tool() -> None:
    assert lsn_range("backup_type = incremental\nfrom_lsn = 7\nto_lsn = 12\nlast_lsn = 13\n") == (7, 12)
    for text in ("", "from_lsn = 7", "from_lsn = x\nto_lsn = 1"):
        with pytest.raises(ValueError, match="does not know its LSNs"):
            lsn_range(text)


def test_what_a_stream_must_have() -> None:
    assert expected_members(["a/b"], incremental=False) == ["a/b.ibd"]
    assert expected_members(["a/b"], incremental=True) == ["a/b.ibd.delta", "a/b.ibd.meta"]


@pytest.mark.parametrize(
    ("ratio", "full_ratio", "expected"), [(0.01, 0.5, 100), (None, 0.5, 500), (None, None, 600)]
)
def test_how_large_it_will_be(ratio: float | None, full_ratio: float | None, expected: int) -> None:
    assert incremental_estimate(10_000, ratio, full_ratio) == expected


def page(*, lsn: int, size: int, content: bytes = b"x") -> bytes:
    return (b"\0" * 16 + lsn.to_bytes(8, "big") + content).ljust(size, b"\0")


@pytest.mark.parametrize("size", [8192, 16384])
@pytest.mark.parametrize(
    ("pages", "imported"),
    [
        ([(5, b"x"), (6, b"x")], False),
        ([(5, b"x"), (0, b"")], False),  # a page that was never used
        ([(0, b"x")], True),
        ([*[(5, b"x")] * 200, (0, b"x")], True),
        ([], False),
    ],
)
def test_imported_pages(tmp_path: Path, size: int, pages: list[tuple[int, bytes]], imported: bool) -> None:
    file = tmp_path / "a.ibd"
    file.write_bytes(b"".join(page(lsn=lsn, size=size, content=content) for lsn, content in pages))
    assert has_imported_page(str(file), size) is imported
    request = json.dumps([("a", str(file), size), ("gone", str(tmp_path / "gone"), size)]).encode() + b"\n"
    argv = (sys.executable, *PROGRAM.argv[1:])
    said = subprocess.run(
        argv, input=PROGRAM.source + request, capture_output=True, check=True, env=dict(os.environ)
    )
    assert json.loads(said.stdout) == (["a"] if imported else [])
