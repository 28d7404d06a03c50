"""What happens to backups that are stored. Each function spoils a copy of the good one and tries to restore it."""

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dbha.backup.records import MANIFEST
from dbha.backup.store import Status, resolve
from tests.faults.scene import Scene
from tests.real.commands import Said
from tests.real.spoiling import chunks, flip, zstd

STREAM = "stream.mbs.zst"
FLIPPED_AT = 200 * 16384 + 9000  # in a page that is full of rows


def restore_of_spoilt(scene: Scene, spoil: Callable[[Scene, Path], object]) -> Said:
    """Return what a restore of one service says; the backup is not taken for a good one any more."""
    place = scene.copy_of_older()
    spoil(scene, place)
    said = scene.run("restore", place.name, "--service", "placement", "--yes")
    (spoilt,) = [backup for backup in scene.store.list() if backup.id == place.name]
    assert spoilt.status in (Status.BAD, Status.DAMAGED), spoilt
    assert resolve(scene.store.list(), "latest") == scene.older
    scene.store.delete(place.name)
    return said


def manifest_flipped(_: Scene, place: Path) -> None:
    flip(place / MANIFEST, 300)


def manifest_missing(_: Scene, place: Path) -> None:
    (place / MANIFEST).unlink()


def manifest_cut(_: Scene, place: Path) -> None:
    os.truncate(place / MANIFEST, 300)


def definitions_flipped(_: Scene, place: Path) -> None:
    flip(place / "definitions.json", 300)


def stream_missing(_: Scene, place: Path) -> None:
    (place / STREAM).unlink()


def stream_flipped(_: Scene, place: Path) -> None:
    flip(place / STREAM, 5 << 20)


def cut_to_nothing(scene: Scene, place: Path) -> None:
    _put(scene, place, lambda raw: b"")


def cut_in_a_chunk(scene: Scene, place: Path) -> None:
    _put(scene, place, lambda raw: raw[: chunks(raw)[-2].end - 5])


def cut_on_a_border(scene: Scene, place: Path) -> None:
    _put(scene, place, lambda raw: raw[: chunks(raw)[len(chunks(raw)) // 2].end])


def cut_before_the_last_member(scene: Scene, place: Path) -> None:
    def cut(raw: bytes) -> bytes:
        return raw[: next(chunk for chunk in chunks(raw) if chunk.path == "xtrabackup_info").begin]

    _put(scene, place, cut)


def cut_in_the_file(_: Scene, place: Path) -> None:
    os.truncate(place / STREAM, 5 << 20)


def _put(scene: Scene, place: Path, change: Callable[[bytes], bytes]) -> None:
    """Put a changed stream in, and a manifest that agrees with it: as if it had been taken like this."""
    stored = zstd(change(zstd((place / STREAM).read_bytes(), "-d")))
    manifest = scene.store.manifest(place.name)
    stream = manifest.stream.model_copy(
        update={"stored_bytes": len(stored), "sha256": hashlib.sha256(stored).hexdigest()}
    )
    (place / STREAM).write_bytes(stored)
    scene.seal(manifest.model_copy(update={"stream": stream}))


def page_flipped_after_prepare(scene: Scene) -> Said:
    """In a tablespace of the tree that was just prepared, which no checksum of the stream covers any more."""
    place = scene.copy_of_older()
    with scene.ordered(tool="prepare", below="", file="placement/filling.ibd", flip=FLIPPED_AT):
        said = scene.run("backup", "verify", place.name, "--level", "pages")
    scene.store.delete(place.name)
    return said


def catalogue_missing(scene: Scene) -> Said:
    """All that a controller ever wrote down is gone: the catalogue is what lies in the store."""
    policy = scene.policy(lambda policy: policy.update(state="of-a-new-controller"))
    listed = scene.cloud.run("backup", "list", "--json", configuration=policy)
    assert [each["id"] for each in listed.json if each["verified"]] == [scene.older]
    return scene.run("restore", "latest", "--service", "placement", "--dry-run", configuration=policy)


def store_missing(scene: Scene) -> Said:
    """As when a file system was not mounted."""
    hidden = scene.cloud.backups.rename(scene.cloud.backups.with_name("not-mounted"))
    try:
        return scene.run("restore", "latest", "--service", "placement", "--yes")
    finally:
        shutil.rmtree(scene.cloud.backups, ignore_errors=True)
        hidden.rename(scene.cloud.backups)


def wrong_key(scene: Scene) -> Said:
    """Another key than that of the backup: that is no verdict on it, and the right one opens it."""
    right, wrong = (_new_key(scene.cloud.directory / name) for name in ("right.key", "wrong.key"))

    def encrypted(policy: dict[str, Any]) -> None:
        policy["backup"]["encryption"] = {"recipients": [right]}
        policy["secrets"]["identity_file"] = "right.key"

    policy = scene.policy(encrypted)
    scene.cloud.run("backup", "create", configuration=policy)
    *_, new = scene.store.list()
    (scene.cloud.directory / "right.key").rename(scene.cloud.directory / "kept.key")
    (scene.cloud.directory / "wrong.key").rename(scene.cloud.directory / "right.key")
    said = scene.run("restore", new.id, "--service", "placement", "--yes", configuration=policy)
    assert wrong in said.stderr, said
    assert scene.store.list()[-1].status is Status.COMPLETE
    (scene.cloud.directory / "kept.key").rename(scene.cloud.directory / "right.key")
    scene.cloud.run("backup", "verify", new.id, configuration=policy)
    scene.store.delete(new.id)
    return said


def _new_key(path: Path) -> str:
    """Make an identity, and return its recipient."""
    subprocess.run(["age-keygen", "-o", str(path)], check=True, capture_output=True)
    path.chmod(0o600)
    shown = subprocess.run(["age-keygen", "-y", str(path)], check=True, capture_output=True, text=True)
    return shown.stdout.strip()
