"""Copy prepared files to a node: beside the database's own files, where no server looks, and then into their place.

They are staged in a directory of their own, `dbha-import-*`, inside the database's. Its name is new each time: a copy
that outlived its controller goes on in a directory that the next attempt removes.
"""

import contextlib
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dbha.cluster.handle import Cluster
from dbha.errors import DbhaError
from dbha.inventory import Node
from dbha.transport import LocalTransport, RunningCommand

_TIMEOUT_S = 6 * 3600
_FILES_PER_COPY = 64
_SUFFIXES = (".ibd", ".cfg")  # data and description
_MAKE = 'umask 077; mkdir "$1" && '
_UNPACK = _MAKE + 'tar -xf - -C "$1"'
_COPY = 'from=$1 to=$2; shift 2; cd "$from" && cp --reflink=auto --sparse=never -- "$@" "$to"'
_PLACE = (
    'cd "$1" && if [ ! -d "$2" ]; then exit 0; fi && chmod 660 -- "$2"/* && '
    'if [ "$(id -u)" = 0 ]; then chown --reference=. -- "$2"/*; fi && '
    'mv -- "$2"/* . && rmdir -- "$2"'
)
_CLEAR = (
    'if [ -d "$1" ]; then cd "$1" && rm -rf -- dbha-import-* && '
    'find . -maxdepth 1 "(" -name "*.ibd" -o -name "*.cfg" ")" -delete; fi'
)
_CLEAR_SOME = (
    'if [ -d "$1" ]; then cd "$1" && shift && rm -rf -- dbha-import-* && '
    'for name in "$@"; do rm -f -- "./$name"; done; fi'
)
_DESCRIPTIONS = 'cd "$1" && rm -f -- *.cfg'


class CopyFailedError(DbhaError):
    """The prepared files could not be brought to a node."""


@dataclass(frozen=True, slots=True)
class StagedFiles:
    """The files of one database on one node; `directory` is the database's own on the node."""

    cluster: Cluster
    node: Node
    directory: str
    name: str

    @classmethod
    def of(cls, cluster: Cluster, node: Node, database: str) -> "StagedFiles":
        """Return a staging place with a name that nobody used before; nothing is made yet."""
        return cls(cluster, node, f"{node.datadir}/{database}", f"dbha-import-{secrets.token_hex(4)}")

    def clear(self) -> None:
        """Remove the files of tables, and all that earlier attempts staged. The database must have no tables."""
        self._shell(_CLEAR, self.directory)

    def clear_tables(self, tables: Sequence[str]) -> None:
        """Remove the files of these tables, which the database must not have, and all that was staged."""
        self._shell(
            _CLEAR_SOME, self.directory, *(f"{table}{suffix}" for table in tables for suffix in _SUFFIXES)
        )

    def copy(self, source: Path, tables: Sequence[str], on_bytes: Callable[[int], None]) -> None:
        """Stage data and description of each table. Raises CopyFailedError."""
        names = [f"{table}{suffix}" for table in tables for suffix in _SUFFIXES]
        if not names:
            return
        if self.node.ssh is None:
            self._copy_here(source, names, on_bytes)
        else:
            self._stream(source, names, on_bytes)

    def put_in_place(self) -> None:
        """Give what was staged its real names, and to the owner of the directory. Raises CommandFailedError."""
        self._shell(_PLACE, self.directory, self.name)

    def forget_descriptions(self) -> None:
        """Remove the descriptions, which an import leaves behind, and DROP DATABASE would stumble over."""
        self._shell(_DESCRIPTIONS, self.directory)

    def _copy_here(self, source: Path, names: Sequence[str], on_bytes: Callable[[int], None]) -> None:
        """Let the kernel copy for a node on this host: half the work of a stream."""
        target = f"{self.directory}/{self.name}"
        self._shell(f"{_MAKE} true", target)
        for start in range(0, len(names), _FILES_PER_COPY):
            some = names[start : start + _FILES_PER_COPY]
            argv = ("sh", "-c", _COPY, "sh", str(source), target, *some)
            done = LocalTransport().run(argv, timeout_s=_TIMEOUT_S)
            if done.returncode != 0:
                raise self._failed(done.stderr)
            on_bytes(sum((source / name).stat().st_size for name in some))

    def _stream(self, source: Path, names: Sequence[str], on_bytes: Callable[[int], None]) -> None:
        transport, target = self.cluster.transport(self.node), f"{self.directory}/{self.name}"
        with (
            LocalTransport().open(("tar", "-C", str(source), "-cf", "-", "--", *names)) as packing,
            transport.open(("sh", "-c", _UNPACK, "sh", target)) as unpacking,
        ):
            with contextlib.suppress(BrokenPipeError):  # the exit status of `unpacking` says why
                while block := packing.read():
                    unpacking.write(block)
                    on_bytes(len(block))
            unpacking.close_stdin()
            while unpacking.read():
                pass
            self._require_ended_well(unpacking)  # first: nobody reads what a broken pipe left in `packing`
            self._require_ended_well(packing)

    def _require_ended_well(self, command: RunningCommand) -> None:
        if command.wait(timeout_s=_TIMEOUT_S) != 0:
            raise self._failed(command.stderr_tail())

    def _failed(self, stderr: bytes) -> CopyFailedError:
        words = stderr.decode(errors="replace").strip()
        return CopyFailedError(f"{self.node}: copying tables to {self.directory} failed: {words[-300:]}")

    def _shell(self, script: str, *arguments: str) -> None:
        self.cluster.transport(self.node).run(["sh", "-c", script, "sh", *arguments]).check()
