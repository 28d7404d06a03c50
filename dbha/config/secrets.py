"""Where passwords come from: the environment, a systemd credential, or a file that only its owner reads."""

import os
import stat
import subprocess
from collections.abc import Mapping
from pathlib import Path

import yaml

from dbha.config.model import SecretPolicy
from dbha.errors import ConfigurationError
from dbha.secrets import Secret

_VAULT_HEADER = b"$ANSIBLE_VAULT;"


class SecretSource:
    """Looks secrets up: first `$DBHA_SECRET_<NAME>`, then systemd credential `<name>`, then the file."""

    def __init__(self, policy: SecretPolicy, environment: Mapping[str, str]) -> None:
        self._policy = policy
        self._environment = environment
        self._from_file: dict[str, str] | None = None

    def get(self, name: str) -> Secret:
        """Return the secret. Raises ConfigurationError that says where it was looked for."""
        value = self.find(name)
        if value is None:
            raise ConfigurationError(
                "the secrets",
                [f"{name}: not in ${_variable(name)}, no systemd credential, not in {self._policy.file}"],
            )
        return value

    def find(self, name: str) -> Secret | None:
        """Return the secret, or None where no source has it."""
        if (value := self._environment.get(_variable(name))) is not None:
            return Secret(value)
        directory = self._environment.get("CREDENTIALS_DIRECTORY")
        if directory and (credential := Path(directory) / name).is_file():
            return Secret(credential.read_text(encoding="utf-8").rstrip("\n"))
        if self._from_file is None:
            self._from_file = self._read_file()
        stored = self._from_file.get(name)
        return None if stored is None else Secret(stored)

    def backup_identities(self) -> Secret | None:
        """Return the age identities that open backups: secret `backup_identity`, else secrets.identity_file.

        None where there are none: a controller that only takes backups needs none.
        """
        if (found := self.find("backup_identity")) is not None or self._policy.identity_file is None:
            return found
        return Secret(_read_private(self._policy.identity_file).decode("utf-8", "replace"))

    def _read_file(self) -> dict[str, str]:
        path = self._policy.file
        if path is None:
            return {}
        content = _read_private(path)
        if content.startswith(_VAULT_HEADER):
            content = self._decrypt(path)
        data = yaml.safe_load(content) or {}
        if not isinstance(data, dict):
            raise ConfigurationError(str(path), ["must be a mapping of names to passwords"])
        return {str(key): str(value) for key, value in data.items()}

    def _decrypt(self, path: Path) -> bytes:
        password_file = self._policy.vault_password_file
        if password_file is None:
            raise ConfigurationError(str(path), ["is a vault, but secrets.vault_password_file is not set"])
        done = subprocess.run(
            ["ansible-vault", "view", f"--vault-password-file={password_file}", str(path)],
            capture_output=True, check=False, env={**os.environ, "PAGER": "cat"},
        )  # fmt: skip
        if done.returncode != 0:
            raise ConfigurationError(str(path), [done.stderr.decode(errors="replace").strip()[-300:]])
        return done.stdout


def _read_private(path: Path) -> bytes:
    """Return a file that only its owner reads; a vault may be anybody's."""
    try:
        content = path.read_bytes()
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError as error:
        raise ConfigurationError(str(path), [f"cannot be read: {error.strerror}"]) from error
    if mode & 0o077 and not content.startswith(_VAULT_HEADER):
        raise ConfigurationError(str(path), ["others may read it"], hint=f"chmod 600 {path}")
    return content


def _variable(name: str) -> str:
    return f"DBHA_SECRET_{name.upper()}"
