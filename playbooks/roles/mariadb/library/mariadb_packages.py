"""See that the packages of a MariaDB node are installed, without a server being started or data being made."""

import contextlib
import os
import subprocess
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: mariadb_packages
short_description: See that the packages of a MariaDB node are installed, without a server or data coming with them
description:
  - Debian's package makes a data directory and starts a server on it. Where the data directory is still empty,
    both are kept from happening, so that the node stays one that a cluster can be made of.
  - Package lists are only fetched anew when what is known of the packages does not do.
options:
  names: {type: list, elements: str, required: true, description: The packages.}
  install: {type: bool, required: true, description: Whether missing ones are installed, or the task fails.}
  datadir: {type: path, required: true, description: The node's data directory.}
author: [dbha]
"""

EXAMPLES = r"""
- name: See that the packages are installed
  mariadb_packages:
    names: [mariadb-server, mariadb-backup, galera-4]
    install: true
    datadir: /var/lib/mysql
"""

RETURN = r"""
installed: {type: list, elements: str, returned: always, description: The packages that were missing.}
"""

POLICY = Path("/usr/sbin/policy-rc.d")
DENY = "#!/bin/sh\n# Written while dbha installs packages: no service is started.\nexit 101\n"
NOT_DATA = {"lost+found"}
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
    "DEBIAN_FRONTEND": "noninteractive",
}


def missing(names: list[str]) -> list[str]:
    """Return the packages that are not wholly installed."""
    argv = ["dpkg-query", "--show", "--showformat=${Package} ${db:Status-Abbrev}\\n", *names]
    said = subprocess.run(argv, env=ENVIRONMENT, capture_output=True, text=True, check=False).stdout
    there = {line.split()[0] for line in said.splitlines() if line.split()[1:2] == ["ii"]}
    return [name for name in names if name not in there]


def install(module: AnsibleModule, names: list[str]) -> None:
    """Install packages from what is known of them; when that fails, fetch the lists and try once more."""
    # What an installation that was cut off left is finished first; apt refuses to do anything else before.
    subprocess.run(["dpkg", "--configure", "-a"], env=ENVIRONMENT, capture_output=True, check=False)
    argv = [
        "apt-get",
        "install",
        "-y",
        "-qq",
        "--no-install-recommends",
        "-o",
        "DPkg::Lock::Timeout=120",
        *names,
    ]
    for attempt in ("with the lists there are", "with new lists"):
        done = subprocess.run(argv, env=ENVIRONMENT, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return
        if attempt == "with new lists":
            module.fail_json(msg=f"apt-get install: {(done.stderr or done.stdout).strip()[-800:]}")
        subprocess.run(["apt-get", "update", "-qq"], env=ENVIRONMENT, capture_output=True, check=False)


class NoData:
    """Keeps the package from making a data directory, and removes what it uses for that, and nothing else.

    `mariadb-install-db` does nothing where there is a table of accounts, and so an empty file of that name is one.
    What is removed can only be that: an empty file, and directories with nothing in them. So a run that was cut
    off can be repeated, and data that somebody made meanwhile stays.
    """

    def __init__(self, datadir: Path) -> None:
        self._datadir = datadir
        self._mark = datadir / "mysql" / "user.frm"
        entries = {entry.name for entry in datadir.iterdir()} if datadir.is_dir() else set()
        self._is_wanted = not entries - NOT_DATA or self.is_there

    @property
    def is_there(self) -> bool:
        """Whether its file is there: now it is ours, or an installation was cut off."""
        return self._mark.exists() and self._mark.stat().st_size == 0

    def __enter__(self) -> None:
        if self._is_wanted:
            self._mark.parent.mkdir(parents=True, exist_ok=True)
            self._mark.touch()

    def __exit__(self, *_: object) -> None:
        if self._is_wanted and self.is_there:
            for flag in self._datadir.glob("debian-*.flag"):
                flag.unlink()
            self._mark.unlink()
            with contextlib.suppress(OSError):
                self._mark.parent.rmdir()


class NoStart:
    """Keeps services from being started while packages are installed; an operator's own policy stays as it is."""

    def __init__(self) -> None:
        self.is_there = POLICY.exists() and POLICY.read_text(encoding="utf-8") == DENY
        self._is_ours = self.is_there or not POLICY.exists()

    def __enter__(self) -> None:
        if self._is_ours:
            POLICY.write_text(DENY, encoding="utf-8")
            POLICY.chmod(0o755)

    def __exit__(self, *_: object) -> None:
        if self._is_ours:
            POLICY.unlink()


def main() -> None:
    """Do what the task says."""
    argument_spec: dict[str, Any] = {
        "names": {"type": "list", "elements": "str", "required": True},
        "install": {"type": "bool", "required": True},
        "datadir": {"type": "path", "required": True},
    }
    module = AnsibleModule(supports_check_mode=True, argument_spec=argument_spec)
    wanted = missing(module.params["names"])
    no_data, no_start = NoData(Path(module.params["datadir"])), NoStart()
    if not wanted and not (no_data.is_there or no_start.is_there):
        module.exit_json(changed=False, installed=[])
    if wanted and not module.params["install"]:
        words = f"not installed: {', '.join(wanted)}; install them, or set mariadb_install_packages: true"
        module.fail_json(msg=words)
    if os.geteuid() != 0:
        module.fail_json(msg="packages can only be installed as root")
    if module.check_mode:
        module.exit_json(changed=True, installed=wanted)
    with no_data, no_start:
        if wanted:
            install(module, wanted)
    module.exit_json(changed=True, installed=wanted)


if __name__ == "__main__":
    main()
