"""The commands of a backup, and how its stream and report are judged."""

import io
import json
import os
import random
import struct
import time
import zlib
from collections import deque
from pathlib import Path
from threading import Timer

import pytest

from dbha.backup.compression import compress_argv, decompress_argv, stream_file
from dbha.backup.encryption import decrypt_argv, encrypt_argv
from dbha.backup.node_program import REPORT_MARK, Members, Throttle
from dbha.backup.node_program import _listen as listen
from dbha.backup.node_program import _move as move
from dbha.backup.pipeline import (
    Report,
    backup_argv,
    options_file,
    parse_report,
    problem_of,
)
from dbha.backup.prepare import prepare_argv, prepare_memory_bytes
from dbha.backup.unpack import extract_argv
from dbha.config.model import BackupPolicy, Compression, DirectoryStore
from dbha.database import Account
from dbha.inventory import Node
from dbha.secrets import Secret

POLICY = BackupPolicy(
    stores={"local": DirectoryStore(directory=Path("/s"))}, compression_level=3, copy_threads=4
)
NODE = Node("db2", "192.0.2.2", 3307, "/srv/mysql")
GOOD = Report(
    problem="", raw_bytes=10, backup_status=0, filters=(("zstd", 0), ("age", 0)), completed=True,
    last_lines=("completed OK!",), last_member="xtrabackup_info", at_a_border=True,
)  # fmt: skip


def payload(path: str, content: bytes, offset: int = 0) -> bytes:
    head = struct.pack("<8sBcI", b"XBSTCK01", 0, b"P", len(path)) + path.encode()
    return head + struct.pack("<QQI", len(content), offset, zlib.crc32(content)) + content


def end(path: str) -> bytes:
    return struct.pack("<8sBcI", b"XBSTCK01", 0, b"E", len(path)) + path.encode()


STREAM = (
    payload("./nova/a.ibd", b"x" * 3000)
    + payload("xtrabackup_galera_info", b"u:7 0\n")
    + payload("./nova/a.ibd", b"XBSTCK01" * 10, 3000)  # the magic inside of data is no chunk
    + end("xtrabackup_galera_info")
    + end("./nova/a.ibd")
    + end("./nova/empty.frm")
    + payload("xtrabackup_info", b"tool_version = 10.11\n")
    + end("xtrabackup_info")
)


def fed(*blocks: bytes) -> Members:
    members = Members()
    for block in blocks:
        members.feed(block)
    return members


@pytest.mark.parametrize("seed", range(20))
def test_members_are_seen_however_the_stream_is_split(seed: int) -> None:
    chance = random.Random(seed)
    cuts = sorted(chance.sample(range(len(STREAM)), 40))
    members = fed(*(STREAM[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(STREAM)], strict=True)))
    assert members.ended == {"nova/a.ibd", "nova/empty.frm", "xtrabackup_galera_info", "xtrabackup_info"}
    assert members.last == "xtrabackup_info"
    assert members.at_a_border()
    assert members.kept() == {
        "xtrabackup_galera_info": "u:7 0\n",
        "xtrabackup_info": "tool_version = 10.11\n",
    }


@pytest.mark.parametrize("in_the_kernel", [True, False])
def test_the_stream_is_moved_on_as_it_is(monkeypatch: pytest.MonkeyPatch, in_the_kernel: bool) -> None:
    if not in_the_kernel:
        monkeypatch.delattr(os, "splice")
    members, source, target = Members(), os.pipe(), os.pipe()
    os.write(source[1], STREAM)
    os.close(source[1])
    moved = list(iter(lambda: move(source[0], target[1], members), 0))
    assert sum(moved) == len(STREAM)
    assert os.read(target[0], 2 * len(STREAM)) == STREAM
    assert members.last == "xtrabackup_info"
    assert members.at_a_border()
    assert members.kept() == {
        "xtrabackup_galera_info": "u:7 0\n",
        "xtrabackup_info": "tool_version = 10.11\n",
    }
    for descriptor in (source[0], *target):
        os.close(descriptor)


def test_a_throttle_holds_down_to_its_rate_until_it_is_lifted() -> None:
    throttle, block = Throttle(20 << 20), 1 << 20
    began_s = time.monotonic()
    for _ in range(5):
        throttle.pay(block)
    assert time.monotonic() - began_s >= 4 / 20, "one block may pass at once, as after a pause"
    Timer(0.05, throttle.lift).start()
    began_s = time.monotonic()
    throttle.pay(20 * 3600 * block)  # an hour
    throttle.pay(20 * 3600 * block)
    assert time.monotonic() - began_s < 3600
    Throttle(0).pay(1 << 60)


@pytest.mark.parametrize(
    ("line", "lifts"),
    [
        ("[00] 2026-11-24 16:22:06 Starting BACKUP STAGE START", False),
        ("[00] 2026-11-24 16:22:06 Acquiring BACKUP LOCKS...", False),
        ("[00] 2026-11-24 16:22:06 Acquired locks for BACKUP STAGE START", False),
        ("[00] 2026-11-24 16:22:06 Streaming ./nova/extra.ibd", False),
        ("[00] 2026-11-24 16:22:11 Finished BACKUP STAGE START", True),
        ("[00] 2026-11-24 16:22:11 Starting BACKUP STAGE FLUSH", True),
        ("[00] 2026-11-24 16:22:11 Started BACKUP STAGE BLOCK_DDL", True),
        ("[00] 2026-11-24 16:22:11 Starting BACKUP STAGE BLOCK_COMMIT", True),
        ("[00] 2026-11-24 16:22:11 Starting to backup non-InnoDB tables and files", True),
    ],
)
def test_a_throttle_is_lifted_when_the_tables_are_copied_and_not_before(line: str, lifts: bool) -> None:
    throttle, lines = Throttle(1), deque[str]()
    listen(io.BytesIO(f"{line}\n".encode()), lines, throttle)
    assert list(lines) == [line]
    assert throttle.is_lifted() is lifts


