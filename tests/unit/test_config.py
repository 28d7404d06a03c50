"""Configuration: every mistake at once, each with its path, and where secrets come from."""

from pathlib import Path

import pytest

from dbha.config import SecretSource, find_configuration, load_configuration
from dbha.config.model import DirectoryStore, S3Store, SecretPolicy, SftpStore
from dbha.errors import ConfigurationError

GOOD = """\
cluster: lab
inventory: inventory.yml
state: state
secrets: {file: secrets.yml}
services:
  keystone: {release: "2025.1"}
  nova: {release: "2025.1", extra_cells: [nova_cell2], runner: {kind: prefix, command: [docker, exec, -i, nova_api]}}
backup: {stores: {local: {directory: backups}}}
upgrade: {allow_hops: ["2025.1 -> 2026.2"]}
"""


def write(directory: Path, text: str) -> Path:
    path = directory / "dbha.yml"
    path.write_text(text)
    return path


def problems_of(directory: Path, text: str) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        load_configuration(write(directory, text))
    assert caught.value.exit_code == 3
    return list(caught.value.problems)


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    configuration = load_configuration(write(tmp_path, GOOD))
    assert configuration.inventory == tmp_path / "inventory.yml"
    assert configuration.secrets.file == tmp_path / "secrets.yml"
    assert configuration.backup.stores["local"] == DirectoryStore(directory=tmp_path / "backups")


def test_stores_of_every_kind(tmp_path: Path) -> None:
    stores = """{local: {directory: backups},
        offsite: {kind: sftp, host: vault, directory: dbha, private_key_file: id},
        bucket: {kind: s3, endpoint: "https://s3", bucket: dbha, ca_file: ca.pem}}"""
    configuration = load_configuration(write(tmp_path, GOOD.replace("{local: {directory: backups}}", stores)))
    assert configuration.backup.stores == {
        "local": DirectoryStore(directory=tmp_path / "backups"),
        "offsite": SftpStore(kind="sftp", host="vault", directory="dbha", private_key_file=tmp_path / "id"),
        "bucket": S3Store(kind="s3", endpoint="https://s3", bucket="dbha", ca_file=tmp_path / "ca.pem"),
    }


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        pytest.param("compression: gzip", "compression: input should be 'zstd', 'lz4' or 'none'", id="compression"),
        pytest.param("compression: lz4, compression_level: 13", "of lz4 is at most 12", id="level"),
        pytest.param("throttle_mib_s: 0.5", "throttle_mib_s: input should be greater than or equal to 1", id="slow"),
        pytest.param("encryption: {}", "recipients or recipients_file is needed", id="for nobody"),
        pytest.param("encryption: {recipients: [age1x]}", "recipients.0: string should match", id="recipient"),
        pytest.param("encryption: {recipients: [AGE-SECRET-KEY-1Q]}", "has a secret key in it", id="secret"),
    ],
)  # fmt: skip
def test_mistakes_about_how_backups_are_made(tmp_path: Path, policy: str, said: str) -> None:
    text = GOOD.replace("backup: {", f"backup: {{{policy}, ")
    (problem,) = problems_of(tmp_path, text)
    assert said in problem
    assert "KEY-1Q" not in problem


@pytest.mark.parametrize(
    ("store", "said"),
    [
        pytest.param("{directroy: x}", "unknown key; did you mean `directory`?", id="a directory's"),
        pytest.param("{kind: sftp, directory: x}", "host: required, but missing", id="of sftp"),
        pytest.param("{kind: s3, endpoint: s3, bucket: b}", "endpoint: string should match", id="no address"),
        pytest.param("{kind: tape}", "backup.stores.local: ", id="unknown kind"),
    ],
)
def test_a_mistake_in_a_store_is_named_without_its_kind(tmp_path: Path, store: str, said: str) -> None:
    problems = problems_of(tmp_path, GOOD.replace("local: {directory: backups}", f"local: {store}"))
    assert any(said in problem and problem.startswith("backup.stores.local") for problem in problems), (
        problems
    )
    assert not any(".sftp." in problem or ".s3." in problem for problem in problems)


