"""The part of a backup that runs on the donor's own host. Sent there over stdin, so it imports nothing of dbha.

stdin   this source; one line of JSON, the request; then nothing: its end means that the controller is gone,
        and then this program ends itself and all it started.
stdout  the stream, written by the last of the tools that it goes through: compressed, encrypted.
stderr  the words of the tools; the last line is the report, REPORT_MARK and JSON.

The password lives in a file without a name, in memory, that only the children of this process can open.
Python 3.8 is enough.
"""

from __future__ import annotations

import collections
import contextlib
import fcntl
import io
import json
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from typing import IO, Any, cast

OPTIONS_FD = 9  # where mariadb-backup finds the option file: /dev/fd/9
REPORT_MARK = b"dbha-backup-report "
KEPT_SUFFIXES = ("_galera_info", "_binlog_info", "backup_info", "backup_checkpoints")

_MAGIC = b"XBSTCK01"
_FIXED = struct.Struct("<8sBcI")  # magic, flags, type, length of the path
_PAYLOAD = struct.Struct("<QQI")  # length, offset, checksum
_LONGEST_PATH = 4096
_KEEP_LIMIT_BYTES = 8192
_BLOCK_BYTES = 1 << 20
# What the tool says once the tables of InnoDB are copied. Since 10.11.8 that is under BACKUP STAGE START, which holds
# nobody up, and before that under no stage. The stages behind it are what the server waits for.
_TABLES_ARE_COPIED = (
    "Finished BACKUP STAGE START",
    "BACKUP STAGE FLUSH",
    "BACKUP STAGE BLOCK",
    "Starting to backup non-InnoDB",
)
_SET_PIPE_SIZE = 1031  # F_SETPIPE_SZ, which `fcntl` has a name for only since Python 3.10


