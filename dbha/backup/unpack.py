"""Unpack a stored stream: `zstd -dc | mbstream -x`, fed block by block, with every exit status known."""

import contextlib
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, BinaryIO

from dbha.backup.children import start

BLOCK_BYTES = 1 << 20
EXTRACTORS = 2


def decompress_argv() -> tuple[str, ...]:
    """Return the command that decompresses stdin; it fails on a frame that is cut or has a wrong checksum."""
    return ("zstd", "--decompress", "--quiet", "--stdout")


def extract_argv(directory: Path) -> tuple[str, ...]:
    """Return the command that extracts an mbstream from stdin; it fails on a chunk with a wrong checksum."""
    return ("mbstream", "--extract", f"--parallel={EXTRACTORS}", f"--directory={directory.absolute()}")


def unpack(stream: BinaryIO, directory: Path, on_block: Callable[[bytes], None]) -> str:
    """Unpack into an existing directory; return what went wrong, in words, or an empty string.

    `on_block` gets every block of the stream, also those after a tool gave up, so that a hash is of all of it.
    """
    with tempfile.TemporaryFile() as words:
        decompress = start(
            decompress_argv(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=words, bufsize=0
        )
        with decompress:
            assert decompress.stdin is not None
            assert decompress.stdout is not None
            with start(extract_argv(directory), stdin=decompress.stdout, stderr=words) as extract:
                decompress.stdout.close()  # else zstd would not notice that mbstream gave up
                try:
                    _feed(stream, decompress.stdin, on_block)
                except BaseException:  # a signal, too, must not leave the tools running
                    decompress.kill()
                    extract.kill()
                    raise
        words.seek(0)
        last = words.read().decode("utf-8", "replace").strip()[-300:]
    statuses = {"zstd": decompress.returncode, "mbstream": extract.returncode}
    failed = [f"{tool} ended with exit status {status}" for tool, status in statuses.items() if status != 0]
    return f"{', '.join(failed)}: {last}" if failed else ""


def _feed(stream: BinaryIO, target: IO[bytes], on_block: Callable[[bytes], None]) -> None:
    alive = True
    while block := stream.read(BLOCK_BYTES):
        on_block(block)
        if alive:
            alive = _write(target, block)
    with contextlib.suppress(BrokenPipeError):
        target.close()


def _write(target: IO[bytes], block: bytes) -> bool:
    """Write all of a block; return False when nobody reads any more."""
    rest = memoryview(block)
    try:
        while rest:
            rest = rest[target.write(rest) :]
    except BrokenPipeError:
        return False
    return True
