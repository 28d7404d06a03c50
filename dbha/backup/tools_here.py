"""Whether the tools that a verification needs are on this machine, and of the right series."""

import shutil
import subprocess

from dbha.backup.compression import decompress_argv
from dbha.backup.levels import Level
from dbha.backup.manifest import Manifest
from dbha.backup.tool_files import series_of
from dbha.config.model import Compression
from dbha.errors import UnreachableError, UnsafeError

_TOOLS = {
    Level.PREPARE: ("mariadb-backup", "mbstream"),
    Level.PAGES: ("innochecksum",),
    Level.BOOT: ("mariadbd", "mariadb-admin"),
}
_PACKAGES = {
    "mbstream": "mariadb-backup",
    "age-keygen": "age",
    "innochecksum": "mariadb-server",
    "mariadbd": "mariadb-server",
    "mariadb-admin": "mariadb-client",
}


def tools_for(compression: Compression, *, encrypted: bool) -> tuple[str, ...]:
    """Return the tools that take such a backup on a donor, and those that unpack it."""
    return (
        "mariadb-backup",
        "mbstream",
        *decompress_argv(compression)[:1],
        *(("age", "age-keygen") if encrypted else ()),
    )


def require_tools(manifest: Manifest, level: Level) -> str:
    """Return the version of mariadb-backup here; it, and a server, must be of the series that took the backup."""
    wanted = [tool for of, tools in _TOOLS.items() if level.includes(of) for tool in tools]
    tools = dict.fromkeys(
        (*tools_for(manifest.stream.compression, encrypted=manifest.encryption is not None), *wanted)
    )
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing:
        raise UnreachableError(
            f"{', '.join(missing)} is not installed on this machine",
            hint=f"apt-get install {' '.join(dict.fromkeys(_PACKAGES.get(tool, tool) for tool in missing))}",
        )
    done = subprocess.run(("mariadb-backup", "--version"), capture_output=True, text=True, check=False)
    version = (done.stdout + done.stderr).partition("server ")[2].split(" ")[0]
    if level.includes(Level.BOOT):
        _require_server_of(manifest)
    if series_of(version) != series_of(manifest.tool_version):
        raise UnsafeError(
            f"backup {manifest.id} was taken by mariadb-backup {manifest.tool_version} and cannot be prepared"
            f" by {version or 'an unknown version'}",
            hint=f"install mariadb-backup {series_of(manifest.tool_version)} on this machine, then verify again",
        )
    return version


def _require_server_of(manifest: Manifest) -> None:
    done = subprocess.run(
        ("mariadbd", "--no-defaults", "--version"), capture_output=True, text=True, check=False
    )
    version = done.stdout.partition("Ver ")[2].split(" ")[0]
    if series_of(version) != series_of(manifest.server_version):
        raise UnsafeError(
            f"backup {manifest.id} is of MariaDB {manifest.server_version}, and the server here is of"
            f" {version or 'an unknown version'}",
            hint=f"install mariadb-server {series_of(manifest.server_version)} here, or verify with --level pages",
        )
