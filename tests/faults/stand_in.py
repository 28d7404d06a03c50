"""A program that stands on PATH for `mariadb-backup` or `zstd`, runs the real one, and spoils its work at a point.

    stand_in.py REAL DIRECTORY ARGUMENTS...

What it does is said by DIRECTORY/order.json (see `tools.py`), which is read anew each time; without one the real
tool is all there is. Points of a backup: `begin`, before anything is asked of the server; `first`, before
anything is copied; `middle`, with some MiB
copied and the rest still to come; `border`, the same between two chunks; `end`, while the donor holds up commits
for the position that is written down; `last`, before the member that says that all is there.
"""

import json
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

OPTIONS_FD = 9
MIDDLE_BYTES = 6 << 20
LAST_MEMBER = "xtrabackup_info"
END_MEMBER = "xtrabackup_galera_info"  # written while the donor holds commits up
PIPE_BYTES = 4096  # so the tool itself is never far ahead of what was let through
_SET_PIPE_SIZE = 1031
_CHUNK = struct.Struct("<8sBcI")  # magic, flags, type, length of the path
_PAYLOAD = struct.Struct("<QQI")  # length, offset, checksum


def main() -> int:
    real, directory, arguments = sys.argv[1], Path(sys.argv[2]), sys.argv[3:]
    try:
        order: dict[str, Any] = json.loads((directory / "order.json").read_text())
    except FileNotFoundError:
        order = {}
    if "--backup" in arguments and order.get("tool") == "backup":
        return Backup(directory, order).run([real, *arguments, *order.get("more", ())])
    if "--prepare" in arguments and order.get("tool") == "prepare":
        return prepare([real, *arguments], order)
    if order.get("tool") == "zstd" and real.endswith("/zstd") and "-d" not in arguments:
        return compress([real, *arguments], order["flip"])
    return os.execv(real, [real, *arguments])


class Backup:
    """Lets the stream of mariadb-backup through as far as the order says."""

    def __init__(self, directory: Path, order: dict[str, Any]) -> None:
        self._directory, self._order = directory, order
        self._sink = os.dup(1)
        self._let_through = 0

    def run(self, argv: list[str]) -> int:
        """Return the exit status of the real tool; end as it ended."""
        self._at("begin")
        with subprocess.Popen(argv, stdout=subprocess.PIPE, bufsize=0, pass_fds=(OPTIONS_FD,)) as tool:
            assert tool.stdout is not None
            (self._directory / "pid").write_text(str(tool.pid))
            fcntl_pipe_size(tool.stdout)
            self._at("first")
            for path, header, payload in chunks(tool.stdout):
                self._at({END_MEMBER: "end", LAST_MEMBER: "last"}.get(path, path))
                self._pass(header)
                for block in blocks(tool.stdout, payload):
                    if self._let_through > MIDDLE_BYTES:
                        self._at("middle")
                    self._pass(block)
                if self._let_through > MIDDLE_BYTES:
                    self._at("border")
        if tool.returncode < 0:
            os.kill(os.getpid(), -tool.returncode)
        return tool.returncode

    def _pass(self, block: bytes) -> None:
        self._let_through += len(block)
        while block:
            block = block[os.write(self._sink, block) :]

    def _at(self, point: str) -> None:
        """Do what was ordered for this point, once."""
        if self._order.get("at") != point:
            return
        self._order["at"] = ""
        if self._order["do"] == "cut":  # and go on as if nothing were
            self._sink = os.open(os.devnull, os.O_WRONLY)
            return
        if self._order["do"] == "run":
            subprocess.run(["sh", "-c", self._order["command"]], stdout=2, check=False)
            return
        (self._directory / "reached").touch()
        while not (self._directory / "go").exists():
            time.sleep(0.005)


def fcntl_pipe_size(pipe: IO[bytes]) -> None:
    import fcntl  # noqa: PLC0415 - only here

    fcntl.fcntl(pipe.fileno(), _SET_PIPE_SIZE, PIPE_BYTES)


def chunks(stream: IO[bytes]) -> Iterator[tuple[str, bytes, int]]:
    """Yield of each chunk of an mbstream its path, its header as it is, and how many bytes of payload follow."""
    while len(fixed := exactly(stream, _CHUNK.size)) == _CHUNK.size:
        _, _, kind, length = _CHUNK.unpack(fixed)
        path = exactly(stream, length)
        more = exactly(stream, _PAYLOAD.size) if kind == b"P" else b""
        payload = _PAYLOAD.unpack(more)[0] if more else 0
        yield path.decode().removeprefix("./"), fixed + path + more, payload


def blocks(stream: IO[bytes], length: int) -> Iterator[bytes]:
    """Yield so many bytes of the stream as they come; fewer when it ends."""
    while length and (block := stream.read(min(length, 1 << 16))):
        yield block
        length -= len(block)


def exactly(stream: IO[bytes], length: int) -> bytes:
    """Return so many bytes of the stream; fewer when it ends."""
    return b"".join(blocks(stream, length))


def prepare(argv: list[str], order: dict[str, Any]) -> int:
    """Prepare, and then flip a bit in a file of the tree: a disk that fails under it looks like this."""
    status = subprocess.run(argv, check=False).returncode
    tree = Path(next(word.partition("=")[2] for word in argv if word.startswith("--target-dir=")))
    if order["below"] in str(tree):
        with (tree / order["file"]).open("r+b") as file:
            file.seek(order["flip"])
            byte = file.read(1)[0]
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte ^ 1]))
    return status


def compress(argv: list[str], flip: int) -> int:
    """Compress, and flip a bit on the way."""
    with subprocess.Popen(argv, stdout=subprocess.PIPE, bufsize=0) as tool:
        assert tool.stdout is not None
        position = 0
        for block in iter(lambda: tool.stdout.read(1 << 16), b""):  # type: ignore[union-attr]
            changed = bytearray(block)
            if position <= flip < position + len(block):
                changed[flip - position] ^= 1
            position += len(block)
            while changed:
                del changed[: os.write(1, changed)]
    return tool.returncode


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    sys.exit(main())
