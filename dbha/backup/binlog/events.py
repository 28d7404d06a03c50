"""Read which transactions a binary log has, event by event, as far as it was written.

The format is that of MariaDB's documentation, "Replication Protocol": "Binlog Event Header" (19 bytes),
"FORMAT_DESCRIPTION_EVENT" (which checksum events carry), "GTID_EVENT", "GTID_LIST_EVENT", "QUERY_EVENT". Reading
the headers is exact about where a transaction begins and ends, which the tool's printed output is not.
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from dbha.backup.binlog.gtid import Gtid
from dbha.errors import FoundWrongError

MAGIC = b"\xfebin"
QUERY, STOP, ROTATE, INTVAR, RAND, USER_VAR, FORMAT, XID, XA_PREPARE = 2, 3, 4, 5, 13, 14, 15, 16, 38
ANNOTATE, GTID, GTID_LIST = 160, 162, 163

_HEADER = struct.Struct("<IBIIIH")  # time, type, server id, length, end position, flags
_GTID = struct.Struct("<QIB")  # sequence, domain, flags
_LISTED = struct.Struct("<IIQ")  # domain, server id, sequence
_QUERY = struct.Struct("<IIBHH")  # thread, time, length of the database's name, error, length of variables
_STANDALONE = 1  # flag of a GTID: one statement, with no COMMIT behind it
_COUNT_MASK = (1 << 28) - 1
_CHECKSUM_BYTES, _CRC32 = 4, 1
_CREATED = 2 + 50  # in the first event, after two versions: when the server started, or 0
_PREPARES = (INTVAR, RAND, USER_VAR, ANNOTATE)  # come before the statement that they belong to
_MOVES_ASIDE = b"`dbha_aside_"
_BUFFER_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Transaction:
    """One whole transaction in a log: where it begins and ends, in bytes, and when it was made by its own clock."""

    gtid: Gtid
    time_s: int
    begin: int
    end: int
    moves_aside: bool  # a service is restored: what its tables then get is in no log


@dataclass(slots=True)
class _Open:
    gtid: Gtid
    time_s: int
    begin: int
    standalone: bool
    moves_aside: bool = False


class LogReader:
    """Reads one log from its beginning; asked again, it goes on with what was written since.

    `listed` is the GTID state with which the log begins, `whole_bytes` the end of the last transaction, or event
    outside of one, that is all there. `rotated`: it was begun by a server that had one before, not by its start.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.listed: tuple[Gtid, ...] = ()
        self.rotated = False
        self.whole_bytes = 0
        self._file = path.open("rb", buffering=_BUFFER_BYTES)
        self._offset = 0
        self._checksummed = False
        self._open: _Open | None = None

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def transactions(self) -> Iterator[Transaction]:
        """Yield every transaction that is whole and was not yielded before.

        Raises FoundWrongError when a byte is not what was written: a checksum, or where an event should end.
        """
        if not self._offset and not self._begin():
            return
        while event := self._next():
            kind, time_s, server, body = event
            end = self._offset + _HEADER.size + len(body)
            if kind == GTID:
                self._open = _begun(body, time_s, server, self._offset)
            found = self._take(kind, body[: -_CHECKSUM_BYTES if self._checksummed else None], end)
            self._offset = end
            if self._open is None:
                self.whole_bytes = end
            if found:
                yield found

    def _begin(self) -> bool:
        magic = self._file.read(len(MAGIC))
        if len(magic) < len(MAGIC):
            self._file.seek(0)
            return False
        if magic != MAGIC:
            raise self._damaged("it is not a binary log")
        self._offset = self.whole_bytes = len(MAGIC)
        return True

    def _next(self) -> tuple[int, int, int, bytes] | None:
        """Return type, time, server and body of the next event, or None where it is not all there yet."""
        header = self._file.read(_HEADER.size)
        if len(header) == _HEADER.size:
            time_s, kind, server, length, end, _ = _HEADER.unpack(header)
            if length < _HEADER.size or (end and end != (self._offset + length) & 0xFFFFFFFF):
                raise self._damaged("an event does not end where it says")
            body = self._file.read(length - _HEADER.size)
            if len(body) == length - _HEADER.size:
                self._check(kind, header, body)
                return kind, time_s, server, body
        self._file.seek(self._offset)
        return None

    def _check(self, kind: int, header: bytes, body: bytes) -> None:
        if self._offset == len(MAGIC) and kind != FORMAT:
            raise self._damaged("it does not begin as a binary log does")
        if kind == FORMAT:  # the last byte before its own checksum says whether the others have one
            self._checksummed = body[-_CHECKSUM_BYTES - 1] == _CRC32
            self.rotated = not int.from_bytes(body[_CREATED : _CREATED + 4], "little")
        if not self._checksummed:
            return
        if kind == FORMAT:  # its flag "in use" is cleared without counting the checksum anew
            header = header[:-2] + bytes((header[-2] & 0xFE, header[-1]))
        expected = int.from_bytes(body[-_CHECKSUM_BYTES:], "little")
        if zlib.crc32(body[:-_CHECKSUM_BYTES], zlib.crc32(header)) != expected:
            raise self._damaged("an event's checksum is another")

    def _take(self, kind: int, body: bytes, end: int) -> Transaction | None:
        """Return the transaction that ends with this event, if one does."""
        if kind == GTID_LIST:
            self.listed = _listed(body)
        group = self._open
        if group is None or kind == GTID:
            return None
        if kind == QUERY and _MOVES_ASIDE in body and b"CREATE DATABASE" in body:
            group.moves_aside = True
        if not _ends(kind, body, standalone=group.standalone):
            return None
        self._open = None
        return Transaction(group.gtid, group.time_s, group.begin, end, group.moves_aside)

    def _damaged(self, why: str) -> FoundWrongError:
        return FoundWrongError(
            f"{self.path.name} is damaged at byte {self._offset}: {why}",
            hint="dbha backup archive --status     shows what is archived without it",
        )


def _begun(body: bytes, time_s: int, server: int, offset: int) -> _Open:
    sequence, domain, flags = _GTID.unpack_from(body)
    return _Open(Gtid(domain, server, sequence), time_s, offset, standalone=bool(flags & _STANDALONE))


def _listed(body: bytes) -> tuple[Gtid, ...]:
    count = int.from_bytes(body[:4], "little") & _COUNT_MASK
    found = (_LISTED.unpack_from(body, 4 + number * _LISTED.size) for number in range(count))
    return tuple(Gtid(domain, server, sequence) for domain, server, sequence in found)


def _ends(kind: int, body: bytes, *, standalone: bool) -> bool:
    """Return whether an event is the last of its transaction."""
    if standalone:
        return kind not in _PREPARES
    if kind != QUERY:
        return kind in (XID, XA_PREPARE)
    _, _, database_length, _, variables_length = _QUERY.unpack_from(body)
    return body[_QUERY.size + variables_length + database_length + 1 :] in (b"COMMIT", b"ROLLBACK")