def test_a_stream_that_is_cut_anywhere_is_seen() -> None:
    for length in range(len(STREAM)):
        members = fed(STREAM[:length])
        assert not (members.at_a_border() and members.last == "xtrabackup_info"), length


@pytest.mark.parametrize("garbage", [b"Y" + STREAM[1:], STREAM[:9] + b"Q" + STREAM[10:], b"x" * 50])
def test_what_is_no_mbstream_is_refused(garbage: bytes) -> None:
    with pytest.raises(ValueError, match="no chunk of an mbstream"):
        fed(garbage)


def test_the_report_is_the_last_line() -> None:
    line = REPORT_MARK + GOOD.model_dump_json().encode() + b"\n"
    assert parse_report(b"words\n" + line) == GOOD
    assert parse_report(b"words\n" + line[:-1]) is None
    assert parse_report(b"words\n") is None
    assert parse_report(REPORT_MARK + b"{}\n") is None
    assert parse_report(REPORT_MARK + json.dumps([]).encode() + b"\n") is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, ""),
        (
            {"backup_status": 1, "last_lines": ("Failed: Access denied for user 'dbha'@'h'", "at the end")},
            "the server refused the account or its password",
        ),
        ({"backup_status": -9, "last_lines": ("[01] ...done",)}, "mariadb-backup was ended by signal 9"),
        ({"backup_status": 2, "last_lines": ()}, "ended with exit status 2, and said nothing"),
        ({"filters": (("zstd", 1), ("age", 0))}, "zstd ended with exit status 1"),
        ({"filters": (("zstd", -9), ("age", 0)), "problem": "Broken pipe"}, "zstd was ended by signal 9"),
        ({"filters": (("zstd", 70), ("age", -9)), "problem": "Broken pipe"}, "age was ended by signal 9"),
        ({"completed": False}, "did not say `completed OK!`"),
        ({"last_member": "ib_logfile0"}, "the stream ends in the middle, after ib_logfile0"),
        ({"at_a_border": False}, "the stream ends in the middle"),
        (
            {"missing_count": 2, "missing": ("nova/a.ibd", "nova/b.ibd")},
            "left out 2 file(s): nova/a.ibd, nova/b.ibd",
        ),
        ({"problem": "cannot start zstd: No such file", "backup_status": None}, "cannot start zstd"),
    ],
)
def test_problems(changes: dict[str, object], words: str) -> None:
    problem = problem_of(GOOD.model_copy(update=changes))
    assert words in problem
    assert bool(words) == bool(problem)


def test_argument_vectors() -> None:
    assert backup_argv(NODE, "dbha", POLICY) == (
        "mariadb-backup", "--defaults-extra-file=/dev/fd/9", "--backup", "--galera-info", "--stream=mbstream",
        "--parallel=4", "--user=dbha", "--host=192.0.2.2", "--port=3307", "--protocol=tcp", "--datadir=/srv/mysql",
    )  # fmt: skip
    assert backup_argv(NODE, "dbha", POLICY, ["nova", "nova_api"])[-1] == "--databases=nova nova_api mysql"
    assert encrypt_argv(["age1a", "age1b"]) == ("age", "--encrypt", "--recipient=age1a", "--recipient=age1b")
    assert encrypt_argv([]) == ()
    assert decrypt_argv(7) == ("age", "--decrypt", "--identity=/dev/fd/7")
    assert extract_argv(Path("/a")) == ("mbstream", "--extract", "--parallel=2", "--directory=/a")
    assert prepare_argv(Path("/a"), 7) == (
        "mariadb-backup", "--no-defaults", "--prepare", "--export", "--use-memory=7", "--target-dir=/a",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("compression", "compress", "decompress", "file"),
    [
        pytest.param(
            Compression.ZSTD, ("zstd", "-3", "-T2", "--check", "--quiet", "--stdout"),
            ("zstd", "--decompress", "--quiet", "--stdout"), "stream.mbs.zst", id="zstd",
        ),
        pytest.param(
            Compression.LZ4, ("lz4", "-3", "-z", "-q", "-c"), ("lz4", "-d", "-q", "-c"), "stream.mbs.lz4", id="lz4"
        ),
        pytest.param(Compression.NONE, (), (), "stream.mbs", id="none"),
    ],
)  # fmt: skip
def test_compression(
    compression: Compression, compress: tuple[str, ...], decompress: tuple[str, ...], file: str
) -> None:
    assert compress_argv(POLICY.model_copy(update={"compression": compression})) == compress
    assert decompress_argv(compression) == decompress
    assert stream_file(compression, encrypted=False) == file
    assert stream_file(compression, encrypted=True) == f"{file}.age"


def test_the_password_is_only_in_the_option_file() -> None:
    account = Account("dbha", Secret('a"b\\c#d'))
    assert options_file(account) == '[client]\npassword="a\\"b\\\\c#d"\n'


@pytest.mark.parametrize(
    ("available_bytes", "expected"), [(0, 128 << 20), (1 << 30, 512 << 20), (1 << 40, 4 << 30)]
)
def test_memory_for_prepare(available_bytes: int, expected: int) -> None:
    assert prepare_memory_bytes(available_bytes) == expected
