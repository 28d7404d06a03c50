"""How a backup lies in a store of objects, and what a listing tells of it. All of it is pure.

Objects are called `<id>/<file>`. The stream is cut into parts, `<id>/part-000001-<sha256>`: a part's name says what
must be in it, so a listing tells which parts an interrupted copy need not send again, and reading proves each one.
A backup exists when `<id>/manifest.json` does.
"""

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from dbha.backup.manifest import BACKUP_ID
from dbha.backup.objects import StoredObject

PART_BYTES = 16 << 20  # of which the controller holds one in memory; requests for it are few
WRITER = "writing.json"

_PART = re.compile(r"part-(\d{6})-([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a stream; `number` counts from 1."""

    number: int
    sha256: str
    size_bytes: int

    @property
    def file(self) -> str:
        """The last part of its name."""
        return f"part-{self.number:06d}-{self.sha256}"


def part_of(number: int, content: bytes) -> Part:
    """Return the part that this content makes."""
    return Part(number, hashlib.sha256(content).hexdigest(), len(content))


def by_backup(listing: Iterable[StoredObject]) -> dict[str, dict[str, int]]:
    """Return the sizes of all files by backup and file, in the order of ids; objects of others are left out."""
    found: dict[str, dict[str, int]] = defaultdict(dict)
    for each in sorted(listing, key=lambda found: found.name):
        backup_id, slash, file = each.name.partition("/")
        if slash and file and BACKUP_ID.fullmatch(backup_id):
            found[backup_id][file] = each.size_bytes
    return dict(found)


def parts_of(sizes: Mapping[str, int]) -> tuple[Part, ...]:
    """Return the parts among the files of a backup, in order."""
    matches = ((_PART.fullmatch(file), size) for file, size in sizes.items())
    parts = (Part(int(found[1]), found[2], size) for found, size in matches if found)
    return tuple(sorted(parts, key=lambda part: (part.number, part.sha256)))


def problem_of(parts: Iterable[Part], stored_bytes: int) -> str:
    """Return what is wrong with the parts of a stream of this size, in words; empty when nothing is."""
    total_bytes, expected = 0, 1
    for part in parts:
        if part.number < expected:
            return f"part {part.number} is there twice"
        if part.number > expected:
            return f"part {expected} is missing"
        total_bytes, expected = total_bytes + part.size_bytes, expected + 1
    if total_bytes != stored_bytes:
        return f"its {expected - 1} part(s) have {total_bytes} bytes instead of {stored_bytes}"
    return ""
