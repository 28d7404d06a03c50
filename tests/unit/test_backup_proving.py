"""What is decided while a backup is proven: row counts, words of the tools, and what a server has otherwise."""

import errno
import io
import struct
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

import pytest

from dbha.backup.bad_backup import BadBackupError
from dbha.backup.boot import Served, Table, differences, is_local, problem_of_check
from dbha.backup.definitions import DatabaseDefinition, Definitions
from dbha.backup.levels import Level
from dbha.backup.manifest import Manifest, RowCounts, ServiceState, sealed, unsealed
from dbha.backup.pages import (
    doublewrite_pages,
    innochecksum_argv,
    page_bytes_of,
    problem_of,
    tablespace_files,
)
from dbha.backup.private_server import end_outlived, server_argv
from dbha.backup.rows import Changes, cascading_tables, compare_rows, in_words, recorded_counts
from dbha.backup.store import Store
from dbha.backup.stored_bytes import opened
from dbha.errors import UnreachableError
from tests.unit.test_backup_manifest import MANIFEST

CREATE = "CREATE TABLE `a` (\n  `id` int(11)\n) ENGINE=InnoDB"
CASCADING = CREATE.replace(
    "\n)", ",\n  CONSTRAINT `f` FOREIGN KEY (`id`) REFERENCES `b` (`id`) ON DELETE CASCADE\n)"
)


def definitions(**tables: str) -> Definitions:
    known = DatabaseDefinition(charset="utf8mb3", collation="utf8mb3_bin", tables=tables, tablespaces=())
    return Definitions(databases={"nova": known})


# --- rows


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        pytest.param(Changes(10, 5), Changes(10, 5), (0, 0), id="nobody wrote"),
        pytest.param(Changes(10, 5), Changes(17, 5), (7, 0), id="rows came"),
        pytest.param(Changes(10, 5), Changes(10, 8), (0, 3), id="rows went"),
        pytest.param(Changes(10, 5, pending=4), Changes(10, 5), (4, 4), id="a transaction was open"),
        pytest.param(Changes(10, 5, pending=4), Changes(12, 6), (6, 5), id="all of it"),
    ],
)
def test_how_much_a_count_may_be_off(before: Changes, after: Changes, expected: tuple[int, int]) -> None:
    found = recorded_counts({"nova.a": 3}, before, after, why_not="")
    assert (found.added, found.removed, found.tables) == (*expected, {"nova.a": 3})


@pytest.mark.parametrize("after", [Changes(9, 5), Changes(10, 4), Changes(0, 0)])
def test_counters_that_went_back_tell_nothing(after: Changes) -> None:
    found = recorded_counts({"nova.a": 3}, Changes(10, 5), after, why_not="")
    assert (found.tables, found.why_not) == ({}, "the donor's counters were reset meanwhile")


@pytest.mark.parametrize(
    ("added", "removed", "found", "cascading", "verdict"),
    [
        (0, 0, 100, False, "exact"),
        (0, 0, 101, False, "nova.a has 101 rows instead of 100"),
        (0, 0, 99, False, "nova.a has 99 rows instead of 100"),
        (0, 0, 99, True, "nova.a has 99 rows instead of 100"),
        (5, 0, 100, False, "within"),
        (5, 0, 105, False, "within"),
        (5, 0, 106, False, "nova.a has 106 rows instead of 100 to 105"),
        (5, 0, 99, False, "nova.a has 99 rows instead of 100 to 105"),
        (5, 0, 99, True, "nova.a has 99 rows instead of 100 to 105"),
        (0, 5, 95, False, "within"),
        (0, 5, 94, False, "nova.a has 94 rows instead of 95 to 100"),
        (0, 5, 94, True, "within"),
        (0, 5, 0, True, "within"),
        (0, 5, 101, True, "nova.a has 101 rows instead of 0 to 100"),
        (3, 500, 0, False, "within"),
        (3, 500, 104, False, "nova.a has 104 rows instead of 0 to 103"),
    ],
)
def test_comparing_rows(added: int, removed: int, found: int, cascading: bool, verdict: str) -> None:
    recorded = RowCounts(tables={"nova.a": 100}, added=added, removed=removed)
    result = compare_rows(recorded, {"nova.a": found}, ["nova.a"] if cascading else [])
    words = "exact" if result.exact else "within" if result.within else result.wrong[0]
    assert words == verdict
    assert result.exact + result.within + len(result.wrong) == 1


