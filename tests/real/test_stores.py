"""Backups on other hosts: SFTP by a real sshd, S3 by a real Swift; both are stopped, cut and spoilt."""

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest
import yaml

from dbha.backup.objects import PatientObjects, StoreUnreachableError
from dbha.backup.remote_store import RemoteStore
from dbha.backup.s3_objects import S3Objects
from dbha.backup.sftp_objects import SftpObjects
from dbha.backup.store import Status
from dbha.backup.stored_bytes import definitions_of
from dbha.backup.verify import verify
from dbha.errors import FoundWrongError, KeyMissingError, UsageError
from dbha.secrets import Secret
from tests.real.cloud import Cloud
from tests.real.conftest import running_sandbox
from tests.real.lone_server import Server, nothing, take
from tests.real.places import PART_BYTES, Place, S3Bucket, SftpHost
from tests.real.sealing import new_identity
from tests.real.stored_backups import HALF, STREAM, complete, content, manifest_of, only
from tests.real.swift import SECRET_KEY
from tests.real.test_whole_restore import PLACEMENT, STRANGER, strangers
from tests.unit.any_backup import CONTENT
from tests.unit.test_backup_store import DEFINITIONS, FIRST, SECOND

pytest_plugins = ("tests.real.lone_fixtures", "tests.real.place_fixtures")
pytestmark = pytest.mark.real

AWAY_S = 1.5
T = TypeVar("T")


def test_a_backup_from_its_begin_to_its_end(place: Place) -> None:
    store = place.store()
    assert store.list() == ()
    draft = store.begin(FIRST)
    draft.write(HALF)
    assert only(place.store()).status is Status.WRITING
    draft.write(STREAM[len(HALF) :])
    draft.publish({"definitions.json": CONTENT}, manifest_of(FIRST))
    place.add("readme")
    place.add("logs/part-000001")
    place.add(f"{FIRST}/notes")
    new = place.store()  # as another controller would: there is nothing but what lies there
    assert (only(new).status, only(new).manifest) == (Status.COMPLETE, manifest_of(FIRST))
    assert content(new) == STREAM
    assert definitions_of(new, new.manifest(FIRST)) == DEFINITIONS
    with pytest.raises(UsageError, match="already a backup"):
        new.begin(FIRST)
    new.delete(FIRST)
    assert place.store().list() == ()
    with pytest.raises(FoundWrongError):
        store.manifest(FIRST)


def test_a_failed_one_keeps_its_reason(place: Place) -> None:
    draft = place.store().begin(FIRST)
    draft.write(STREAM)
    draft.abandon("the donor went away", b"log")
    found = only(place.store())
    assert (found.status, found.reason) == (Status.FAILED, "the donor went away")
    assert found.stored_bytes < 1000


def test_the_room_is_told_by_sftp_and_not_by_s3(vault: SftpHost, bucket: S3Bucket) -> None:
    told, actual = vault.store().free_bytes(), os.statvfs(vault.directory.parents[1])
    assert told is not None
    assert abs(told - actual.f_bavail * actual.f_frsize) < 1 << 30
    assert bucket.store().free_bytes() is None


def test_files_on_the_host_are_for_their_owner_only(vault: SftpHost) -> None:
    complete(vault.store())
    assert all(path.stat().st_mode & 0o077 == 0 for path in vault.directory.rglob("*"))
    assert vault.directory.stat().st_mode & 0o077 == 0


def test_the_age_of_an_object_is_by_the_clock_of_the_store(vault: SftpHost, bucket: S3Bucket) -> None:
    vault.store().begin(FIRST)
    note = vault.directory / FIRST / "writing.json"
    os.utime(note, (time.time() - 1000, time.time() - 1000))
    objects = SftpObjects(vault.server.endpoint, str(vault.directory), "")
    assert 998 <= objects.age_s(f"{FIRST}/writing.json") <= 1060
    assert [path.name for path in note.parent.iterdir()] == ["writing.json"], "no probe is left"
    bucket.store().begin(FIRST)
    time.sleep(2)
    assert 1 <= S3Objects(bucket.place(), "").age_s(f"{FIRST}/writing.json") <= 60


