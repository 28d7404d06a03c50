"""Whatever the tests before left on the controller and on the hosts: no password that is in use is in it."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.hosts.site import HostedCluster

pytestmark = [pytest.mark.real, pytest.mark.hosts]

CHUNK_BYTES = 1 << 22


def files_with(words: Sequence[bytes], top: Path) -> Iterator[Path]:
    """Yield the files below a directory that have one of the words in them."""
    longest = max(map(len, words))
    for path in top.rglob("*"):
        if not path.is_symlink() and path.is_file():
            with path.open("rb") as file:
                end = b""
                while block := file.read(CHUNK_BYTES):
                    if any(word in end + block for word in words):
                        yield path
                        break
                    end = block[-longest:]


def test_no_password_is_left_anywhere(hosted: HostedCluster) -> None:
    words = [password.encode() for password in hosted.passwords().values()]
    keys = sorted((hosted.directory / "tls").glob("*.key"))
    words += [path.read_bytes().splitlines()[1] for path in keys]  # the first line of what is in it
    places = [hosted.directory, *(machine.disk / "upper" for machine in hosted.lab.machines)]
    found = [path for place in places for path in files_with(words, place)]
    on_hosts = [machine.disk / "upper/etc/mysql/tls/key.pem" for machine in hosted.lab.machines]
    assert sorted(found) == sorted([hosted.directory / "secrets.yml", *keys, *on_hosts])
    assert len(keys) == 4 and {path.stat().st_mode & 0o777 for path in [*keys, *on_hosts]} == {0o600}
    for path, key in zip(on_hosts, keys[1:], strict=True):  # each has its own, and nobody has that of the CA
        assert path.read_bytes() == key.read_bytes()
    for machine in hosted.lab.machines:
        for pid in machine.processes():
            for name in ("cmdline", "environ"):
                assert not any(word in Path(f"/proc/{pid}/{name}").read_bytes() for word in words)
