"""The fixtures `vault`, `bucket`, and `place` for either of them. A test file asks for them by `pytest_plugins`.

Each server is started once for this test process; a test may stop it, and `place` starts it again.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real.places import Place, S3Bucket, SftpHost, prefix_of, s3_server, sftp_server
from tests.real.sshd import Sshd
from tests.real.swift import Swift


@pytest.fixture(scope="session")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with sftp_server(tmp_path_factory.mktemp("sshd")) as server:
        yield server


@pytest.fixture(scope="session")
def swift(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swift]:
    with s3_server(tmp_path_factory.mktemp("swift")) as server:
        yield server


@pytest.fixture
def vault(sshd: Sshd, tmp_path: Path) -> SftpHost:
    return SftpHost(sshd, tmp_path / "far" / "backups")


@pytest.fixture
def bucket(swift: Swift, tmp_path: Path) -> S3Bucket:
    return S3Bucket(swift, prefix_of(tmp_path))


@pytest.fixture(params=["vault", "bucket"])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    found: Place = request.getfixturevalue(request.param)
    yield found
    if found.server.process is None:  # type: ignore[attr-defined]
        found.start()