# --- broken off


def test_a_write_goes_on_after_the_connection_was_cut(place: Place) -> None:
    store = place.store()
    draft = store.begin(FIRST)
    draft.write(HALF)
    place.cut()
    draft.write(STREAM[len(HALF) :])
    draft.publish({"definitions.json": CONTENT}, manifest_of(FIRST))
    assert content(place.store()) == STREAM


def test_a_write_and_a_read_go_on_when_the_store_comes_back(place: Place) -> None:
    store = place.store()
    draft = store.begin(FIRST)
    draft.write(HALF)
    while_it_is_away(place, lambda: draft.write(STREAM[len(HALF) :]))
    draft.publish({"definitions.json": CONTENT}, manifest_of(FIRST))
    with store.open_stream(FIRST) as stream:
        begin = stream.read(PART_BYTES)
        assert begin + while_it_is_away(place, stream.read) == STREAM


def while_it_is_away(place: Place, action: Callable[[], T]) -> T:
    """Return what an action returns that is begun while the store is stopped, and started again a while later."""
    place.stop()
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(action)
        time.sleep(AWAY_S)
        assert not answer.done()
        place.start()  # here, for a server ends with the thread that started it
        return answer.result()


def test_an_s3_server_that_is_silent_is_asked_again(bucket: S3Bucket) -> None:
    store = bucket.store()
    draft = store.begin(FIRST)
    bucket.server.pause()
    timer = threading.Timer(7, bucket.server.go_on)  # longer than one request may take
    timer.start()
    draft.write(STREAM)
    timer.join()
    draft.publish({"definitions.json": CONTENT}, manifest_of(FIRST))
    assert content(store) == STREAM


def test_a_store_that_is_gone_for_good(place: Place) -> None:
    complete(place.store())
    store = place.store(patience_s=2)
    draft = store.begin(SECOND)
    draft.write(HALF)
    place.stop()
    began_s = time.monotonic()
    with pytest.raises(
        StoreUnreachableError, match=rf"store `{place.name}` does not answer: .* for \d+ s now"
    ):
        draft.write(STREAM)
    draft.abandon("gone", b"")
    assert time.monotonic() - began_s < 60
    with pytest.raises(StoreUnreachableError, match=f"store `{place.name}`"):
        place.store().list()  # at the first request: not waited for
    place.start()
    first, second = place.store().list()
    assert (first.status, second.status) == (Status.COMPLETE, Status.INTERRUPTED)
    assert content(place.store()) == STREAM


# --- refused


def test_a_host_whose_key_changed_is_refused_at_once(vault: SftpHost, tmp_path: Path) -> None:
    other = vault.server.make_key("other_key")
    known = tmp_path / "known_hosts"
    public = other.with_suffix(".pub").read_text()
    known.write_text(f"[127.0.0.1]:{vault.server.port} {public}")
    endpoint = replace(vault.server.endpoint, known_hosts_file=known)
    objects = PatientObjects(SftpObjects(endpoint, str(vault.directory), "store `vault`"), 30)
    with pytest.raises(StoreUnreachableError, match=r"store `vault`: the SSH host key .* has CHANGED"):
        RemoteStore(objects).list()


def test_a_directory_that_cannot_be_made(vault: SftpHost, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    vault.directory = tmp_path / "file" / "below"
    with pytest.raises(StoreUnreachableError, match="store `vault` refuses"):
        vault.store().begin(FIRST)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        pytest.param({"secret_key": Secret("wrong")}, "refuses: SignatureDoesNotMatch", id="wrong key"),
        pytest.param({"access_key": Secret("nobody")}, "refuses: ", id="unknown key"),
        pytest.param({"bucket": "no-such-bucket"}, "refuses: NoSuchBucket", id="no bucket"),
        pytest.param({"bucket": "no bucket"}, "cannot be used: ", id="not a bucket's name"),
        pytest.param({"endpoint": "http://127.0.0.1:1"}, "does not answer: ", id="nobody there"),
        pytest.param({"endpoint": "http://no such host"}, "", id="no address"),
    ],
)
def test_a_bucket_that_lets_nobody_in(bucket: S3Bucket, changes: dict[str, object], said: str) -> None:
    objects = PatientObjects(S3Objects(replace(bucket.place(), **changes), "store `bucket`"), 30)  # type: ignore[arg-type]
    with pytest.raises(StoreUnreachableError, match=f"store `bucket` {said}") as refused:
        RemoteStore(objects).list()
    assert SECRET_KEY not in str(refused.value)


