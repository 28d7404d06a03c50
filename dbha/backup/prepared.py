"""The prepared tree of a backup in staging: `<id>.*.partial` while it is made, `<id>` when it is whole."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from tempfile import mkdtemp

from dbha.backup.definitions import Definitions
from dbha.backup.manifest import Manifest
from dbha.host import boot_id

MARKER = "dbha-prepared.json"


class Prepared:
    """Where the tree of one backup is, and whether there is a whole one.

    A tree is whole only until the machine starts again: it is never flushed to disk, because making it anew is
    quicker than flushing every tree that is used once.
    """

    def __init__(self, staging: Path, manifest: Manifest) -> None:
        self._staging = staging
        self.path = staging / manifest.id
        self._mark = {
            "schema": 1,
            "backup": manifest.id,
            "stream_sha256": manifest.stream.sha256,
            "boot_id": boot_id(),
        }

    def proven(self, definitions: Definitions) -> datetime | None:
        """Return when an earlier verification left the tree whole; None when it did not, or files are gone."""
        try:
            marked = json.loads((self.path / MARKER).read_bytes())
            when = datetime.fromisoformat(marked.pop("when"))
        except (OSError, ValueError, KeyError):
            return None
        whole = marked == self._mark and not self.missing_files(self.path, definitions)
        return when if whole else None

    @contextmanager
    def unfinished(self) -> Iterator[Path]:
        """Yield an empty directory to make the tree in; it is gone afterwards unless it was published.

        Its name is new each time: a prepare that outlived its controller may still write to an older one. What
        is left of others, of any backup, goes: only one process at a time makes trees in a place.
        """
        for leftover in self._staging.glob("*.partial"):
            shutil.rmtree(leftover, ignore_errors=True)
        partial = Path(mkdtemp(prefix=f"{self.path.name}.", suffix=".partial", dir=self._staging))
        try:
            yield partial
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    @contextmanager
    def beside(self, partial: Path) -> Iterator[Path]:
        """Yield another empty directory for what is applied to the tree; it is gone afterwards."""
        apart = Path(mkdtemp(prefix=f"{partial.stem}.", suffix=".partial", dir=self._staging))
        try:
            yield apart
        finally:
            shutil.rmtree(apart, ignore_errors=True)

    def publish(self, partial: Path, when: datetime) -> Path:
        """Say that the unfinished tree is whole, and return where it is from now on."""
        (partial / MARKER).write_text(json.dumps({**self._mark, "when": when.isoformat()}))
        shutil.rmtree(self.path, ignore_errors=True)
        return partial.rename(self.path)

    @staticmethod
    def missing_files(tree: Path, definitions: Definitions) -> list[str]:
        """Return which files of tables are not in a tree: the data, and what an import reads about it."""
        return [
            f"{stem}{suffix}"
            for known in definitions.databases.values()
            for stem in known.tablespaces
            for suffix in (".ibd", ".cfg")
            if not (tree / f"{stem}{suffix}").is_file()
        ]
