"""Manifests and verifications keep what they are given, and refuse what was changed."""

import hashlib
from datetime import UTC, datetime, timedelta, timezone

import pytest

from dbha.backup.manifest import (
    BACKUP_ID,
    DefinitionsFile,
    Manifest,
    ServiceState,
    StreamFile,
    Verification,
    canonical,
    new_backup_id,
    sealed,
    unsealed,
)
from dbha.config.model import Compression
from dbha.errors import FoundWrongError

MANIFEST = Manifest(
    id="20261123T043000Z-3f2a",
    cluster="lab",
    label="before 2026.2, für später",
    created=datetime(2026, 11, 23, 4, 30, tzinfo=UTC),
    finished=datetime(2026, 11, 23, 4, 31, tzinfo=UTC),
    donor="db2",
    server_version="10.11.19-MariaDB",
    tool_version="10.11.19-MariaDB",
    timeline="c45553ad-e6f7-11f1-b78a-8b00356db182",
    cluster_state_uuid="c45553ad-e6f7-11f1-b78a-8b00356db182",
    seqno=846,
    gtid="0-1-846",
    services={
        "nova": ServiceState(
            release="2025.1", databases=("nova_api", "nova"), heads={"nova_api": ("d",), "nova": ("a", "b")}
        )
    },
    stream=StreamFile(stored_bytes=10, raw_bytes=100, sha256="0" * 64),
    definitions=DefinitionsFile(sha256="1" * 64),
    data_bytes=120,
    dbha_version="0.1.0",
)


def test_a_manifest_comes_back_as_it_was() -> None:
    assert unsealed(sealed(MANIFEST), Manifest, "it") == MANIFEST


def test_every_changed_byte_is_refused() -> None:
    content = sealed(MANIFEST)
    for position in range(len(content)):
        changed = bytearray(content)
        changed[position] ^= 1
        with pytest.raises(FoundWrongError, match="the manifest of backup x is damaged"):
            unsealed(bytes(changed), Manifest, "the manifest of backup x")


def test_a_manifest_of_before_there_was_a_choice_says_what_was_done_then() -> None:
    data = MANIFEST.model_dump(mode="json", by_alias=True)
    del data["stream"]["compression"], data["encryption"], data["scope"]
    old = canonical(data | {"sha256": hashlib.sha256(canonical(data)).hexdigest()})
    found = unsealed(old, Manifest, "it")
    assert found == MANIFEST
    assert (found.stream.compression, found.recipients, found.part) == (Compression.ZSTD, (), "")


@pytest.mark.parametrize("length", [0, 1, 100, -1])
def test_a_cut_manifest_is_refused(length: int) -> None:
    with pytest.raises(FoundWrongError):
        unsealed(sealed(MANIFEST)[:length], Manifest, "it")


def test_a_field_of_a_later_version_is_ignored() -> None:
    class Later(Manifest):
        encrypted: bool = True

    later = Later.model_validate(MANIFEST.model_dump(by_alias=True))
    assert unsealed(sealed(later), Manifest, "it") == MANIFEST


def test_the_prepared_tree_is_not_stored() -> None:
    found = Verification(
        backup=MANIFEST.id, outcome="good", when=MANIFEST.created, stream_sha256="0" * 64,
        tool_version="10.11.19-MariaDB", dbha_version="0.1.0",
    )  # fmt: skip
    assert b'prepared":' not in sealed(found)
    assert unsealed(sealed(found), Verification, "it") == found


def test_ids_sort_by_utc_time() -> None:
    first = datetime(2026, 11, 23, 4, 30, tzinfo=UTC)
    second = (first + timedelta(seconds=1)).astimezone(timezone(timedelta(hours=-8)))
    ids = [new_backup_id(first), new_backup_id(second)]
    assert ids == sorted(ids)
    assert ids[0].startswith("20261123T043000Z-")
    assert all(BACKUP_ID.fullmatch(backup_id) for backup_id in ids)
