"""Replay archived logs into a data directory, where nobody but a private server reaches it.

The logs are printed here by `mariadb-binlog`, and executed by `replay_program` on the host of the data. The server is
in no cluster, so a transaction keeps the GTID that it had, whole: domain, server and number; and nobody can write in
between. So the position alone says how far the data is, also after anything was cut off.
"""

import json
import os
import secrets
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from dbha.backup.binlog.gtid import Gtid, latest, parse_gtids
from dbha.backup.binlog.replay_plan import ReplayPlan, Segment, cut_after
from dbha.backup.children import start
from dbha.errors import DbhaError, UnsafeError
from dbha.transport import RunningCommand, Transport
from dbha.transport.sent_program import SentProgram

PROGRAM = SentProgram(("dbha.host", "dbha.node_server", "dbha.backup.binlog.replay_program"))
_BLOCK_BYTES = 1 << 20
_LAST_WORDS_BYTES = 400


class ReplayFailedError(DbhaError):
    """A replay broke off, beside the data of the cluster; asked again, it goes on where it was."""


@dataclass(frozen=True, slots=True)
class ReplayPlace:
    """A prepared backup on a host, which the replay makes its own; `mark` is the file that says how far it is.

    `layout` has the server's options that the files themselves depend on.
    """

    transport: Transport
    datadir: str
    mark: str
    pool_bytes: int
    layout: tuple[str, ...]

    def request(self, token: str) -> dict[str, Any]:
        """Return what the program is asked."""
        return {
            "datadir": self.datadir,
            "mark": self.mark,
            "pool_bytes": self.pool_bytes,
            "layout": self.layout,
            "token": token,
        }


def replay(
    place: ReplayPlace,
    plan: ReplayPlan,
    *,
    on_bytes: Callable[[int, int], None],
    guard: Callable[[], None] = lambda: None,
) -> Gtid:
    """Bring a prepared backup to the plan's last transaction, and return its position then.

    Asked again after it was cut off anywhere, it goes on after the last transaction that is there. `on_bytes` gets
    the bytes of logs done and all; `guard` raises when this must not go on. Raises UnsafeError, before anything is
    changed, when the data is at none of the plan's positions; ReplayFailedError when it broke off, or the position
    at the end is not what was meant.
    """
    token = f"-- dbha {secrets.token_hex(16)}"
    with _program(place, token) as command:
        said = _Said(place, command)
        has = _position(said.next("at"), plan)
        _require_between(place, plan, has)
        left = [cut for each in plan.segments if (cut := cut_after(each, has.sequence, plan.local_domains))]
        with suppress(BrokenPipeError):  # it ended early; what it said tells why
            _send(command, left, plan, on_bytes, guard)
            command.write(f"{token}\n".encode())
        command.close_stdin()
        reached = _position(said.next("reached"), plan)
        if command.wait() != 0:
            raise said.failure()
    if reached.sequence != plan.until.sequence:
        raise ReplayFailedError(f"{place.datadir} is at {reached} after the replay instead of {plan.until}")
    return reached


def read_argv(segment: Segment, local_domains: frozenset[int]) -> tuple[str, ...]:
    """Return the command that prints a segment as SQL. Positions in bytes say exactly which transactions."""
    ignored = ",".join(map(str, sorted(local_domains)))
    return (
        "mariadb-binlog",
        "--no-defaults",
        f"--start-position={segment.begin}",
        f"--stop-position={segment.end}",
        *((f"--ignore-domain-ids={ignored}",) if ignored else ()),
        str(segment.part.now().absolute()),
    )


def _require_between(place: ReplayPlace, plan: ReplayPlan, has: Gtid) -> None:
    if not plan.start.sequence <= has.sequence <= plan.until.sequence:
        raise UnsafeError(
            f"{place.datadir} is at {has}, which is not between {plan.start}, the end of backup {plan.backup_id},"
            f" and {plan.until}",
            hint="dbha runs list",
        )


def _position(text: str, plan: ReplayPlan) -> Gtid:
    """Return the cluster's last transaction in a position; a server that has logged nothing yet is at the backup."""
    return latest(parse_gtids(text), plan.local_domains) or plan.start


class _Said:
    """What the program says, line by line."""

    def __init__(self, place: ReplayPlace, command: RunningCommand) -> None:
        self._place, self._command = place, command
        self._buffer = b""

    def next(self, key: str) -> str:
        """Return the next answer. Raises ReplayFailedError with the program's words when it ended instead."""
        while b"\n" not in self._buffer:
            block = self._command.read()
            if not block:
                self._command.wait()
                raise self.failure()
            self._buffer += block
        line, _, self._buffer = self._buffer.partition(b"\n")
        found: dict[str, str] = json.loads(line)
        return found[key] if key in found else self.next(key)

    def failure(self) -> ReplayFailedError:
        """Return why the program ended."""
        words = self._command.stderr_tail().decode("utf-8", "replace").strip()[-_LAST_WORDS_BYTES:]
        host = self._place.transport.host
        return ReplayFailedError(
            f"the replay on {host} broke off: {words or 'the connection to it was lost'}"
        )


@contextmanager
def _program(place: ReplayPlace, token: str) -> Iterator[RunningCommand]:
    with PROGRAM.started(place.transport) as command:
        with suppress(BrokenPipeError):  # it ended early; the first answer will say why
            command.write(json.dumps(place.request(token)).encode() + b"\n")
        yield command


def _send(
    command: RunningCommand,
    segments: Sequence[Segment],
    plan: ReplayPlan,
    on_bytes: Callable[[int, int], None],
    guard: Callable[[], None],
) -> None:
    """Send the segments as SQL, one after the other. Raises ReplayFailedError when a log cannot be read."""
    total = plan.size_bytes
    done = total - sum(segment.size_bytes for segment in segments)
    on_bytes(done, total)
    for segment in segments:
        with tempfile.TemporaryFile() as words, _reading(segment, plan, words) as reader:
            assert reader.stdout is not None
            while block := os.read(reader.stdout.fileno(), _BLOCK_BYTES):
                guard()
                command.write(block)
                on_bytes(done + _read_so_far(reader.pid, segment), total)
            if reader.wait() != 0:
                words.seek(0)
                said = words.read().decode("utf-8", "replace").strip()[-_LAST_WORDS_BYTES:]
                raise ReplayFailedError(f"mariadb-binlog ended with exit status {reader.returncode}: {said}")
        done += segment.size_bytes
        on_bytes(done, total)


@contextmanager
def _reading(segment: Segment, plan: ReplayPlan, words: IO[bytes]) -> Iterator["subprocess.Popen[bytes]"]:
    """Run the tool while the block runs. It has no home: options in ~/.my.cnf would outrank ours."""
    environment = {"PATH": os.environ.get("PATH", os.defpath), "HOME": "/nonexistent", "LC_ALL": "C"}
    argv = read_argv(segment, plan.local_domains)
    process = start(argv, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=words)
    with process:
        try:
            yield process
        finally:  # whatever ends the block, also a signal
            if process.poll() is None:
                process.kill()


def _read_so_far(pid: int, segment: Segment) -> int:
    """Return how much of its segment a tool has read, by its file position; 0 while it has not opened the log."""
    wanted = segment.part.now().resolve()
    with suppress(OSError):  # it ended just now
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            if entry.resolve() == wanted:
                told = Path(f"/proc/{pid}/fdinfo/{entry.name}").read_text(encoding="ascii")
                position = int(told.partition("pos:")[2].split(maxsplit=1)[0])
                return max(0, min(position, segment.end) - segment.begin)
    return 0