class Members:
    """Follows the members of an mbstream as its bytes go by. Keeps the small ones that say what was copied.

    Raises ValueError from `feed` when the bytes are not an mbstream.
    """

    def __init__(self) -> None:
        self.ended: set[str] = set()
        self.begun: dict[str, bytearray] = {}
        self.last = ""  # the member whose end was seen last
        self._header = b""
        self._path = ""
        self._payload_left = 0

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the stream."""
        position = 0
        while position < len(data):
            if self._payload_left:
                position += self._skip(data, position)
                continue
            needed = self._header_length() - len(self._header)
            self._header += data[position : position + needed]
            position += needed
            if len(self._header) == self._header_length():
                self._begin_chunk()

    def wanted(self) -> int:
        """Return how many bytes of the stream must be shown next; all of the payload before it need not be."""
        return self._payload_left if self._keeps() else self._header_length() - len(self._header)

    def unseen(self) -> int:
        """Return how many bytes of payload come next that nobody needs to see."""
        return 0 if self._keeps() else self._payload_left

    def pass_by(self, length: int) -> None:
        """Take note that so many bytes of unseen payload went by."""
        self._payload_left -= length

    def at_a_border(self) -> bool:
        """Return whether the stream could end here: no chunk and no member is half seen."""
        return not self._header and not self._payload_left and not self.unfinished()

    def unfinished(self) -> list[str]:
        """Return the members that were begun and have not ended."""
        return sorted(set(self.begun) - self.ended)

    def kept(self) -> dict[str, str]:
        """Return the content of the small members that describe the backup."""
        return {
            path: content.decode("utf-8", "replace")
            for path, content in self.begun.items()
            if path.endswith(KEPT_SUFFIXES)
        }

    def _keeps(self) -> bool:
        if not self._payload_left or not self._path.endswith(KEPT_SUFFIXES):
            return False
        return len(self.begun[self._path]) < _KEEP_LIMIT_BYTES

    def _skip(self, data: bytes, position: int) -> int:
        length = min(self._payload_left, len(data) - position)
        if self._keeps():
            self.begun[self._path] += data[position : position + length]
        self._payload_left -= length
        return length

    def _header_length(self) -> int:
        """Return how long the header is, as far as its bytes so far tell."""
        if len(self._header) < _FIXED.size:
            return _FIXED.size
        magic, _, kind, path_length = _FIXED.unpack_from(self._header)
        if magic != _MAGIC or kind not in (b"P", b"E") or path_length > _LONGEST_PATH:
            raise ValueError(f"this is no chunk of an mbstream: {self._header[:32]!r}")
        return int(_FIXED.size + path_length + (_PAYLOAD.size if kind == b"P" else 0))

    def _begin_chunk(self) -> None:
        _, _, kind, path_length = _FIXED.unpack_from(self._header)
        path = self._header[_FIXED.size : _FIXED.size + path_length].decode("utf-8", "replace")
        self._path = path[2:] if path.startswith("./") else path
        self.begun.setdefault(self._path, bytearray())
        if kind == b"P":
            self._payload_left = _PAYLOAD.unpack_from(self._header, _FIXED.size + path_length)[0]
        else:
            self.ended.add(self._path)
            self.last = self._path
        self._header = b""


class Throttle:
    """Holds a stream down to a rate (0: none), as a bucket of one block that fills with time, until it is lifted."""

    def __init__(self, bytes_per_s: float) -> None:
        self._bytes_per_s = bytes_per_s
        self._even_at_s = 0.0  # when what has passed will have been paid for
        self._is_lifted = threading.Event()

    def pay(self, size_bytes: int) -> None:
        """Wait as long as these bytes, which have passed, should have taken."""
        if not self._bytes_per_s or self._is_lifted.is_set():
            return
        now_s, fill_s = time.monotonic(), _BLOCK_BYTES / self._bytes_per_s
        self._even_at_s = max(self._even_at_s, now_s - fill_s) + size_bytes / self._bytes_per_s
        self._is_lifted.wait(max(0.0, self._even_at_s - now_s))

    def is_lifted(self) -> bool:
        """Return whether everything may pass."""
        return self._is_lifted.is_set()

    def lift(self) -> None:
        """Let everything pass from now on, also what waits."""
        self._is_lifted.set()


def main() -> int:
    """Run the request of stdin and report; the exit status only says whether there is a report."""
    request = json.loads(sys.stdin.buffer.readline())
    if os.getpgrp() != os.getpid():
        os.setpgid(0, 0)  # so that ending the group never ends anything else
    threading.Thread(target=_end_with_controller, daemon=True).start()
    signal.signal(signal.SIGALRM, lambda *_: os.killpg(0, signal.SIGKILL))
    _place_options(request["options"])
    report = run(request)
    sys.stderr.buffer.write(b"\n" + REPORT_MARK + json.dumps(report).encode() + b"\n")
    sys.stderr.buffer.flush()
    return 0


def run(request: dict[str, Any]) -> dict[str, Any]:
    """Copy, compress, encrypt and watch; return the report."""
    members, throttle = Members(), Throttle(request["throttle_bytes_s"])
    lines: collections.deque[str] = collections.deque(maxlen=30)
    report: dict[str, Any] = {"problem": "", "raw_bytes": 0}
    try:
        filters = _start_filters(request["filters"])
        backup = _start(
            request["backup"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, pass_fds=(OPTIONS_FD,)
        )
    except OSError as error:
        return {**report, "problem": f"cannot start {error.filename}: {error.strerror}"}
    listener = threading.Thread(target=_listen, args=(backup.stderr, lines, throttle))
    listener.start()
    target = cast("IO[bytes]", filters[0].stdin) if filters else sys.stdout.buffer
    try:
        report["raw_bytes"] = _relay(backup, target, members, throttle, request["stall_limit_s"])
    except (ValueError, BrokenPipeError) as error:
        report["problem"] = str(error)
        backup.kill()
    target.close()
    report["backup_status"] = backup.wait()
    report["filters"] = [
        (argv[0], process.wait())
        for argv, process in zip(request["filters"], filters)  # noqa: B905
    ]
    listener.join()
    return {**report, **_seen(members, list(lines), set(request["expected"]))}


def _start_filters(commands: list[list[str]]) -> list[subprocess.Popen[bytes]]:
    """Start the tools that the stream goes through, each writing to the next one, the last to our stdout."""
    started: list[subprocess.Popen[bytes]] = []
    for command in reversed(commands):
        output = started[0].stdin if started else None
        started.insert(0, _start(command, stdin=subprocess.PIPE, stdout=output))
        if output is not None:
            output.close()  # else a tool would not see the end of what the one before it writes
    return started


def _seen(members: Members, lines: list[str], expected: set[str]) -> dict[str, Any]:
    """Return what the stream and the log say of themselves. Lists are cut short: the report must stay small."""
    missing = sorted(expected - members.ended)
    return {
        "completed": bool(lines) and lines[-1].endswith("completed OK!"),
        "last_lines": lines,
        "last_member": members.last,
        "at_a_border": members.at_a_border(),
        "missing_count": len(missing),
        "missing": missing[:10],
        "kept": members.kept(),
    }


def _start(argv: list[str], **streams: Any) -> subprocess.Popen[bytes]:
    """Start a tool from the root directory. Its home is nowhere: a ~/.my.cnf would outrank our option file."""
    environment = {"PATH": os.environ.get("PATH", os.defpath), "HOME": "/nonexistent", "LC_ALL": "C"}
    return subprocess.Popen(argv, cwd="/", env=environment, bufsize=0, **streams)


def _relay(
    backup: subprocess.Popen[bytes],
    target_pipe: IO[bytes],
    members: Members,
    throttle: Throttle,
    stall_limit_s: int,
) -> int:
    """Hand the stream on to the first tool and return its length in bytes.

    When nothing moves for `stall_limit_s`, everything ends: near its end mariadb-backup holds up the commits of
    this server, and a controller that hangs must not keep it there.
    """
    assert backup.stdout is not None
    for pipe in (backup.stdout, target_pipe):
        with contextlib.suppress(OSError):  # larger pipes are only quicker
            fcntl.fcntl(pipe.fileno(), _SET_PIPE_SIZE, _BLOCK_BYTES)
    source, target = backup.stdout.fileno(), target_pipe.fileno()
    total_bytes = 0
    signal.alarm(stall_limit_s)
    while moved := _move(source, target, members):
        total_bytes += moved
        throttle.pay(moved)
        signal.alarm(stall_limit_s)
    return total_bytes


def _move(source: int, target: int, members: Members) -> int:
    """Move some of the stream on, and return how many bytes; 0 at its end.

    What nobody needs to see goes from pipe to pipe inside of the kernel, where Python can do that (3.10).
    """
    unseen = members.unseen()
    if unseen and hasattr(os, "splice"):
        moved = os.splice(source, target, min(unseen, _BLOCK_BYTES))
        members.pass_by(moved)
        return moved
    data = os.read(source, min(unseen, _BLOCK_BYTES) if unseen else members.wanted())
    members.feed(data)
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(target, rest) :]
    return len(data)


def _listen(stderr: IO[bytes], lines: collections.deque[str], throttle: Throttle) -> None:
    """Pass the tool's words on, and remember the last of them.

    Once they say that the tables are copied, nothing is throttled any more: the server waits for the rest.
    """
    for line in io.BufferedReader(cast("io.RawIOBase", stderr)):
        with contextlib.suppress(OSError):
            os.write(2, line)
        if text := line.decode("utf-8", "replace").strip():
            lines.append(text[:400])
            if any(words in text for words in _TABLES_ARE_COPIED):
                throttle.lift()


def _place_options(content: str) -> None:
    """Open the option file at OPTIONS_FD. It has no name, and its mode is 0600 or the tool would ignore it."""
    file = os.memfd_create("options")
    os.fchmod(file, 0o600)
    os.write(file, content.encode())
    os.dup2(file, OPTIONS_FD)
    os.close(file)


def _end_with_controller() -> None:
    """Wait for the end of stdin, then end this whole group at once: nobody reads the stream any more."""
    while os.read(0, 4096):
        pass
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    status = main()
    # Leave at once: a normal exit would wait for the thread that still reads stdin.
    os._exit(status)
