"""Places for backups whose process can be ended before any change, and where files can be spoilt."""

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from dbha.backup.directory_store import DirectoryStore
from dbha.backup.remote_names import WRITER
from dbha.backup.remote_store import RemoteStore
from dbha.backup.store import Draft, Store
from dbha.backup.writer import Writer, this_kernel
from tests.unit.memory_objects import Memory

NOT_RUNNING = Writer(kernel=this_kernel(), process=2**22 + 1, started=1)


class CrashError(BaseException):
    """The process ends here; nothing that a program does against errors happens."""


class _Mortal:
    """Lets this process survive so many more changes of the files below a directory."""

    def __init__(self) -> None:
        self.below, self.left = "", -1
        sys.addaudithook(self._before)  # for good: Python has no way to take one back

    def _before(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.left < 0 or event not in _CHANGES or not str(arguments[0]).startswith(self.below):
            return
        if event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            return
        if not self.left:
            self.left = -1
            raise CrashError(f"{event} {arguments[0]}")
        self.left -= 1


_CHANGES = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir")
_mortal = _Mortal()


class Place(Protocol):
    """Where the backups of a machine lie, and what can happen there behind the store's back."""

    store: Store

    def dying_after(self, changes: int) -> contextlib.AbstractContextManager[None]:
        """Raise CrashError instead of the change after so many."""

    def its_process_is_gone(self, backup_id: str, draft: Draft | None) -> None:
        """Leave a draft as the kernel leaves it when its writer was killed."""

    def files(self, backup_id: str) -> list[str]: ...

    def spoil(self, backup_id: str, file: str, change: Callable[[bytes], bytes | None]) -> None:
        """Change a file of a backup; None removes it."""

    def remove(self) -> None: ...


class DirectoryPlace:
    def __init__(self) -> None:
        self._root = Path(tempfile.mkdtemp(prefix="dbha-test-"))
        self.store = DirectoryStore(self._root / "store")

    @contextmanager
    def dying_after(self, changes: int) -> Iterator[None]:
        _mortal.below, _mortal.left = str(self.store.directory), changes
        try:
            yield
        finally:
            _mortal.left = -1

    def its_process_is_gone(self, backup_id: str, draft: Any) -> None:
        if draft is not None:
            draft._stream.close()
        for descriptor in Path("/proc/self/fd").iterdir():  # also what a draft held that never came to be
            with contextlib.suppress(OSError):
                if str(descriptor.readlink()).startswith(str(self.store.directory / backup_id)):
                    os.close(int(descriptor.name))

    def files(self, backup_id: str) -> list[str]:
        return sorted(str(path.relative_to(self._root)) for path in self._root.glob(f"store/{backup_id}*/*"))

    def spoil(self, backup_id: str, file: str, change: Callable[[bytes], bytes | None]) -> None:
        path = self._root / file
        if (changed := change(path.read_bytes())) is None:
            path.unlink()
        else:
            path.write_bytes(changed)

    def remove(self) -> None:
        shutil.rmtree(self._root)


class MortalMemory(Memory):
    """Objects in memory, for a process that survives so many more changes of them."""

    left = -1

    def put(self, name: str, content: bytes) -> None:
        self._change()
        super().put(name, content)

    def delete(self, name: str) -> None:
        self._change()
        super().delete(name)

    def _change(self) -> None:
        if not self.left:
            raise CrashError
        self.left -= 1


class ObjectsPlace:
    def __init__(self) -> None:
        self._objects = MortalMemory()
        self._objects.where = f"store {id(self)}"
        self.store = RemoteStore(self._objects, part_bytes=4)

    @contextmanager
    def dying_after(self, changes: int) -> Iterator[None]:
        self._objects.left = changes
        try:
            yield
        finally:
            self._objects.left = -1

    def its_process_is_gone(self, backup_id: str, draft: Draft | None) -> None:
        note = f"{backup_id}/{WRITER}"
        if note in self._objects.content:
            self._objects.content[note] = NOT_RUNNING.model_dump_json(by_alias=True).encode()

    def files(self, backup_id: str) -> list[str]:
        return sorted(name for name in self._objects.content if name.startswith(f"{backup_id}/"))

    def spoil(self, backup_id: str, file: str, change: Callable[[bytes], bytes | None]) -> None:
        if (changed := change(self._objects.content[file])) is None:
            del self._objects.content[file]
        else:
            self._objects.content[file] = changed

    def remove(self) -> None:
        pass
