"""The disks that hosts are made of: a Debian that boots, and the same with the database's packages.

Built once and kept in `$DBHA_LAB_CACHE`, else `$XDG_CACHE_HOME/dbha/lab`: `base` is the Debian, with the packages of
the database downloaded but not installed; `database` is the layer above it in which they are installed. A host is a
layer above one or both. Nothing ever writes to them again.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.hosts.cgroups import ControlGroup
from tests.hosts.ground import NoLabError, run, tried

SUITE = "bookworm"
BUILD_TIMEOUT_S = 900.0  # of one of its commands
_MIRROR_TIMEOUT_S = 20.0
SYSTEM = (
    "systemd", "systemd-sysv", "dbus", "openssh-server", "python3", "iproute2", "ca-certificates", "procps",
)  # fmt: skip
DATABASE = (
    "mariadb-server", "mariadb-backup", "galera-4", "socat", "zstd", "lz4", "age", "rsync", "openssl",
)  # fmt: skip
_DENY_START = "#!/bin/sh\nexit 101\n"
_RECIPE = "8"  # counted up when what is done below changes
# A network file that sorts before Debian's own, which asks for an address and waits.
_PREPARE = """
set -e
systemctl enable systemd-networkd ssh >/dev/null 2>&1
systemctl mask systemd-networkd-wait-online.service apt-daily.timer apt-daily-upgrade.timer \\
    systemd-network-generator.service >/dev/null 2>&1
rm -f /etc/machine-id /etc/ssh/ssh_host_*
touch /etc/machine-id
install -d -m 700 /root/.ssh
printf 'PasswordAuthentication no\\nUseDNS no\\nMaxStartups 100\\n' > /etc/ssh/sshd_config.d/lab.conf
"""


@dataclass(frozen=True)
class Image:
    """A finished image in the cache."""

    directory: Path

    def layers(self, *, database: bool) -> str:
        """Return the lower layers of a host's disk, the uppermost first."""
        names = ("database", "base") if database else ("base",)
        return ":".join(str(self.directory / name) for name in names)


def mirror() -> str:
    """Return where Debian's packages come from: where this machine has its own from, if nothing is named."""
    if named := os.environ.get("DBHA_LAB_MIRROR"):
        return named.rstrip("/")
    said = run("apt-get", "indextargets", "--format", "$(REPO_URI)", "Identifier: Packages").decode()
    found = [line.rstrip("/") for line in said.splitlines() if line.rstrip("/").endswith("/debian")]
    if not found:
        raise NoLabError("no mirror of Debian is known to apt here, and none is named by $DBHA_LAB_MIRROR")
    return found[0]


def cache_directory() -> Path:
    """Return where images are kept."""
    if named := os.environ.get("DBHA_LAB_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dbha/lab"


def image_name() -> str:
    """Return the name of the image, which is another one when anything about it changes."""
    words = " ".join((_RECIPE, *SYSTEM, *DATABASE, _PREPARE))
    return f"{SUITE}-{hashlib.sha256(words.encode()).hexdigest()[:10]}"


def ready_image() -> Image:
    """Return the image, built when it is not there; others who want it meanwhile wait.

    Raises NoLabError when it cannot be built, which is mostly because no mirror is reachable.
    """
    cache = cache_directory()
    cache.mkdir(parents=True, exist_ok=True, mode=0o755)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        image = cache / image_name()
        if not image.exists():
            remove_unfinished(cache)
            _require_mirror()
            _build(cache / f"{image.name}.{os.getpid()}.unfinished", image)
        return Image(image)


def remove_unfinished(cache: Path) -> None:
    """Remove what a builder that died left, also what it left running; call it with the lock."""
    for left in cache.glob("*.unfinished"):
        _group(left).remove()
        for mounted in ("base/proc", "base/sys", "base/dev", "root"):
            while tried("umount", str(left / mounted)):
                pass
        shutil.rmtree(left)


def _require_mirror() -> None:
    """Raise NoLabError at once where no mirror answers: the tools would try for minutes."""
    try:
        with urllib.request.urlopen(f"{mirror()}/dists/{SUITE}/Release", timeout=_MIRROR_TIMEOUT_S) as answer:
            answer.read(1)
    except OSError as error:
        raise NoLabError(f"no package mirror is reachable: {mirror()}: {error}") from error


def _build(place: Path, image: Path) -> None:
    base, layer, root = place / "base", place / "database", place / "root"
    for directory in (base, layer, place / "work", root):
        directory.mkdir(parents=True)
    try:
        included = f"--include={','.join(SYSTEM)}"
        _run_in_group(place, "debootstrap", "--variant=minbase", included, SUITE, str(base), mirror())
        (base / "etc/apt/sources.list").write_text(_sources())
        _run_inside(place, base, "bash", "-c", _PREPARE)
        _run_inside(place, base, "apt-get", "update", "-qq")
        _run_inside(place, base, *_apt("--download-only"))
        with _mounted(place), _start_denied(root):
            _run_inside(place, root, *_apt())
            # Else it would start on the empty directory with the host, and leave files there.
            _run_inside(place, root, "systemctl", "disable", "mariadb")
            _empty(root / "var/lib/mysql")
        shutil.rmtree(place / "work")
        root.rmdir()
    except (NoLabError, OSError) as error:
        with contextlib.suppress(OSError):
            remove_unfinished(place.parent)
        raise NoLabError(f"no image of Debian {SUITE} can be made from {mirror()}: {error}") from error
    place.rename(image)


def _sources() -> str:
    security = f"{mirror().removesuffix('/debian')}/debian-security"
    return (
        f"deb {mirror()} {SUITE} main\ndeb {mirror()} {SUITE}-updates main\n"
        f"deb {security} {SUITE}-security main\n"
    )


def _apt(*options: str) -> tuple[str, ...]:
    keep = "APT::Keep-Downloaded-Packages=true"  # hosts without the layer install from these
    return ("apt-get", "install", "-y", "-qq", "--no-install-recommends", "-o", keep, *options, *DATABASE)


def _group(place: Path) -> ControlGroup:
    """Return the group of all that works on an image, so that nothing of it is left."""
    return ControlGroup(f"dbha-image-{place.name.split('.')[-2]}")


def _run_in_group(place: Path, *argv: str) -> None:
    group = _group(place)
    group.make()
    try:
        run(*group.entering(list(argv)), timeout_s=BUILD_TIMEOUT_S)
    finally:
        group.remove()


def _run_inside(place: Path, root: Path, *argv: str) -> None:
    """Run a command in a tree as in a host that has this machine's network."""
    _run_in_group(
        place,
        "systemd-nspawn", "--quiet", "-D", str(root), "--register=no", "--keep-unit", "--pipe", "--as-pid2",
        "--resolv-conf=copy-host", f"--machine=dbha-image-{os.getpid()}",
        "--setenv=DEBIAN_FRONTEND=noninteractive", *argv,
    )  # fmt: skip


@contextmanager
def _mounted(place: Path) -> Iterator[None]:
    root = place / "root"
    layers = f"lowerdir={place}/base,upperdir={place}/database,workdir={place}/work"
    run("mount", "-t", "overlay", "-o", layers, "dbha-lab", str(root))
    try:
        yield
    finally:
        run("umount", str(root))


@contextmanager
def _start_denied(root: Path) -> Iterator[None]:
    policy = root / "usr/sbin/policy-rc.d"
    policy.write_text(_DENY_START)
    policy.chmod(0o755)
    try:
        yield
    finally:
        policy.unlink()


def _empty(directory: Path) -> None:
    for entry in directory.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()
