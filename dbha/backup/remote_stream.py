"""Read a stream that is stored in parts: one part in memory, each proven by its name before a byte is handed on."""

import hashlib
import io
from collections.abc import Callable, Sequence
from typing import Any

from dbha.backup.remote_names import Part
from dbha.errors import FoundWrongError

_BUFFER_BYTES = 1 << 20


def open_parts(parts: Sequence[Part], fetch: Callable[[Part], bytes], backup_id: str) -> io.BufferedReader:
    """Return the stream of all parts, to be closed by the caller; a part is fetched when it is reached."""
    return io.BufferedReader(PartsStream(parts, fetch, backup_id), _BUFFER_BYTES)


class PartsStream(io.RawIOBase):
    """The parts as one file that can be read from any position. Raises FoundWrongError for a part that changed."""

    def __init__(self, parts: Sequence[Part], fetch: Callable[[Part], bytes], backup_id: str) -> None:
        super().__init__()
        self._parts, self._fetch, self._backup_id = parts, fetch, backup_id
        self._position = 0
        self._held: tuple[Part, memoryview] | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size_bytes()}[whence]
        self._position = base + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        begin = 0
        for part in self._parts:
            if self._position < begin + part.size_bytes:
                block = self._content(part)[self._position - begin :][: len(buffer)]
                buffer[: len(block)] = block
                self._position += len(block)
                return len(block)
            begin += part.size_bytes
        return 0

    def _size_bytes(self) -> int:
        return sum(part.size_bytes for part in self._parts)

    def _content(self, part: Part) -> memoryview:
        if self._held is None or self._held[0] != part:
            self._held = None  # let go of the one before first: one part in memory, not two
            self._held = (part, memoryview(self._proven(part)))
        return self._held[1]

    def _proven(self, part: Part) -> bytes:
        for _ in range(2):  # what was spoilt on its way is read again
            try:
                content = self._fetch(part)
            except FileNotFoundError as error:
                raise FoundWrongError(
                    f"part {part.number} of backup {self._backup_id} is gone", hint="dbha backup list"
                ) from error
            if hashlib.sha256(content).hexdigest() == part.sha256:
                return content
        raise FoundWrongError(
            f"part {part.number} of backup {self._backup_id} was changed since it was stored:"
            " its sha256 is another",
            hint="dbha backup list",
        )
