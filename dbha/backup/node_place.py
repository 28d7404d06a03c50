"""A node's data directory, exchanged as a whole: what comes is made beside it, what was there is kept beside it.

All of it is on the file system of the data directory, in `DATADIR.dbha/RUN/`: `new` is whole, `old` was there before,
`restored` was given up for `old` again. Exchanging is renaming; cut off anywhere, it can be repeated or turned round.
"""

import contextlib
import posixpath
import secrets
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dbha.backup.binlog.replay import ReplayPlace
from dbha.backup.compression import decompress_argv
from dbha.backup.encryption import Readable
from dbha.backup.first_start import Begun, FirstStart, FirstStartError, begin
from dbha.backup.tool_files import (
    CHECKPOINT_FILES,
    GALERA_FILES,
    INFO_FILES,
    galera_position,
    layout_options,
    lsn_range,
)
from dbha.cluster.handle import Cluster
from dbha.cluster.saved_state import STATE_FILE, VIEW_FILE, SavedState, parse_state, state_text
from dbha.config.model import Compression
from dbha.errors import DbhaError, FoundWrongError
from dbha.inventory import Node
from dbha.transport import RunningCommand

_TIMEOUT_S = 6 * 3600
_READ_BYTES = 1 << 20
_UNPACK = (
    'set -o pipefail; umask 077; mkdir -p -- "$1" && mkdir -- "$1/$2" && '
    '"${@:3}" | mbstream -x -p 2 -C "$1/$2"'
)
_TABLES = 'cd "$1" && find . -name "*.ibd" -printf "%P\\n"'
# What the tool says of the backup is no part of a data directory. How the files are laid out, a replay must know.
_ADOPT = (
    'set -e; cd "$1"; umask 077; '
    "if [ -f backup-my.cnf ]; then mv -f -- backup-my.cnf ../layout.cnf; fi; "
    "rm -f -- xtrabackup_* mariadb_backup_* donor_galera_info galera.cache binlog.[0-9]*; "
    'printf %s "$3" > grastate.dat; '
    'if [ "$(id -u)" = 0 ]; then chown -R --reference="$2" -- .; fi; chmod 700 .'
)
# What is in it is made durable at the end of its first start: until then it is whole only while the host lives.
_PUBLISH = (
    'set -e; cd "$1"; cat /proc/sys/kernel/random/boot_id > boot; rm -rf -- new; mv -T -- "$2" new; sync .; '
    "rm -rf -- stage-*; (sync -f new &) </dev/null >/dev/null 2>&1"
)
_EXCHANGE = (
    "set -e; data=$1 place=$2 comes=$2/$3 goes=$2/$4; "
    'if [ -d "$comes" ] && [ ! -e "$goes" ]; then mv -T -- "$data" "$goes"; fi; '
    'if [ -d "$comes" ] && [ ! -e "$data" ]; then mv -T -- "$comes" "$data"; fi; '
    'if [ ! -d "$data" ] || [ ! -d "$goes" ] || [ -e "$comes" ]; then '
    'echo "$goes is not what $data was, or $comes is still there" >&2; exit 1; fi; sync "$place" "${data%/*}"'
)
_EXCHANGE_BACK = (
    "set -e; data=$1 place=$2; "
    'if [ -d "$place/old" ]; then '
    'if [ -e "$data" ]; then rm -rf -- "$place/undone"; mv -T -- "$data" "$place/undone"; fi; '
    'mv -T -- "$place/old" "$data"; sync "$place" "${data%/*}"; fi; '
    'rm -rf -- "$place"; rmdir -- "${place%/*}" 2>/dev/null || :'
)
_FORGET = 'rm -rf -- "$1"; rmdir -- "${1%/*}" 2>/dev/null || :'
_WRITE = (
    'set -e; umask 077; cd "$1"; printf %s "$3" > "$2.new"; '
    'if [ "$(id -u)" = 0 ]; then chown --reference=. -- "$2.new"; fi; sync "$2.new"; mv -f -- "$2.new" "$2"; sync .'
)


class NodePlaceError(DbhaError):
    """A node's data directory could not be made or exchanged."""