def test_a_table_that_was_not_counted_is_not_compared() -> None:
    recorded = RowCounts(tables={"nova.a": 1, "nova.gone": 1})
    assert compare_rows(recorded, {"nova.a": 1, "nova.new": 7}, []).exact == 1


@pytest.mark.parametrize(
    ("recorded", "found", "words"),
    [
        (None, {}, "rows were not compared: they were not counted when it was taken"),
        (RowCounts(why_not="the copy ended first"), {}, "rows were not compared: the copy ended first"),
        (RowCounts(), {}, "rows were not compared: there are no tables"),
        (RowCounts(tables={"n.a": 1, "n.b": 2}), {"n.a": 1, "n.b": 2}, "the rows of 2 tables are as counted"),
        (
            RowCounts(tables={"n.a": 1}, added=4, removed=2),
            {"n.a": 1},
            "those of 1 to within the 4 that came and the 2 that went meanwhile",
        ),
        (
            RowCounts(tables={"n.a": 1}, why_not="the copy ended first"),
            {"n.a": 1},
            "the rows of 1 tables are as counted; others were not counted: the copy ended first",
        ),
    ],
)
def test_rows_in_words(recorded: RowCounts | None, found: Mapping[str, int], words: str) -> None:
    assert in_words(recorded, compare_rows(recorded or RowCounts(), found, [])) == words


def test_which_tables_may_lose_rows_with_others() -> None:
    assert cascading_tables(definitions(a=CREATE, c=CASCADING)) == {"nova.c"}


def test_manifests_with_and_without_rows_are_read() -> None:
    counted = MANIFEST.model_copy(update={"rows": RowCounts(tables={"nova.a": 3}, added=1)})
    assert unsealed(sealed(counted), Manifest, "it") == counted
    assert unsealed(sealed(MANIFEST), Manifest, "it").rows is None


# --- pages


@pytest.mark.parametrize(
    ("status", "output", "problem"),
    [
        (0, "", ""),
        (0, "\n \n", ""),
        (1, "Fail: page::4 invalid\nExceeded the maximum allowed mismatch count::0\n", "Fail: page::4 invalid"),
        (1, "", "innochecksum ended with exit status 1"),
        (1, "Error: Was not able to read the rest", "Error: Was not able to read the rest"),
        (0, "All are zero-filled pages.", "All are zero-filled pages."),
        (0, "Fail: page::64 invalid\nFail: page::65 invalid\n", ""),
        (0, "Fail: page::64 invalid\nFail: page::66 invalid\n", "Fail: page::66 invalid"),
        (1, "Fail: page::7 invalid\nFail: page::64 invalid\nExceeded the maximum\n", "Fail: page::7 invalid"),
        (1, "Fail: page::64 invalid\nExceeded the maximum\n", "Exceeded the maximum"),
        (1, "Fail: page::64 invalid\n", "innochecksum ended with exit status 1"),
    ],
)  # fmt: skip
def test_words_of_innochecksum(status: int, output: str, problem: str) -> None:
    assert problem_of(status, output, frozenset({64, 65})) == problem


