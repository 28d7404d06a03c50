"""The argument vectors for uv, which is a dependency of dbha and so always there in a known version.

Where packages come from stays the operator's business: uv's own configuration and UV_INDEX_* apply.
"""

import json
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import uv

# Settings of the operator's for other projects that would change what gets installed here, or where.
_FORGOTTEN = (
    "CONDA_PREFIX",
    "PYTHONHOME",
    "PYTHONPATH",
    "UV_BUILD_CONSTRAINT",
    "UV_CONSTRAINT",
    "UV_EXCLUDE",
    "UV_EXCLUDE_NEWER",
    "UV_OVERRIDE",
    "UV_PRERELEASE",
    "UV_PYTHON",
    "UV_REQUIRE_HASHES",
    "UV_RESOLUTION",
    "UV_SYSTEM_PYTHON",
    "UV_WORKING_DIRECTORY",
    "VIRTUAL_ENV",
)

_FINDING = threading.Lock()

GIVE_CONSTRAINTS = "give OpenStack's versions for this release: --constraints upper-constraints.txt"
WRONG_CONSTRAINTS = "is the constraints file the one of this release, and does it allow this Python?"


def create_argv(directory: Path) -> tuple[str, ...]:
    """Return how to make an empty environment that may be renamed later, with the Python that runs dbha."""
    return _uv(directory, "venv", "--relocatable", "--no-project", "--python", sys.executable, str(directory))


def install_argv(
    directory: Path, requirements: Sequence[str], *, newest: str = "", constraints: Path | None = None
) -> tuple[str, ...]:
    """Return how to install into the environment, with no package newer than the day `newest`, if given."""
    options = ["--exclude-newer", newest] if newest else []
    options += ["--constraints", str(constraints.absolute())] if constraints else []
    python = str(directory / "bin" / "python")
    return _uv(directory, "pip", "install", "--python", python, *options, *requirements)


def list_argv(directory: Path) -> tuple[str, ...]:
    """Return how to list what is installed, as JSON on standard output."""
    return _uv(directory, "pip", "list", "--format", "json", "--python", str(directory / "bin" / "python"))


def parse_list(output: str) -> dict[str, str]:
    """Return the version of each package in a listing."""
    return {package["name"]: package["version"] for package in json.loads(output)}


def hint_of(output: Sequence[str], *, constrained: bool) -> str:
    """Return what an operator can do about a failed installation, from uv's words."""
    said = "\n".join(output)
    if "No solution found" in said:
        return WRONG_CONSTRAINTS if constrained else GIVE_CONSTRAINTS
    if "UnknownIssuer" in said:
        return "the index has a certificate that this machine knows, and uv does not: export UV_SYSTEM_CERTS=true"
    if "Failed to fetch" in said or "error sending request" in said or "dns error" in said:
        return (
            "no package index was reached: check the network or proxy, or name a mirror in UV_DEFAULT_INDEX"
        )
    return "read uv's words above"


def _uv(directory: Path, *arguments: str) -> tuple[str, ...]:
    unset = [word for name in _FORGOTTEN for word in ("-u", name)]
    settings = ("UV_PYTHON_DOWNLOADS=never", "NO_COLOR=1")
    # The working directory decides which project's uv.toml applies: nobody's.
    options = ("--no-progress", "--directory", str(directory.parent))
    # sysconfig, which this asks, answers None to a thread that comes while another makes it read its variables.
    with _FINDING:
        binary = uv.find_uv_bin()
    return ("env", *unset, *settings, binary, *options, *arguments)
