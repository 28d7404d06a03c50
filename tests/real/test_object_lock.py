"""Object Lock: what another tool deletes is still there, and dbha itself does not delete it.

The server is Moto's: it keeps buckets in memory, and does with locked versions what S3 does. Swift's S3 API, which
the other tests of stores use, has no Object Lock.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import botocore.session
import pytest
from botocore.exceptions import ClientError
from moto.server import ThreadedMotoServer

from dbha.backup.directory_store import DirectoryStore
from dbha.backup.immutable import can_freeze, thaw
from dbha.backup.objects import StoreUnreachableError
from dbha.backup.stores import make_store
from dbha.config.model import ObjectLock, S3Store
from dbha.errors import FoundWrongError, UnsafeError
from dbha.secrets import Secret
from tests.real.places import S3Bucket, s3_server
from tests.real.stored_backups import complete, content
from tests.real.swift import ACCESS_KEY, SECRET_KEY
from tests.unit.test_backup_store import FIRST, SECOND

pytestmark = pytest.mark.real

LOCKED, PLAIN = "locked", "plain"


class Moto:
    """A server with a bucket that has Object Lock, and one that has not."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.client: Any = botocore.session.get_session().create_client(
            "s3", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id="key", aws_secret_access_key="key"
        )  # fmt: skip
        self.client.create_bucket(Bucket=LOCKED, ObjectLockEnabledForBucket=True)
        self.client.create_bucket(Bucket=PLAIN)

    def store(self, bucket: str, *, days: int = 7) -> Any:
        lock = ObjectLock(mode="compliance", days=days)
        policy = S3Store(kind="s3", endpoint=self.endpoint, bucket=bucket, object_lock=lock)
        return make_store("vault", policy, lambda name: Secret("key"))

    def versions(self, bucket: str, end: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.client.list_object_versions(Bucket=bucket).get("Versions", [])
        return [each for each in found if end in each["Key"]]


@pytest.fixture(scope="module")
def moto() -> Iterator[Moto]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield Moto(f"http://{host}:{port}")
    server.stop()


def test_every_object_of_a_backup_is_locked_and_nothing_else(moto: Moto) -> None:
    store = moto.store(LOCKED)
    assert store.locks() == "7 days, by the server's Object Lock (compliance)"
    complete(store)
    (backup,) = store.list()
    heads = {
        each["Key"]: moto.client.head_object(Bucket=LOCKED, Key=each["Key"])
        for each in moto.versions(LOCKED, FIRST)
    }
    assert len(heads) > 2
    for head in heads.values():
        assert head["ObjectLockMode"] == "COMPLIANCE"
        assert head["ObjectLockRetainUntilDate"] >= backup.lock.until.replace(microsecond=0)
    with pytest.raises(UnsafeError, match="is locked until"):
        store.delete(FIRST)

    # what somebody with the keys of the bucket can do: hide it, and not remove it
    for version in moto.versions(LOCKED, FIRST):
        with pytest.raises(ClientError, match="AccessDenied"):
            moto.client.delete_object(Bucket=LOCKED, Key=version["Key"], VersionId=version["VersionId"])
        moto.client.delete_object(Bucket=LOCKED, Key=version["Key"])
    assert store.list() == ()
    for marker in moto.client.list_object_versions(Bucket=LOCKED)["DeleteMarkers"]:
        moto.client.delete_object(Bucket=LOCKED, Key=marker["Key"], VersionId=marker["VersionId"])
    assert [each.id for each in store.list()] == [FIRST]
    assert len(content(store)) == backup.stored_bytes


def test_what_failed_is_hidden_until_the_server_lets_it_go(moto: Moto) -> None:
    store = moto.store(LOCKED)
    draft = store.begin(SECOND)
    draft.write(bytes(17 << 20))
    draft.abandon("no more", b"")
    assert [each.reason for each in store.list() if each.id == SECOND] == ["no more"]
    store.delete(SECOND)
    assert [each.id for each in store.list() if each.id == SECOND] == []
    kept = moto.versions(LOCKED, SECOND)
    assert [each["Key"].partition("/part-")[1] for each in kept] == [
        "/part-"
    ]  # notes and logs were not locked


def test_a_bucket_without_object_lock_is_said_so(moto: Moto, tmp_path: Path) -> None:
    store = moto.store(PLAIN)
    with pytest.raises(FoundWrongError, match="has no Object Lock"):
        store.locks()
    with pytest.raises(StoreUnreachableError, match="refuses"):
        complete(store)
    with s3_server(tmp_path) as swift:
        place = S3Bucket(swift, "x/").policy()
        policy = S3Store(**place, object_lock=ObjectLock(mode="governance", days=1))
        keys = {"access": ACCESS_KEY, "secret": SECRET_KEY}
        other = make_store("swift", policy, lambda name: Secret(keys[name.split("_")[1]]))
        with pytest.raises(FoundWrongError, match="has no Object Lock"):
            other.locks()


def test_files_that_nobody_can_change(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "store", immutable_days=3)
    store.directory.mkdir()
    if not can_freeze(store.directory):
        assert "by dbha alone" in store.locks()
        pytest.skip("chattr +i needs root and a file system that has it")
    try:
        complete(store)
        assert "chattr +i" in store.locks()
        for file in (store.directory / FIRST).iterdir():
            with pytest.raises(PermissionError):
                file.unlink()
            with pytest.raises(PermissionError):
                file.write_bytes(b"")
        with pytest.raises(UnsafeError, match="is locked until"):
            store.delete(FIRST)
    finally:
        thaw((store.directory / FIRST).iterdir())
