"""Small JSON files that SIGKILL leaves whole."""

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class Files:
    """Small JSON files of several threads, each replaced as a whole, so that SIGKILL leaves none torn."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._lock = threading.RLock()

    def has(self, name: str) -> bool:
        """Tell whether the file is there."""
        return (self.directory / name).exists()

    def read(self, name: str) -> Any:
        """Return the content of a file."""
        return json.loads((self.directory / name).read_bytes())

    def write(self, name: str, content: object) -> None:
        """Replace a file."""
        place = self.directory / name
        with self._lock:
            new = place.with_name(f".{place.name}.{threading.get_ident()}")
            with new.open("w", encoding="utf-8") as file:
                file.write(json.dumps(content))
                file.flush()
                os.fsync(file.fileno())
            new.replace(place)

    @contextmanager
    def changing(self, name: str) -> Iterator[Any]:
        """Yield the content of a file, and replace it by what the block made of it."""
        with self._lock:
            content = self.read(name)
            yield content
            self.write(name, content)

    def rename(self, name: str, new: str) -> None:
        """Rename a file."""
        (self.directory / name).rename(self.directory / new)

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        (self.directory / name).unlink(missing_ok=True)

    def names(self, prefix: str) -> list[str]:
        """Return the names of the files that begin with `prefix`, in order."""
        return sorted(path.name for path in self.directory.glob(f"{prefix}*"))
