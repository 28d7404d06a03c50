"""Ways to spoil a stored backup, and file systems that are full."""

import hashlib
import os
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from dbha.backup.directory_store import DirectoryStore
from dbha.backup.manifest import sealed


@contextmanager
def small_file_system(directory: Path, size_mib: int) -> Iterator[Path]:
    directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size_mib}m", "tmpfs", str(directory)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("only root can mount a small file system")
    try:
        yield directory
    finally:
        subprocess.run(["umount", str(directory)], check=True)


def flip(path: Path, position: int) -> None:
    with path.open("r+b") as file:
        file.seek(position if position >= 0 else path.stat().st_size + position)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))


def place_of(store: DirectoryStore) -> Path:
    return store.directory / store.list()[0].id


@dataclass(frozen=True)
class Chunk:
    """A chunk of an unpacked stream, and where it ends."""

    path: str
    begin: int
    end: int


def chunks(raw: bytes) -> list[Chunk]:
    found, position = [], 0
    while position < len(raw):
        _, kind, length = struct.unpack_from("<BcI", raw, position + 8)
        after = position + 14 + length
        path = raw[position + 14 : after].decode()
        if kind == b"P":
            after += 20 + struct.unpack_from("<Q", raw, after)[0]
        found.append(Chunk(path.removeprefix("./"), position, after))
        position = after
    return found


def zstd(data: bytes, *options: str) -> bytes:
    return subprocess.run(["zstd", "-q", "-c", *options], input=data, capture_output=True, check=True).stdout


def replace_stream(store: DirectoryStore, stored: bytes, **changes: object) -> None:
    """Put another stream in, and a manifest that agrees with it: as if it had been taken like this."""
    place = place_of(store)
    manifest = store.manifest(place.name)
    sha256 = hashlib.sha256(stored).hexdigest()
    stream = manifest.stream.model_copy(update={"stored_bytes": len(stored), "sha256": sha256})
    (place / "stream.mbs.zst").write_bytes(stored)
    (place / "manifest.json").write_bytes(sealed(manifest.model_copy(update={"stream": stream, **changes})))


def raw_stream(store: DirectoryStore) -> bytes:
    return zstd((place_of(store) / "stream.mbs.zst").read_bytes(), "-d")