@dataclass(frozen=True, slots=True)
class NodePlace:
    """The place of one run on one node; `guard` is called before each effect."""

    cluster: Cluster
    node: Node
    run_id: str

    @property
    def path(self) -> str:
        """The directory on the node that holds what comes and what was."""
        return f"{self.node.datadir}.dbha/{self.run_id}"

    def stage(self, stream: Readable, compression: Compression) -> str:
        """Unpack a compressed stream into a directory with a new name and return its path on the node.

        All of the stream is read, also after a tool gave up. Raises NodePlaceError when one did.
        """
        name = f"stage-{secrets.token_hex(4)}"
        decompress = decompress_argv(compression) or ("cat",)
        argv = ("bash", "-c", _UNPACK, "bash", self.path, name, *decompress)
        with self.cluster.transport(self.node).open(argv) as unpacking:
            said = threading.Thread(target=_drain, args=(unpacking.read,))
            said.start()
            is_reading = True
            while block := stream.read(_READ_BYTES):
                is_reading = is_reading and _written(unpacking, block)
            unpacking.close_stdin()
            said.join()
            if unpacking.wait(timeout_s=_TIMEOUT_S) != 0:
                raise self._failed("unpacking the backup", unpacking.stderr_tail())
        return f"{self.path}/{name}"

    def prepare(self, directory: str, memory_bytes: int, *, increment: str = "") -> None:
        """Make an unpacked backup consistent or, with `increment`, apply that to it and remove it.

        Raises NodePlaceError when the tool does not say that it is consistent.
        """
        argv = (
            "mariadb-backup", "--no-defaults", "--prepare", f"--use-memory={memory_bytes}",
            f"--target-dir={directory}", *((f"--incremental-dir={increment}",) if increment else ()),
        )  # fmt: skip
        done = self.cluster.transport(self.node).run(argv, timeout_s=_TIMEOUT_S)
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        if done.returncode != 0 or not lines or not lines[-1].endswith("completed OK!"):
            raise self._failed("preparing the backup", done.stderr)
        if increment:
            self._run(("rm", "-rf", "--", increment))

    def position(self, directory: str) -> tuple[str, int]:
        """Return state UUID and seqno that a prepared backup holds. Raises NodePlaceError when it does not know."""
        text = self._said_of(directory, GALERA_FILES)
        if text is None:
            raise NodePlaceError(f"{self.node}: the backup has no {INFO_FILES[0]}: it ends too early")
        try:
            return galera_position(text)
        except ValueError as error:
            raise NodePlaceError(f"{self.node}: {error}") from error

    def last_lsn(self, directory: str) -> int:
        """Return the LSN where an unpacked or prepared backup ends. Raises NodePlaceError when it does not know."""
        try:
            return lsn_range(self._said_of(directory, CHECKPOINT_FILES) or "")[1]
        except ValueError as error:
            raise NodePlaceError(f"{self.node}: {error}") from error

    def _said_of(self, directory: str, names: Sequence[str]) -> str | None:
        """Return what the tool says of a backup in the first of these files that is there."""
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                path = posixpath.join(directory, name)
                return self.cluster.transport(self.node).get(path).decode(errors="replace")
        return None

    def require_tables(self, directory: str, stems: Sequence[str]) -> None:
        """Raise FoundWrongError when the file of one of the tables is missing."""
        done = self._run(("sh", "-c", _TABLES, "sh", directory))
        there = set(done.decode(errors="replace").splitlines())
        if missing := [stem for stem in stems if f"{stem}.ibd" not in there]:
            raise FoundWrongError(f"{len(missing)} file(s) of tables are missing: {', '.join(missing[:5])}")

    def to_come(self, memory_bytes: int) -> ReplayPlace:
        """Return the data directory to come as a place that logs can be replayed into."""
        transport = self.cluster.transport(self.node)
        layout = ""
        with contextlib.suppress(FileNotFoundError):
            layout = transport.get(f"{self.path}/layout.cnf").decode(errors="replace")
        return ReplayPlace(
            transport, f"{self.path}/new", f"{self.path}/replay.json", memory_bytes, layout_options(layout)
        )

    def publish(self, directory: str, state: SavedState) -> None:
        """Make a prepared backup the data directory to come, at this position of a new history.

        It survives the host once `begin` returned.
        """
        self._run(
            (
                "sh",
                "-c",
                _ADOPT,
                "sh",
                directory,
                self.node.datadir,
                state_text(state, safe_to_bootstrap=True),
            )
        )
        self._run(("sh", "-c", _PUBLISH, "sh", self.path, posixpath.basename(directory)))

    def begin(self, first: FirstStart, pool_bytes: int, on_tables: Callable[[int, int], None]) -> Begun:
        """Start a server once on the data directory to come, where nobody reaches it, and make it durable.

        Raises NodePlaceError when the server does not do what it should. Can be repeated after it was cut off.
        """
        transport, request = self.cluster.transport(self.node), first.request(self.path, pool_bytes)
        with contextlib.suppress(FileNotFoundError):
            request["boot_id"] = transport.get(f"{self.path}/boot").decode(errors="replace").strip()
        request["defaults_file"] = self.node.configuration_file
        try:
            return begin(transport, request, on_tables, timeout_s=_TIMEOUT_S)
        except FirstStartError as error:
            raise NodePlaceError(f"{self.node}: the first start on the backup failed: {error}") from error

    def exchange(self) -> None:
        """Put `new` in the place of the data directory, which becomes `old`. The server must not run."""
        self._exchange("new", "old")

    def return_old(self) -> None:
        """Put `old` in the place of the data directory, which becomes `restored`. The server must not run."""
        self._exchange("old", "restored")

    def take_back(self) -> None:
        """Undo `return_old`. The server must not run."""
        if self.has("restored"):
            self._exchange("restored", "old")

    def has(self, name: str) -> bool:
        """Return whether the directory of this name is kept here."""
        return self.cluster.transport(self.node).run(("test", "-d", f"{self.path}/{name}")).returncode == 0

    def exchange_back(self) -> None:
        """Put `old` back, if it was moved already, and remove all else. The server must not run."""
        self._run(("sh", "-c", _EXCHANGE_BACK, "sh", self.node.datadir, self.path))

    def forget(self) -> None:
        """Remove what this run keeps on the node, also the data that was there before."""
        self._run(("sh", "-c", _FORGET, "sh", self.path))

    def state(self) -> SavedState | None:
        """Return the position of the node's data directory; None where there is none."""
        with contextlib.suppress(FileNotFoundError):
            text = self.cluster.transport(self.node).get(f"{self.node.datadir}/{STATE_FILE}")
            return parse_state(text.decode(errors="replace"))
        return None

    def write_state(self, state: SavedState) -> None:
        """Give the data directory a position from which it joins others and never begins by itself."""
        self._write(STATE_FILE, state_text(state, safe_to_bootstrap=False))

    def allow_bootstrap(self, state: SavedState) -> None:
        """Mark the node as the one that may form its cluster again, at the position that it has."""
        self._write(STATE_FILE, state_text(state, safe_to_bootstrap=True))

    def write_view(self, text: str) -> None:
        """Write down the Primary component that the node is to form again."""
        self._write(VIEW_FILE, text)

    def _exchange(self, comes: str, goes: str) -> None:
        self._run(("sh", "-c", _EXCHANGE, "sh", self.node.datadir, self.path, comes, goes))

    def _write(self, name: str, text: str) -> None:
        self._run(("sh", "-c", _WRITE, "sh", self.node.datadir, name, text))

    def _run(self, argv: Sequence[str]) -> bytes:
        done = self.cluster.transport(self.node).run(argv, timeout_s=_TIMEOUT_S)
        if done.returncode != 0:
            raise self._failed("exchanging the data directory", done.stderr or done.stdout)
        return done.stdout

    def _failed(self, what: str, stderr: bytes) -> NodePlaceError:
        words = stderr.decode(errors="replace").strip()
        return NodePlaceError(
            f"{self.node}: {what} failed: {words[-300:] or 'nothing was said'}",
            hint="dbha restore ID     again, once the cause is gone",
        )


def _drain(read: Callable[[], bytes]) -> None:
    while read():
        pass


def _written(command: RunningCommand, block: bytes) -> bool:
    """Write the block; return False when nobody reads any more, and the exit status will say why."""
    try:
        command.write(block)
    except BrokenPipeError:
        return False
    return True
