"""Keys of encrypted backups, and configurations of a cloud that use them."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from dbha.backup.encryption import Identities
from dbha.secrets import Secret
from tests.real.cloud import Cloud


def new_identity() -> Identities:
    return Identities(Secret(identity_text()))


def identity_text() -> str:
    return subprocess.run(["age-keygen"], capture_output=True, text=True, check=True).stdout


def configured(
    cloud: Cloud, name: str, *, identity: str = "", recipients: Sequence[str] = (), **backup: Any
) -> Path:
    """Return the cloud's configuration with another policy for backups, and its identity in a file."""
    data = yaml.safe_load((cloud.directory / "dbha.yml").read_text())
    data["backup"] |= backup
    if recipients:
        data["backup"]["encryption"] = {"recipients": list(recipients)}
    if identity:
        key = cloud.directory / f"{name}.key"
        key.write_text(identity)
        key.chmod(0o600)
        data["secrets"] = {**(data.get("secrets") or {}), "identity_file": str(key)}
    path = cloud.directory / f"{name}.yml"
    path.write_text(yaml.safe_dump(data))
    return path


def require_nowhere(secret: str, *directories: Path) -> None:
    """Require that no file below the directories has this in it."""
    for directory in directories:
        for root, _, files in os.walk(directory):
            for name in files:
                assert secret.encode() not in Path(root, name).read_bytes(), Path(root, name)
