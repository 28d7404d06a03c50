"""Places for backups on real servers, a host with SFTP and an S3 server, and what may go wrong with each."""

import posixpath
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import botocore.session

from dbha.backup.objects import PatientObjects
from dbha.backup.remote_store import RemoteStore
from dbha.backup.s3_objects import S3Objects, S3Place
from dbha.backup.sftp_objects import SftpObjects
from dbha.secrets import Secret
from tests.real.sshd import Sshd, running_sshd
from tests.real.swift import ACCESS_KEY, BUCKET, SECRET_KEY, Swift, running_swift

PART_BYTES = 64 << 10


class Place(Protocol):
    """Somewhere else. `policy` is its part of dbha.yml, `secrets` what belongs among the secrets."""

    name: str

    def store(self, *, patience_s: float = 90, part_bytes: int = PART_BYTES) -> RemoteStore: ...

    def stop(self) -> None: ...

    def start(self) -> None: ...

    def cut(self) -> None:
        """Break what is under way, and answer again at once."""

    def spoil(self, name: str, change: Callable[[bytes], bytes]) -> None:
        """Change an object where it lies, behind the server's back."""

    def parts(self, backup_id: str) -> dict[str, int]:
        """Return for the parts of a backup when each was written, in nanoseconds, where it lies."""

    def add(self, name: str) -> None:
        """Put a stranger's object there."""

    def policy(self) -> dict[str, Any]: ...


@dataclass
class SftpHost:
    server: Sshd
    directory: Path
    name: str = "vault"

    def store(self, *, patience_s: float = 90, part_bytes: int = PART_BYTES) -> RemoteStore:
        endpoint = replace(self.server.endpoint, connect_timeout_s=5)
        objects = SftpObjects(endpoint, str(self.directory), f"store `{self.name}`")
        return RemoteStore(PatientObjects(objects, patience_s), part_bytes=part_bytes)

    def stop(self) -> None:
        self.server.stop()

    def start(self) -> None:
        self.server.start()

    def cut(self) -> None:
        self.server.kill_sessions()

    def spoil(self, name: str, change: Callable[[bytes], bytes]) -> None:
        (path,) = self.directory.glob(name)
        path.write_bytes(change(path.read_bytes()))

    def parts(self, backup_id: str) -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in self.directory.glob(f"{backup_id}/part-*")}

    def add(self, name: str) -> None:
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"a stranger's")

    def policy(self) -> dict[str, Any]:
        endpoint = self.server.endpoint
        return {
            "kind": "sftp", "host": endpoint.host, "port": endpoint.port, "directory": str(self.directory),
            "private_key_file": str(endpoint.private_key_file), "known_hosts_file": str(endpoint.known_hosts_file),
            "patience_s": 60,
        }  # fmt: skip


@dataclass
class S3Bucket:
    server: Swift
    prefix: str
    name: str = "bucket"

    def place(self) -> S3Place:
        return S3Place(
            self.server.endpoint,
            "us-east-1",
            BUCKET,
            self.prefix,
            Secret(ACCESS_KEY),
            Secret(SECRET_KEY),
            None,
            5.0,
        )

    def store(self, *, patience_s: float = 90, part_bytes: int = PART_BYTES) -> RemoteStore:
        objects = S3Objects(self.place(), f"store `{self.name}`")
        return RemoteStore(PatientObjects(objects, patience_s), part_bytes=part_bytes)

    def stop(self) -> None:
        self.server.stop()

    def start(self) -> None:
        self.server.start()

    def cut(self) -> None:
        self.server.stop()
        self.server.start()

    def spoil(self, name: str, change: Callable[[bytes], bytes]) -> None:
        (path,) = self.server.files_of(f"{self.prefix}{name.rstrip('*')}")
        path.write_bytes(
            change(path.read_bytes())
        )  # in place: what Swift knows of the object stays beside it

    def parts(self, backup_id: str) -> dict[str, int]:
        # A file is named after the time its object was written.
        files = self.server.files_of(f"{self.prefix}{backup_id}/part-")
        return {f"{path.parent.name}/{path.name}": path.stat().st_mtime_ns for path in files}

    def add(self, name: str) -> None:
        S3Objects(self.place(), "").put(name, b"a stranger's")

    def policy(self) -> dict[str, Any]:
        return {
            "kind": "s3", "endpoint": self.server.endpoint, "bucket": BUCKET, "prefix": self.prefix, "timeout_s": 20,
            "patience_s": 60,
        }  # fmt: skip


@contextmanager
def sftp_server(directory: Path) -> Iterator[Sshd]:
    with running_sshd(directory, extra="Subsystem sftp internal-sftp\nForceCommand internal-sftp") as server:
        yield server


@contextmanager
def s3_server(directory: Path) -> Iterator[Swift]:
    """Run an S3 server with a bucket."""
    with running_swift(directory) as server:
        client = botocore.session.get_session().create_client(
            "s3", endpoint_url=server.endpoint, region_name="us-east-1", aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
        )  # fmt: skip
        client.create_bucket(Bucket=BUCKET)
        yield server


def prefix_of(directory: Path) -> str:
    """Return a prefix of its own for each test."""
    return f"{posixpath.basename(str(directory))}/"
