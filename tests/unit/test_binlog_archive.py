"""The archive on a disk, and what would be replayed from it."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dbha.backup.binlog.archive import Archive
from dbha.backup.binlog.gtid import Gtid
from dbha.backup.binlog.records import ArchivedLog, Sighting, in_utc
from dbha.backup.binlog.replay import read_argv
from dbha.backup.binlog.replay_plan import ReplayPlan, cut_after, plan_replay
from dbha.backup.binlog.replay_program import Statements, server_argv
from dbha.backup.binlog.target import BeforeGtid, BeforeTime, Newest, Target, UpTo, parse_target
from dbha.backup.manifest import DefinitionsFile, Manifest, StreamFile
from dbha.errors import BusyError, FoundWrongError, UnsafeError, UsageError
from tests.unit.binlog_files import LogFile, log_of

TIMELINE = "b5a1f2c6-0000-11ef-8000-0123456789ab"
LOCAL = {101, 102, 103}


def put(archive: Archive, node: str, name: str, log: LogFile) -> ArchivedLog | None:
    """Archive a log as if it had been fetched."""
    path = log.write(archive.place(TIMELINE, node) / "open" / name)
    return archive.seal(path, LOCAL)


def names(archive: Archive) -> list[str]:
    return sorted(
        str(path.relative_to(archive.directory / TIMELINE))
        for path in archive.directory.rglob("*")
        if path.is_file() and path.name != ".lock"
    )


def manifest(gtid: str, *, finished_s: int = 1000) -> Manifest:
    return Manifest(
        id="20261123T061049Z-aa44", cluster="lab", label="", created=in_utc(finished_s - 1),
        finished=in_utc(finished_s), donor="db2", server_version="", tool_version="", timeline=TIMELINE,
        cluster_state_uuid=TIMELINE, seqno=99, gtid=gtid, services={},
        stream=StreamFile(stored_bytes=1, raw_bytes=1, sha256="0" * 64),
        definitions=DefinitionsFile(sha256="0" * 64), data_bytes=1, dbha_version="0",
    )  # fmt: skip


def numbers(plan: ReplayPlan) -> list[tuple[str, int, int]]:
    return [
        (f"{each.part.record.node}/{each.part.record.name}", each.first.sequence, each.last.sequence)
        for each in plan.segments
    ]


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    """1 to 30 of db2 in two logs, 25 to 50 of db3; transaction N was made at second 1000 + N."""
    found = Archive(tmp_path / "archive")
    put(found, "db2", "binlog.000001", log_of(1, 10, time_s=1001))
    put(found, "db2", "binlog.000002", log_of(11, 30, time_s=1011))
    put(found, "db3", "binlog.000007", log_of(25, 50, time_s=1025))
    return found


def test_a_sealed_log_is_private_and_says_what_it_has(archive: Archive) -> None:
    path = archive.directory / TIMELINE / "db2" / "binlog.000002.11-30"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    history = archive.history(TIMELINE)
    (window,) = history.windows
    assert (window.first, window.last, window.time) == ("1-1-1", "1-1-50", in_utc(1050))
    record = next(part.record for part in history.parts if part.record.file == path.name)
    assert (record.node, record.name, record.size_bytes) == ("db2", "binlog.000002", path.stat().st_size)


def test_a_log_that_was_cut_off_is_sealed_up_to_its_last_whole_transaction(tmp_path: Path) -> None:
    archive = Archive(tmp_path / "archive")
    log = log_of(1, 10)
    log.content = log.content[:-3]
    log.write(archive.place(TIMELINE, "db2") / "open" / "binlog.000001")
    (part,) = archive.history(TIMELINE).parts
    assert (part.sealed, part.record.end) == (False, 9)
    archive.seal_leftovers(LOCAL, pytest.fail)
    assert names(archive) == ["db2/binlog.000001.1-9", "db2/binlog.000001.1-9.json"]
    put(archive, "db2", "binlog.000001", log_of(1, 12))  # fetched again, it is longer: the short copy goes
    assert names(archive) == ["db2/binlog.000001.1-12", "db2/binlog.000001.1-12.json"]
    put(archive, "db2", "binlog.000001", log_of(1, 12))  # and once more
    assert names(archive) == ["db2/binlog.000001.1-12", "db2/binlog.000001.1-12.json"]


def test_a_log_without_transactions_of_the_cluster_is_not_kept(tmp_path: Path) -> None:
    archive = Archive(tmp_path / "archive")
    log = LogFile().statement(Gtid(102, 2, 1), "FLUSH TABLES")
    assert put(archive, "db2", "binlog.000001", log) is None
    assert names(archive) == []


def test_a_log_of_a_rebuilt_node_does_not_displace_its_namesake(archive: Archive) -> None:
    put(archive, "db2", "binlog.000001", log_of(60, 70))
    assert "db2/binlog.000001.1-10" in names(archive)
    assert [(window.begin, window.end) for window in archive.history(TIMELINE).windows] == [(1, 50), (60, 70)]


@pytest.mark.parametrize(
    ("rotated", "windows"),
    [
        pytest.param(True, [(1, 14)], id="a running server went on: 5 and 8 were used up by what failed"),
        pytest.param(False, [(1, 4), (6, 14)], id="a server started: 5 may have been a transaction"),
    ],
)
def test_numbers_that_a_server_skips(
    tmp_path: Path, *, rotated: bool, windows: list[tuple[int, int]]
) -> None:
    archive = Archive(tmp_path / "archive")
    put(archive, "db2", "binlog.000001", log_of(1, 4))
    log = LogFile([Gtid(1, 1, 4), Gtid(102, 2, 99)], rotated=rotated)
    for sequence in (6, 7, 9, 14):
        log.transaction(Gtid(1, 1, sequence))
    put(archive, "db2", "binlog.000002", log)
    assert [(window.begin, window.end) for window in archive.history(TIMELINE).windows] == windows
    plan = plan_replay(archive, manifest(f"1-1-{windows[-1][0]}"), Newest())
    assert plan.until == Gtid(1, 1, 14)


@pytest.mark.parametrize(
    ("listed", "numbers", "windows"),
    [
        pytest.param([Gtid(1, 1, 4), Gtid(0, 1, 1520)], [5, 6], [(1, 10)], id="it took up an old number"),
        pytest.param([Gtid(1, 1, 10)], [11, 12, 5, 13], [(1, 12)], id="and in the middle of a log"),
    ],
)
def test_numbers_that_go_down_are_not_the_clusters(
    tmp_path: Path, listed: list[Gtid], numbers: list[int], windows: list[tuple[int, int]]
) -> None:
    archive = Archive(tmp_path / "archive")
    put(archive, "db2", "binlog.000001", log_of(1, 10))
    log = LogFile(listed)
    for number in numbers:
        log.transaction(Gtid(1, 1, number))
    put(archive, "db3", "binlog.000010", log)
    assert [(window.begin, window.end) for window in archive.history(TIMELINE).windows] == windows


def test_a_damaged_leftover_is_kept_and_said(tmp_path: Path) -> None:
    archive = Archive(tmp_path / "archive")
    log = log_of(1, 10)
    log.content = log.content[:400] + b"\xff" + log.content[401:]
    log.write(archive.place(TIMELINE, "db2") / "open" / "binlog.000001")
    said: list[str] = []
    archive.seal_leftovers(LOCAL, said.append)
    assert "is damaged" in said[0]
    assert names(archive) == ["db2/binlog.000001.damaged"]


def test_two_never_archive_into_one_directory(archive: Archive) -> None:
    assert not archive.is_busy()
    with archive.only_one():
        assert archive.is_busy()
        with pytest.raises(BusyError, match="another process archives"), archive.only_one():
            pytest.fail("both had it")
    assert not archive.is_busy()


@pytest.mark.parametrize("suffix", ["", ".json"])
def test_a_flipped_byte_is_refused(archive: Archive, suffix: str) -> None:
    path = archive.directory / TIMELINE / "db2" / f"binlog.000002.11-30{suffix}"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(FoundWrongError, match=r"binlog\.000002\.11-30"):
        plan_replay(archive, manifest("1-1-5"), Newest())


@pytest.mark.parametrize(
    ("gtid", "target", "until", "segments"),
    [
        pytest.param("1-1-5", Newest(), 50,
                     [("db2/binlog.000001", 6, 10), ("db2/binlog.000002", 11, 30), ("db3/binlog.000007", 31, 50)],
                     id="everything, over two nodes"),
        pytest.param("1-1-40,102-2-77", Newest(), 50, [("db3/binlog.000007", 41, 50)], id="the rest of one log"),
        pytest.param("1-1-50", Newest(), 50, [], id="nothing is left"),
        pytest.param("1-1-5", BeforeGtid(Gtid(1, 1, 8)), 7, [("db2/binlog.000001", 6, 7)], id="just before a GTID"),
        pytest.param("1-1-5", BeforeGtid(Gtid(1, 1, 11)), 10, [("db2/binlog.000001", 6, 10)],
                     id="before the first of a log"),
        pytest.param("1-1-5", BeforeGtid(Gtid(1, 1, 6)), 5, [], id="before the very next"),
        pytest.param("1-1-5", BeforeTime(in_utc(1009)), 8, [("db2/binlog.000001", 6, 8)], id="just before a time"),
        pytest.param("1-1-5", BeforeTime(in_utc(1009) - timedelta(milliseconds=1)), 8, [("db2/binlog.000001", 6, 8)],
                     id="in a second"),
        pytest.param("1-1-5", BeforeTime(in_utc(1050)), 49,
                     [("db2/binlog.000001", 6, 10), ("db2/binlog.000002", 11, 30), ("db3/binlog.000007", 31, 49)],
                     id="the time of the last one"),
    ],
)  # fmt: skip
def test_what_is_replayed(
    archive: Archive, gtid: str, target: Target, until: int, segments: list[tuple[str, int, int]]
) -> None:
    plan = plan_replay(archive, manifest(gtid), target)
    assert plan.until.sequence == until
    assert numbers(plan) == segments


@pytest.mark.parametrize(
    ("gtid", "target", "message"),
    [
        pytest.param("1-1-60", Newest(), "ends with 1-1-50, before the backup", id="the archive is too short"),
        pytest.param("", Newest(), "the backup has no GTID", id="no GTID"),
        pytest.param("1-1-5", BeforeGtid(Gtid(1, 1, 5)), "already has 1-1-5", id="in the backup"),
        pytest.param("1-1-5", BeforeGtid(Gtid(1, 1, 51)), "1-1-51 cannot be reached", id="not archived"),
        pytest.param("1-1-5", BeforeGtid(Gtid(0, 1, 20)), "there is no 0-1-20: that transaction is 1-1-20",
                     id="never given"),
        pytest.param("1-1-5", BeforeTime(in_utc(999)), "was finished at", id="before the backup"),
        pytest.param("1-1-5", BeforeTime(in_utc(1051)), "the logs end with 1-1-50", id="later than known"),
    ],
)  # fmt: skip
def test_what_cannot_be_replayed(archive: Archive, gtid: str, target: Target, message: str) -> None:
    with pytest.raises(UnsafeError, match=message):
        plan_replay(archive, manifest(gtid), target)


def test_a_gap_is_refused_by_its_gtids(archive: Archive) -> None:
    put(archive, "db3", "binlog.000009", log_of(54, 60, time_s=1054))
    assert plan_replay(archive, manifest("1-1-5"), Newest()).until.sequence == 50
    with pytest.raises(UnsafeError, match=r"3 transaction\(s\) are missing: 1-1-51 to 1-1-53"):
        plan_replay(archive, manifest("1-1-5"), BeforeGtid(Gtid(1, 1, 55)))
    with pytest.raises(UnsafeError, match="1-1-51 to 1-1-53"):
        plan_replay(archive, manifest("1-1-5"), BeforeTime(in_utc(1055)))


def test_a_quiet_cluster_can_be_brought_to_when_it_was_seen_quiet(archive: Archive) -> None:
    archive.record_sighting(
        Sighting(timeline=TIMELINE, node="db3", gtid="1-1-50", time=in_utc(2000), local_domains=(101,))
    )
    assert plan_replay(archive, manifest("1-1-5"), BeforeTime(in_utc(2000))).until.sequence == 50
    with pytest.raises(UnsafeError, match="cannot be reached"):
        plan_replay(archive, manifest("1-1-5"), BeforeTime(in_utc(2001)))


def test_a_replay_goes_on_after_what_the_node_has(archive: Archive) -> None:
    plan = plan_replay(archive, manifest("1-1-5"), Newest())
    left = [cut for each in plan.segments if (cut := cut_after(each, 20, plan.local_domains))]
    assert [(each.first.sequence, each.last.sequence) for each in left] == [(21, 30), (31, 50)]
    assert left[0].begin > plan.segments[1].begin
    assert left[0].end == plan.segments[1].end


def test_what_an_earlier_look_found_is_found_again_when_the_archive_has_grown(archive: Archive) -> None:
    before = plan_replay(archive, manifest("1-1-20"), BeforeTime(in_utc(1041)))
    put(archive, "db3", "binlog.000008", log_of(51, 70, time_s=1051))
    again = plan_replay(archive, manifest("1-1-20"), UpTo(before.until))
    assert (again.until, numbers(again)) == (before.until, numbers(before))
    nothing = plan_replay(archive, manifest("1-1-20"), UpTo(Gtid(1, 1, 20)))
    assert (nothing.until, nothing.segments) == (Gtid(1, 1, 20), ())


def test_a_log_that_was_sealed_since_is_found_where_it_is(archive: Archive) -> None:
    path = log_of(51, 60, time_s=1051).write(archive.place(TIMELINE, "db3") / "open" / "binlog.000008")
    plan = plan_replay(archive, manifest("1-1-45"), Newest())
    archive.seal(path, LOCAL)
    cut = cut_after(plan.segments[-1], 55, plan.local_domains)
    assert cut is not None
    assert (cut.first.sequence, read_argv(cut, plan.local_domains)[-1]) == (
        56, str(archive.directory / TIMELINE / "db3" / "binlog.000008.51-60"),
    )  # fmt: skip


def test_the_commands_of_a_replay(archive: Archive) -> None:
    plan = plan_replay(archive, manifest("1-1-45"), Newest())
    argv = read_argv(plan.segments[0], plan.local_domains)
    assert argv[:2] == ("mariadb-binlog", "--no-defaults")
    assert "--ignore-domain-ids=101,102,103" in argv
    request = {"datadir": "/d", "pool_bytes": 7, "layout": ("--innodb-page-size=8192",)}
    server = server_argv(request)
    assert {"--skip-networking", "--wsrep-on=OFF", "--innodb-page-size=8192"} <= set(server)
    assert "--innodb-flush-log-at-trx-commit=2" in server  # the position must outlive the server's own end


@pytest.mark.parametrize(
    ("blocks", "executed", "complete"),
    [
        pytest.param(["a/*!*/;\n"], "a/*!*/;\n", False, id="whole, but not the end"),
        pytest.param(["a/*!*/;\nDROP TABLE t"], "a/*!*/;\n", False, id="half a statement is kept back"),
        pytest.param(["DROP TABLE t", "_new/*!", "*/;\n"], "DROP TABLE t_new/*!*/;\n", False, id="in pieces"),
        pytest.param(
            ["a/*!*/;\nDELIMITER ;\n", "-- en", "d\n"], "a/*!*/;\nDELIMITER ;\n", True, id="the end"
        ),
        pytest.param(["-- end\n"], "", True, id="nothing to do"),
    ],
)
def test_half_a_statement_is_never_executed(blocks: list[str], executed: str, *, complete: bool) -> None:
    statements = Statements(b"-- end")
    assert b"".join(statements.take(block.encode()) for block in blocks) == executed.encode()
    assert statements.complete is complete


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("newest", Newest()),
        ("0-1-71", BeforeGtid(Gtid(0, 1, 71))),
        ("2026-11-23T14:30:00Z", BeforeTime(datetime(2026, 11, 23, 14, 30, tzinfo=UTC))),
        ("2026-11-23T14:30:00.2Z", BeforeTime(datetime(2026, 11, 23, 14, 30, 1, tzinfo=UTC))),
        ("2026-11-23 14:30:00", BeforeTime(datetime(2026, 11, 23, 14, 30, tzinfo=UTC))),
        ("2026-11-23T14:30:00+02:00", BeforeTime(datetime(2026, 11, 23, 12, 30, tzinfo=UTC))),
    ],
)
def test_targets(text: str, expected: Target) -> None:
    assert parse_target(text) == expected


def test_a_day_is_not_taken_for_a_gtid() -> None:
    with pytest.raises(UsageError, match="reads like a GTID"):
        parse_target("2026-11-24")


@pytest.mark.parametrize("text", ["", "yesterday", "1-1", "14:30"])
def test_what_is_no_target(text: str) -> None:
    with pytest.raises(UsageError, match="no point in time"):
        parse_target(text)