# --- spoilt


@pytest.mark.parametrize("way", ["flip", "cut"])
def test_a_part_that_was_spoilt_where_it_lies(place: Place, way: str) -> None:
    store = place.store()
    complete(store)
    name = f"{FIRST}/part-000004-*"
    place.spoil(
        name, (lambda old: bytes([old[0] ^ 1]) + old[1:]) if way == "flip" else (lambda old: old[:-1])
    )
    with pytest.raises(FoundWrongError):
        content(place.store())


# --- of a real server


def test_a_backup_taken_right_into_it_is_good_until_a_bit_flips(
    server: Server, place: Place, tmp_path: Path
) -> None:
    store = place.store(part_bytes=4 << 20)
    cut: list[int] = []

    def cut_once(stored_bytes: int, _: int) -> None:
        if not cut and stored_bytes > 8 << 20:
            cut.append(stored_bytes)
            place.cut()

    manifest = take(server, store, on_bytes=cut_once)
    assert cut, "the store was cut in the middle"
    verify(store, manifest.id, tmp_path / "staging", on_bytes=nothing, keep=False)
    assert only(place.store()).verified
    place.spoil(f"{manifest.id}/part-000002-*", lambda old: old[:1000] + bytes([old[1000] ^ 1]) + old[1001:])
    with pytest.raises(FoundWrongError, match="part 2 of backup"):
        verify(place.store(), manifest.id, tmp_path / "staging", on_bytes=nothing, keep=False)
    assert only(place.store()).status is Status.BAD


def test_an_encrypted_backup_is_opened_from_where_it_lies(
    server: Server, place: Place, tmp_path: Path
) -> None:
    ours = new_identity()
    manifest = take(server, place.store(part_bytes=4 << 20), recipients=ours.recipients)
    with pytest.raises(KeyMissingError):
        verify(place.store(), manifest.id, tmp_path / "staging", on_bytes=nothing, keep=False)
    proven = verify(
        place.store(), manifest.id, tmp_path / "staging", on_bytes=nothing, keep=False, identities=ours
    )
    assert proven.outcome == "good"
    assert only(place.store()).verified


def test_a_service_and_the_whole_cluster_come_back_from_it(vault: SftpHost) -> None:
    with running_sandbox(nodes=1) as running:
        path = running.directory / "dbha.yml"
        cloud = Cloud(running, path)
        policy = yaml.safe_load(path.read_text())
        policy["backup"]["stores"]["vault"] = vault.policy()
        path.write_text(yaml.safe_dump(policy))
        cloud.run("database", "create")
        cloud.execute(*PLACEMENT.strip().split(";"))

        made = cloud.json("backup", "create", "--store", "vault", "--verify")["backup"]
        assert (made["status"], made["verified_level"]) == ("complete", "prepare")
        assert cloud.json("backup", "list") == []
        cloud.run("backup", "keep", made["id"], "--store", "vault", "--note", "before the move")
        cloud.run("backup", "delete", made["id"], "--store", "vault", "--yes", expect=4)
        checked = cloud.json("backup", "check", "--store", "vault")
        assert checked["level"] == "OK", checked

        cloud.execute(STRANGER)
        cloud.run("restore", made["id"], "--service", "placement", "--store", "vault", "--yes")
        assert strangers(cloud) == 0

        cloud.execute(STRANGER)
        policy["backup"]["store"] = "vault"
        path.write_text(yaml.safe_dump(policy))
        cloud.run("restore", "latest", "--yes")
        assert strangers(cloud) == 0
        assert cloud.json("status")["last_backup"]["id"] == made["id"]
