"""One Python environment for each release, in a directory of its name below a root.

A directory is an environment if its marker is there; `install` writes that last. The marker holds what was asked
for, what was installed, and the heads that the installed code answered.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dbha.errors import UnreachableError
from dbha.releases.catalogue import RELEASES
from dbha.releases.release import Release
from dbha.releases.runner import Runner, environment_runner

MARKER = "environment.json"
_SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Wanted:
    """What decides an environment's contents; one installed for something else is built anew."""

    requirements: tuple[str, ...]
    resolved_as_of: str = ""  # empty with a constraints file
    constraints_sha256: str = ""  # empty without one

    def satisfies(self, other: "Wanted") -> bool:
        """Tell whether what was built for this will do for `other`, which may not care about constraints."""
        return self == other or (bool(self.constraints_sha256) and not other.constraints_sha256)


@dataclass(frozen=True, slots=True)
class Environment:
    """An installed release."""

    release: str
    directory: Path
    wanted: Wanted
    installed: str  # when, ISO 8601 in UTC
    python: str
    packages: Mapping[str, str]
    heads: Mapping[str, tuple[str, ...]]  # by database

    @property
    def runner(self) -> Runner:
        """Where the release's native commands run."""
        return environment_runner(self.release, self.directory)


def default_root(environment: Mapping[str, str]) -> Path:
    """Return the directory all of a user's clusters share: `$XDG_CACHE_HOME/dbha/releases`."""
    cache = environment.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "dbha" / "releases"


def load(release: Release, root: Path) -> Environment | None:
    """Return the installed environment of a release, or None; one that is damaged, or whose Python is gone, does
    not count."""
    directory = (root / release.name).absolute()
    try:
        marker = json.loads((directory / MARKER).read_bytes())
        if marker["schema"] != _SCHEMA or not (directory / "bin" / "python").exists():
            return None
        return _environment(release, directory, marker)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _environment(release: Release, directory: Path, marker: Mapping[str, Any]) -> Environment:
    wanted = Wanted(**{**marker["wanted"], "requirements": tuple(marker["wanted"]["requirements"])})
    return Environment(
        release=release.name,
        directory=directory,
        wanted=wanted,
        installed=marker["installed"],
        python=marker["python"],
        packages=marker["packages"],
        heads={name: tuple(revisions) for name, revisions in marker["heads"].items()},
    )


def require(release: Release, root: Path) -> Environment:
    """Return the installed environment of a release. Raises UnreachableError, saying what to type, for none."""
    environment = load(release, root)
    if environment is None:
        message = f"release {release.name} is not installed in {root}"
        raise UnreachableError(message, hint=f"dbha release install {release.name}")
    return environment


def list_environments(root: Path) -> tuple[Environment, ...]:
    """Return the installed environments, oldest release first."""
    found = (load(release, root) for release in RELEASES)
    return tuple(environment for environment in found if environment)


def write_marker(environment: Environment) -> None:
    """Make the environment's directory one that `load` accepts, when the rest of it is on disk."""
    content = {"schema": _SCHEMA, **asdict(environment)}
    del content["directory"]  # it is renamed later
    # A marker that outlives a power cut must not vouch for packages that did not. One sync of everything is
    # quicker here than fsync on some twenty thousand files.
    os.sync()
    with (environment.directory / MARKER).open("x", encoding="utf-8") as file:
        json.dump(content, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    sync_directory(environment.directory)


def sync_directory(directory: Path) -> None:
    """Put the names in a directory on disk."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
