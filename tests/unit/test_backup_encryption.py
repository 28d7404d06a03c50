"""For whom backups are encrypted, who can open them, and what every mistake is called. age itself is real."""

import subprocess
from pathlib import Path

import pytest

from dbha.backup.encryption import NO_IDENTITIES, Identities, decrypted, encrypted, recipients_of
from dbha.backup.manifest import Encryption, Manifest
from dbha.config.model import EncryptionPolicy, SecretPolicy
from dbha.config.secrets import SecretSource
from dbha.errors import ConfigurationError, FoundWrongError, KeyMissingError
from dbha.secrets import Secret
from tests.unit.test_backup_manifest import MANIFEST


def new_key() -> str:
    return subprocess.run(["age-keygen"], capture_output=True, text=True, check=True).stdout


FIRST_KEY, SECOND_KEY = new_key(), new_key()
FIRST, SECOND, BOTH = (
    Identities(Secret(FIRST_KEY)),
    Identities(Secret(SECOND_KEY)),
    Identities(Secret(FIRST_KEY + SECOND_KEY)),
)
(A,), (B,) = FIRST.recipients, SECOND.recipients


def manifest_for(*recipients: str) -> Manifest:
    encryption = Encryption(recipients=recipients) if recipients else None
    return MANIFEST.model_copy(update={"encryption": encryption})


def test_recipients_are_those_of_the_key_and_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "recipients"
    file.write_text(f"# the safe\n\n{B}\n{A}\n")
    assert recipients_of(None) == ()
    assert recipients_of(EncryptionPolicy(recipients=(A,))) == (A,)
    assert recipients_of(EncryptionPolicy(recipients=(A,), recipients_file=file)) == (A, B)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param(None, "cannot be read", id="no file"),
        pytest.param(b"# nobody\n", "names no recipient", id="nobody"),
        pytest.param(b"age1short\n", "line 1 is not an age recipient", id="not a recipient"),
        pytest.param(FIRST_KEY.encode(), "line 3 is not an age recipient", id="the secret key by mistake"),
        pytest.param(A[:-1].encode() + (b"q" if A[-1] != "q" else b"p"), "age does not take it", id="a typing error"),
        pytest.param(b"\xff\xfe", "cannot be read", id="no text"),
    ],
)  # fmt: skip
def test_recipients_that_are_none(tmp_path: Path, content: bytes | None, words: str) -> None:
    file = tmp_path / "recipients"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigurationError) as wrong:
        recipients_of(EncryptionPolicy(recipients_file=file))
    assert words in "; ".join(wrong.value.problems)
    assert "AGE-SECRET-KEY" not in "; ".join(wrong.value.problems)


@pytest.mark.parametrize(
    "text", ["nonsense", "", "AGE-SECRET-KEY-1QQQQQQ", FIRST_KEY + "AGE-SECRET-KEY-1XYZ"]
)
def test_identities_that_are_none_are_not_shown(text: str) -> None:
    with pytest.raises(ConfigurationError) as wrong:
        _ = Identities(Secret(text)).recipients
    said = "; ".join(wrong.value.problems)
    assert "backup_identity: age-keygen does not understand it" in said
    assert "QQQ" not in said and "XYZ" not in said


@pytest.mark.parametrize(
    ("identities", "recipients", "opens"),
    [
        pytest.param(NO_IDENTITIES, (), True, id="plain"),
        pytest.param(FIRST, (), True, id="plain, with a key"),
        pytest.param(NO_IDENTITIES, (A,), False, id="no key"),
        pytest.param(FIRST, (A,), True, id="its key"),
        pytest.param(SECOND, (A,), False, id="another key"),
        pytest.param(SECOND, (A, B), True, id="one of several recipients"),
        pytest.param(BOTH, (B,), True, id="one of several keys"),
    ],
)
def test_who_opens_what(identities: Identities, recipients: tuple[str, ...], opens: bool) -> None:
    content, manifest = encrypted(b"definitions", recipients), manifest_for(*recipients)
    assert (content == b"definitions") is not bool(recipients)
    assert identities.open(recipients) is opens
    if opens:
        assert decrypted(content, manifest, identities) == b"definitions"
        return
    with pytest.raises(KeyMissingError) as missing:
        decrypted(content, manifest, identities)
    assert all(recipient in str(missing.value) for recipient in recipients)


@pytest.mark.parametrize("spoilt", [b"", b"plain", encrypted(b"x", (A,))[:-1], encrypted(b"x", (B,))])
def test_what_was_spoilt_is_not_the_fault_of_the_key(spoilt: bytes) -> None:
    with pytest.raises(FoundWrongError, match="it cannot be decrypted"):
        decrypted(spoilt, manifest_for(A), FIRST)


def test_where_identities_come_from(tmp_path: Path) -> None:
    file = tmp_path / "backup.key"
    file.write_text(SECOND_KEY)
    file.chmod(0o600)
    policy = SecretPolicy(identity_file=file)
    assert SecretSource(SecretPolicy(), {}).backup_identities() is None
    assert Identities(SecretSource(policy, {}).backup_identities()).recipients == (B,)
    environment = {"DBHA_SECRET_BACKUP_IDENTITY": FIRST_KEY}
    assert Identities(SecretSource(policy, environment).backup_identities()).recipients == (A,)
    (tmp_path / "backup_identity").write_text(FIRST_KEY)
    credentials = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert Identities(SecretSource(policy, credentials).backup_identities()).recipients == (A,)
    file.chmod(0o640)
    with pytest.raises(ConfigurationError) as refused:
        SecretSource(policy, {}).backup_identities()
    assert refused.value.problems == ("others may read it",)
