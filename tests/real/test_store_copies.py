"""Copies of backups between real stores, in this process and by the command line; they are stopped and killed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from dbha.backup.copy import copy_backup
from dbha.backup.directory_store import DirectoryStore
from dbha.backup.manifest import new_backup_id
from dbha.backup.store import Status
from dbha.errors import BackupFailedError
from tests.real.lone_server import nothing
from tests.real.places import PART_BYTES, Place, S3Bucket, SftpHost
from tests.real.stored_backups import STREAM, complete, content, only
from tests.real.swift import SECRET_KEY
from tests.unit.test_backup_store import FIRST

pytest_plugins = ("tests.real.place_fixtures",)
pytestmark = pytest.mark.real


def test_copies_from_store_to_store(vault: SftpHost, bucket: S3Bucket, tmp_path: Path) -> None:
    first, last = DirectoryStore(tmp_path / "first"), DirectoryStore(tmp_path / "last")
    manifest = complete(first)
    copy_backup(first, vault.store(), manifest, nothing)
    copy_backup(vault.store(), bucket.store(part_bytes=PART_BYTES * 3), manifest, nothing)
    copy_backup(bucket.store(), last, manifest, nothing)
    assert (only(last).status, only(last).manifest) == (Status.COMPLETE, manifest)
    assert content(last) == STREAM


def test_a_copy_that_broke_off_sends_nothing_twice(place: Place, tmp_path: Path) -> None:
    source, stream = DirectoryStore(tmp_path / "source"), os.urandom(6 << 20)
    manifest = complete(source, stream=stream)

    def stop(done_bytes: int) -> None:
        if done_bytes == 2 << 20:
            place.stop()

    with pytest.raises(BackupFailedError, match=f"not copied to store `{place.name}`"):
        copy_backup(source, place.store(patience_s=1, part_bytes=1 << 20), manifest, stop)
    place.start()
    before = place.parts(FIRST)
    assert len(before) == 2
    copy_backup(source, place.store(part_bytes=1 << 20), manifest, nothing)
    assert content(place.store()) == stream
    assert before.items() <= place.parts(FIRST).items(), "what was there was not written again"


# --- with the command line


@pytest.fixture
def configured(vault: SftpHost, bucket: S3Bucket, tmp_path: Path) -> Path:
    """A configuration with a directory, where one backup is, and two stores elsewhere. There is no cluster."""
    (tmp_path / "inventory.yml").write_text("galera: {hosts: {db1: {}}}")
    (tmp_path / "secrets.yml").write_text(
        yaml.safe_dump(
            {"bucket_access_key": "dbha:backup", "bucket_secret_key": SECRET_KEY, "admin_password": "x"}
        )
    )
    (tmp_path / "secrets.yml").chmod(0o600)
    stores = {"local": {"directory": "local"}, "vault": vault.policy(), "bucket": bucket.policy()}
    policy = {
        "cluster": "lab", "inventory": "inventory.yml", "state": "state", "secrets": {"file": "secrets.yml"},
        "services": {"keystone": {"release": "2025.1"}}, "backup": {"stores": stores},
    }  # fmt: skip
    (tmp_path / "dbha.yml").write_text(yaml.safe_dump(policy))
    complete(DirectoryStore(tmp_path / "local"))
    return tmp_path / "dbha.yml"


def dbha(configuration: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [str(Path(sys.executable).parent / "dbha"), "-c", str(configuration), *arguments],
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip


def test_copying_and_listing(configured: Path, place: Place) -> None:
    done = dbha(configured, "backup", "copy", "latest", "--to", place.name, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) | {"seconds": 0} == {
        "schema": 1, "backup": FIRST, "from": "local", "to": place.name, "copied": True,
        "bases": [], "stored_bytes": len(STREAM), "seconds": 0,
    }  # fmt: skip
    again = dbha(configured, "backup", "copy", FIRST, "--to", place.name)
    assert (again.returncode, again.stdout.strip().endswith(f"is in {place.name} already")) == (0, True)
    listed = json.loads(dbha(configured, "backup", "list", "--all-stores", "--json").stdout)
    assert {each["store"] for each in listed if each["id"] == FIRST} == {"local", place.name}
    shown = json.loads(dbha(configured, "backup", "show", "--store", place.name, "--json").stdout)
    assert shown["status"] == "complete"


def test_another_backup_of_the_same_id_is_refused(configured: Path, place: Place) -> None:
    complete(place.store(), FIRST, b"another")
    refused = dbha(configured, "backup", "copy", FIRST, "--to", place.name)
    assert refused.returncode == 4
    assert "another backup" in refused.stderr
    assert content(place.store()) == b"another"


def test_a_silent_store_hides_no_other(configured: Path, place: Place) -> None:
    place.stop()
    listed = dbha(configured, "backup", "list", "--all-stores", "--json")
    assert listed.returncode == 5
    assert f"store `{place.name}`" in listed.stderr
    assert [each["store"] for each in json.loads(listed.stdout)] == ["local"]
    copied = dbha(configured, "backup", "copy", FIRST, "--to", place.name)
    assert (copied.returncode, f"store `{place.name}`" in copied.stderr) == (5, True)
    assert "nothing was changed" in copied.stderr


def test_a_copy_that_was_killed_goes_on(configured: Path, place: Place, tmp_path: Path) -> None:
    large = new_backup_id()
    complete(DirectoryStore(tmp_path / "local"), large, os.urandom(96 << 20))
    argv = [str(Path(sys.executable).parent / "dbha"), "-c", str(configured), "backup", "copy", large]
    with subprocess.Popen([*argv, "--to", place.name], stderr=subprocess.DEVNULL) as process:
        deadline_s = time.monotonic() + 60
        while not place.parts(large):
            assert time.monotonic() < deadline_s
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGSTOP)  # else it might be done before it is looked at
        assert only(place.store()).status is Status.WRITING
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert only(place.store()).status is Status.INTERRUPTED
    assert dbha(configured, "backup", "copy", large, "--to", place.name).returncode == 0
    assert only(place.store()).status is Status.COMPLETE