def test_every_mistake_is_told_at_once_with_its_path_and_a_suggestion(tmp_path: Path) -> None:
    text = GOOD.replace("inventory:", "inventroy:").replace("cluster: lab", "cluster: 3")
    text = text.replace('keystone: {release: "2025.1"}', 'keystone: {relase: "2025.1"}')
    problems = problems_of(tmp_path, text)
    assert "inventory: required, but missing" in problems
    assert "inventroy: unknown key; did you mean `inventory`?" in problems
    assert any(problem.startswith("cluster: ") and "found 3" in problem for problem in problems)
    assert "services.keystone.release: required, but missing" in problems
    assert "services.keystone.relase: unknown key; did you mean `release`?" in problems


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        pytest.param("keystone:", "keystoone:", "services.keystoone", id="unknown service"),
        pytest.param('"2025.1"', '"epoxy"', "services.keystone.release", id="not a release"),
        pytest.param("kind: prefix", "kind: podman", "services.nova.runner", id="unknown runner"),
        pytest.param("2025.1 -> 2026.2", "2025.1 to 2026.2", "upgrade.allow_hops.0", id="not a hop"),
        pytest.param("stores: {local", "store: other, stores: {local", "backup.store", id="no such store"),
    ],
)
def test_a_wrong_value_is_named_by_its_path(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert any(problem.startswith(said) for problem in problems_of(tmp_path, GOOD.replace(old, new)))


@pytest.mark.parametrize(
    "text", ["", "- a\n- b\n", "a: [", "\x00"], ids=["empty", "list", "broken", "binary"]
)
def test_what_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    assert len(problems_of(tmp_path, text)) == 1


def test_the_argument_wins_then_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    here, other = write(tmp_path, GOOD), tmp_path / "other.yml"
    other.write_text(GOOD)
    assert find_configuration(other, {"DBHA_CONFIG": str(here)}) == other
    assert find_configuration(None, {"DBHA_CONFIG": str(other)}) == other
    assert find_configuration(None, {}) == here


def test_a_missing_configuration_names_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        find_configuration(tmp_path / "no.yml", {})
    assert "no.yml" in caught.value.problems[0]


def secret_file(directory: Path, mode: int = 0o600) -> SecretPolicy:
    path = directory / "secrets.yml"
    path.write_text("admin_password: from-file\n")
    path.chmod(mode)
    return SecretPolicy(file=path)


def test_secrets_come_from_the_environment_then_systemd_then_the_file(tmp_path: Path) -> None:
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    policy = secret_file(tmp_path)
    environment = {"CREDENTIALS_DIRECTORY": str(credentials)}
    assert SecretSource(policy, environment).get("admin_password").reveal() == "from-file"
    (credentials / "admin_password").write_text("from-systemd\n")
    assert SecretSource(policy, environment).get("admin_password").reveal() == "from-systemd"
    environment["DBHA_SECRET_ADMIN_PASSWORD"] = "from-environment"
    assert SecretSource(policy, environment).get("admin_password").reveal() == "from-environment"


def test_a_secret_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        SecretSource(secret_file(tmp_path, 0o644), {}).get("admin_password")
    assert "chmod 600" in caught.value.hint


def test_a_missing_secret_says_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        SecretSource(secret_file(tmp_path), {}).get("nova_password")
    assert "$DBHA_SECRET_NOVA_PASSWORD" in caught.value.problems[0]


def test_a_secret_does_not_show_itself(tmp_path: Path) -> None:
    secret = SecretSource(secret_file(tmp_path), {}).get("admin_password")
    assert {str(secret), repr(secret), f"{secret}", f"{secret!r:>5}"} <= {"***", "  ***"}