@pytest.mark.parametrize(("page_bytes", "extent_pages"), [(4096, 256), (16384, 64), (65536, 64)])
def test_where_the_doublewrite_buffer_is(tmp_path: Path, page_bytes: int, extent_pages: int) -> None:
    file = tmp_path / "ibdata1"
    page = bytearray(page_bytes)
    struct.pack_into(">III", page, page_bytes - 190, 536853855, 300, 700)
    file.write_bytes(bytes(5 * page_bytes) + page)
    expected = {*range(300, 300 + extent_pages), *range(700, 700 + extent_pages)}
    assert doublewrite_pages(file, page_bytes) == expected
    file.write_bytes(bytes(6 * page_bytes))
    assert doublewrite_pages(file, page_bytes) == frozenset()
    file.write_bytes(b"")
    assert doublewrite_pages(file, page_bytes) == frozenset()
    assert page_bytes_of(f"[mysqld]\ninnodb_page_size={page_bytes}\n") == page_bytes
    assert page_bytes_of("") == 16384


def test_which_files_are_tablespaces(tmp_path: Path) -> None:
    sizes = {
        "nova/a.ibd": 30,
        "nova/b.ibd": 10,
        "ibdata1": 20,
        "undo001": 5,
        "ib_logfile0": 99,
        "nova/a.cfg": 1,
    }
    (tmp_path / "nova").mkdir()
    for name, size in sizes.items():
        (tmp_path / name).write_bytes(b"x" * size)
    found = tablespace_files(tmp_path)
    assert [str(file.relative_to(tmp_path)) for file in found] == [
        "nova/a.ibd",
        "ibdata1",
        "nova/b.ibd",
        "undo001",
    ]
    assert innochecksum_argv(found[0]) == (
        "innochecksum",
        "--skip-freed-pages",
        "--allow-mismatches=0",
        str(tmp_path / "nova/a.ibd"),
    )


# --- boot


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([("status", "OK")], ""),
        ([("status", "Table is already up to date")], ""),
        ([("note", "The storage engine for the table doesn't support check")], ""),
        ([("Warning", "a warning"), ("status", "OK")], ""),
        ([("error", "Corrupt")], "Corrupt"),
        ([("Warning", "InnoDB: Index k contains 3 entries, should be 2."), ("error", "Corrupt")],
         "InnoDB: Index k contains 3 entries, should be 2., Corrupt"),
        ([("Error", "Table 'nova.a' doesn't exist"), ("status", "Operation failed")], "Table 'nova.a' doesn't exist"),
        ([("status", "Operation failed")], "Operation failed"),
        ([], "the check said nothing"),
    ],
)  # fmt: skip
def test_words_of_check_table(rows: list[tuple[str, str]], problem: str) -> None:
    assert problem_of_check([{"Msg_type": kind, "Msg_text": text} for kind, text in rows]) == problem


HEADS = MANIFEST.model_copy(
    update={
        "services": {"nova": ServiceState(release="2025.1", databases=("nova",), heads={"nova": ("abc",)})}
    }
)
GOOD = Served(frozenset({"nova.a"}), {"nova": ("abc",)}, (Table("nova.a", "", 3),))


@pytest.mark.parametrize(
    ("served", "found"),
    [
        (GOOD, ()),
        (Served(frozenset(), GOOD.heads, ()), ("table nova.a is missing",)),
        (Served(frozenset({"nova.a", "nova.b"}), GOOD.heads, GOOD.tables), ("table nova.b should not be there",)),
        (Served(GOOD.names, {"nova": ("abd",)}, GOOD.tables),
         ("nova has the schema heads abd instead of abc",)),
        (Served(GOOD.names, {}, GOOD.tables), ("nova has the schema heads none instead of abc",)),
        (Served(GOOD.names, GOOD.heads, (Table("nova.a", "Corrupt", None),)), ("nova.a: Corrupt",)),
    ],
)  # fmt: skip
def test_what_a_server_has_otherwise(served: Served, found: tuple[str, ...]) -> None:
    assert differences(HEADS, definitions(a=CREATE), served) == found


