"""Unpack a stream: `zstd -dc | mbstream -x`, fed block by block, with every exit status known."""

import contextlib
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import IO

from dbha.backup.children import start
from dbha.backup.compression import decompress_argv
from dbha.backup.encryption import BLOCK_BYTES, Readable, write_all
from dbha.config.model import Compression
from dbha.errors import UnsafeError

EXTRACTORS = 2


def extract_argv(directory: Path) -> tuple[str, ...]:
    """Return the command that extracts an mbstream from stdin; it fails on a chunk with a wrong checksum."""
    return ("mbstream", "--extract", f"--parallel={EXTRACTORS}", f"--directory={directory.absolute()}")


def unpack(stream: Readable, directory: Path, compression: Compression) -> str:
    """Unpack into an existing directory; return what went wrong, in words, or an empty string.

    All of the stream is read, also after a tool gave up. Raises UnsafeError when somebody killed one, or the kernel
    did for want of memory: that says nothing of the stream.
    """
    tools = [argv for argv in (decompress_argv(compression), extract_argv(directory)) if argv]
    running: list[subprocess.Popen[bytes]] = []
    with tempfile.TemporaryFile() as words, contextlib.ExitStack() as stack:
        source: int | IO[bytes] = subprocess.PIPE
        for argv in tools:
            output = subprocess.PIPE if argv is not tools[-1] else None
            tool = stack.enter_context(start(argv, stdin=source, stdout=output, stderr=words, bufsize=0))
            if running:
                _output_of(running[-1]).close()  # else a tool would not notice that the next one gave up
            running.append(tool)
            source = _output_of(tool) if output else source
        try:
            _feed(stream, running[0])
        except BaseException:  # a signal, too, must not leave the tools running
            for tool in running:
                tool.kill()
            raise
        for tool in running:
            tool.wait()
        words.seek(0)
        last = words.read().decode("utf-8", "replace").strip()[-300:]
    if killed := [tool for tool in running if tool.returncode == -signal.SIGKILL]:
        name = tools[running.index(killed[-1])][0]
        raise UnsafeError(f"the backup could not be unpacked: {name} was ended by signal {signal.SIGKILL}")
    failed = [
        f"{argv[0]} ended with exit status {tool.returncode}"
        for argv, tool in zip(tools, running, strict=True)
        if tool.returncode != 0
    ]
    return f"{', '.join(failed)}: {last}" if failed else ""


def _output_of(tool: "subprocess.Popen[bytes]") -> IO[bytes]:
    assert tool.stdout is not None
    return tool.stdout


def _feed(stream: Readable, first: "subprocess.Popen[bytes]") -> None:
    assert first.stdin is not None
    is_reading = True
    while block := stream.read(BLOCK_BYTES):
        is_reading = is_reading and write_all(first.stdin, block)
    with contextlib.suppress(BrokenPipeError):
        first.stdin.close()
