"""Binary logs made by hand, in the documented format, for tests that need no server."""

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

from dbha.backup.binlog.events import (
    FORMAT,
    GTID,
    GTID_LIST,
    MAGIC,
    QUERY,
    ROTATE,
    XID,
)
from dbha.backup.binlog.gtid import Gtid

TABLE_MAP, WRITE_ROWS = 19, 23


class LogFile:
    """A log that grows; `content` is what a server would have written."""

    def __init__(self, listed: Sequence[Gtid] = (), *, checksum: bool = True, rotated: bool = False) -> None:
        self.content = MAGIC
        self._checksum = checksum
        head = struct.pack("<H50sIB", 4, b"10.11.19-MariaDB-log", 0 if rotated else 999, 19) + bytes(171)
        self.event(FORMAT, head + bytes([checksum]), flags=1)
        entries = b"".join(struct.pack("<IIQ", gtid.domain, gtid.server, gtid.sequence) for gtid in listed)
        self.event(GTID_LIST, struct.pack("<I", len(listed)) + entries)

    def event(self, kind: int, body: bytes, *, time_s: int = 0, server: int = 1, flags: int = 0) -> None:
        """Append an event. The flag "in use" of the first one is not part of its checksum."""
        length = 19 + len(body) + (4 if self._checksum or kind == FORMAT else 0)
        end = len(self.content) + length
        header = struct.pack("<IBIIIH", time_s, kind, server, length, end, flags)
        counted = struct.pack("<IBIIIH", time_s, kind, server, length, end, flags & ~1)
        crc = struct.pack("<I", zlib.crc32(counted + body)) if self._checksum or kind == FORMAT else b""
        self.content += header + body + crc

    def transaction(self, gtid: Gtid, time_s: int = 1000, *, end: str = "xid") -> "LogFile":
        """Append one transaction of rows, which ends as `end` says."""
        self._gtid(gtid, time_s, flags=0)
        self.event(TABLE_MAP, b"\x01" * 40, time_s=time_s)
        self.event(WRITE_ROWS, b"\x02" * 60, time_s=time_s)
        if end == "xid":
            self.event(XID, bytes(8), time_s=time_s)
        else:
            self.event(QUERY, query(end), time_s=time_s)
        return self

    def statement(self, gtid: Gtid, sql: str, time_s: int = 1000) -> "LogFile":
        """Append a statement that is a transaction of its own."""
        self._gtid(gtid, time_s, flags=1)
        self.event(QUERY, query(sql), time_s=time_s)
        return self

    def rotate(self) -> "LogFile":
        """Append what a server ends a log with."""
        self.event(ROTATE, bytes(8) + b"binlog.000002")
        return self

    def write(self, path: Path) -> Path:
        """Write the log, and the directories above it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.content)
        return path

    def _gtid(self, gtid: Gtid, time_s: int, *, flags: int) -> None:
        body = struct.pack("<QIB6s", gtid.sequence, gtid.domain, flags, bytes(6))
        self.event(GTID, body, time_s=time_s, server=gtid.server)


def query(sql: str) -> bytes:
    return struct.pack("<IIBHH", 7, 0, 4, 0, 3) + b"\x00\x01\x02" + b"nova\x00" + sql.encode()


def log_of(first: int, last: int, *, domain: int = 1, time_s: int = 1000, step_s: int = 1) -> LogFile:
    """Return a log of transactions `domain-1-first` to `last`, the first made at `time_s`."""
    log = LogFile([Gtid(domain, 1, first - 1)] if first > 1 else [])
    for sequence in range(first, last + 1):
        log.transaction(Gtid(domain, 1, sequence), time_s + (sequence - first) * step_s)
    return log