@pytest.mark.parametrize(
    ("ended", "log", "local"),
    [
        (1, "[ERROR] InnoDB: Database page corruption on disk", False),
        (-6, "[ERROR] mysqld got signal 6 ;", False),
        (-11, "", False),
        (-9, "", True),
        (-15, "", True),
        (None, "", True),
        (1, "[ERROR] mariadbd: Disk full (/x); waiting; No space left on device", True),
        (1, "[ERROR] InnoDB: Operating system error number 28 (Errcode: 28)", True),
        (
            1,
            "[ERROR] InnoDB: preallocating 100663296 bytes for file ./ib_logfile101 failed with error 28",
            True,
        ),
        (1, "[ERROR] InnoDB: Operating system error number 13 in a file operation.", True),
        (1, "[ERROR] InnoDB: Plugin initialization aborted with error Data structure corruption", False),
        (1, "[ERROR] mariadbd: unknown variable 'x=1'", True),
    ],
)
def test_a_server_that_cannot_run_here_is_not_held_against_the_backup(
    ended: int | None, log: str, local: bool
) -> None:
    assert is_local(ended, log, 1 << 30) is local
    assert is_local(ended, log, 0), "it could not even write its log"


def test_the_private_server_listens_nowhere_and_knows_how_the_files_are_laid_out() -> None:
    donors = "[mysqld]\ninnodb_page_size=65536\ninnodb_undo_tablespaces = 3\nplugin_load=x.so\n#innodb_page_size=1\n"
    argv = server_argv(Path("/tree"), donors, 1 << 20, as_root=False)
    assert argv[:2] == ("mariadbd", "--no-defaults")
    assert {
        "--skip-networking",
        "--wsrep-on=OFF",
        "--tmpdir=/tree",
        "--innodb-buffer-pool-size=1048576",
    } <= set(argv)
    assert argv[-2:] == ("--innodb-page-size=65536", "--innodb-undo-tablespaces=3")
    assert not any("plugin" in option for option in argv)
    assert server_argv(Path("/tree"), "", 1, as_root=True)[-1] == "--user=root"


def test_a_server_that_outlived_its_controller_is_ended_and_nobody_else(tmp_path: Path) -> None:
    """The processes only look like servers: what matters is their command line."""

    def looking_like_one(datadir: Path | str) -> "subprocess.Popen[bytes]":
        argv = ["mariadbd", "-c", "echo; read line", f"--datadir={datadir}"]
        started = subprocess.Popen(argv, executable="/bin/sh", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert started.stdout is not None
        started.stdout.read(1)  # from now on its command line is its own
        return started

    staging, beside = tmp_path / "staging", f"{tmp_path}/staging-2/tree"
    with looking_like_one(staging / "b.1.partial") as outlived, looking_like_one(beside) as stranger:
        try:
            end_outlived(staging)
            assert outlived.wait(5) == -9
            assert stranger.poll() is None
        finally:
            outlived.kill()
            stranger.kill()


# --- reading again


class BrokenStream(io.BytesIO):
    """A stream whose medium fails."""

    def __init__(self, code: int) -> None:
        super().__init__()
        self._code = code

    def read(self, size: int | None = -1) -> bytes:
        raise OSError(self._code, "no")


class BrokenStore:
    """A store that only has such a stream; whatever else it is asked for fails the test."""

    def __init__(self, code: int) -> None:
        self._code = code

    def open_stream(self, backup_id: str) -> BinaryIO:
        return BrokenStream(self._code)


@pytest.mark.parametrize(
    ("code", "kind"),
    [(errno.EIO, BadBackupError), (errno.ESTALE, UnreachableError), (errno.ENOTCONN, UnreachableError)],
)
def test_a_broken_medium_is_told_from_a_broken_way_to_it(code: int, kind: type[Exception]) -> None:
    store = cast(Store, BrokenStore(code))
    with pytest.raises(kind) as raised, opened(store, MANIFEST) as stream:
        stream.read(1)
    found: Any = raised.value
    assert not isinstance(found, BadBackupError) or found.level is Level.HASH
