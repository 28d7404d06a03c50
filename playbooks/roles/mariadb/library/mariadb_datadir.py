"""Lay a seed down as a node's data directory."""

import base64
import os
import pwd
import shutil
import subprocess
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: mariadb_datadir
short_description: Lay a seed down as a node's data directory
description:
  - The directory has a state file when all of it is there, and not before. A run that was interrupted is finished
    by the next one. A directory that holds anything else is refused.
  - Writes the membership that Galera keeps of a crashed cluster. Nodes that name each other as members form the
    Primary component by themselves, without a donor and without a state transfer. A node alone is instead marked
    as the one that may form the cluster.
options:
  seed: {type: str, default: '', description: The seed in base64. It is needed where there is no data yet.}
  datadir: {type: path, required: true, description: The node's data directory. It is empty or not there.}
  user: {type: str, required: true, description: The account of the operating system that the server runs as.}
  identity: {type: str, required: true, description: The UUID of this node.}
  members: {type: list, elements: str, required: true, description: The UUIDs of all nodes.}
author: [dbha]
"""

EXAMPLES = r"""
- name: Lay the seed down
  mariadb_datadir:
    seed: "{{ hostvars.node1.mariadb_seed.seed }}"
    datadir: /var/lib/mysql
    user: mysql
    identity: 679b4dd2-e6fc-11f1-8000-123456789a00
    members: [679b4dd2-e6fc-11f1-8000-123456789a00]
  no_log: true
"""

RETURN = r"""#"""

STATE = "grastate.dat"
VIEW = "gvwstate.dat"
UNFINISHED = ".seed"
NOT_DATA = {UNFINISHED, "lost+found"}


def view_text(identity: str, members: list[str]) -> str:
    """Return the membership of the last Primary component, as Galera writes it (Galera manual, gvwstate.dat)."""
    ordered = sorted(members)  # Galera orders UUIDs by their bytes; the lowest represents the view
    return "".join(
        f"{line}\n"
        for line in (
            f"my_uuid: {identity}",
            "#vwbeg",
            f"view_id: 3 {ordered[0]} 1",
            "bootstrap: 0",
            *(f"member: {member} 0" for member in ordered),
            "#vwend",
        )
    )


def strangers(datadir: Path) -> list[str]:
    """Return what is in the data directory and not of an unfinished seed."""
    unfinished = datadir / UNFINISHED
    if unfinished.exists():
        return []  # its own work: whatever was moved in already is moved in again
    entries = datadir.iterdir() if datadir.exists() else ()
    return sorted(entry.name for entry in entries if entry.name not in NOT_DATA)


def unpack(seed: str, target: Path, identity: str, members: list[str]) -> None:
    """Unpack the seed into `target`, which is empty, and add the membership."""
    subprocess.run(
        ["tar", "--extract", "--file=-", f"--directory={target}", "--use-compress-program=zstd", "--no-same-owner"],
        input=base64.b64decode(seed), capture_output=True, check=True,
    )  # fmt: skip
    for path in target.rglob("*"):
        if path.is_file() and path.stat().st_blocks * 512 < path.stat().st_size:
            fill_holes(path)
    if len(members) > 1:
        (target / VIEW).write_text(view_text(identity, members), encoding="ascii")
    else:  # a node alone restores no membership: there is nobody to hear from
        state = (target / STATE).read_text(encoding="ascii")
        (target / STATE).write_text(state.replace("bootstrap: 0", "bootstrap: 1"), encoding="ascii")


def fill_holes(path: Path) -> None:
    """Reserve the room of a sparse file: a redo log must not find the disk full when it writes over itself."""
    with path.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def group_of(user: str) -> int:
    """Return the group of an account of the operating system."""
    return pwd.getpwnam(user).pw_gid


def lay_down(parameters: dict[str, Any]) -> None:
    """Unpack the seed beside its place and move it in, the state file last."""
    datadir = Path(parameters["datadir"])
    new = datadir / UNFINISHED / "data"
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True, mode=0o700)
    unpack(parameters["seed"], new, parameters["identity"], parameters["members"])
    if os.geteuid() == 0:
        for path in [datadir, new, *new.rglob("*")]:
            shutil.chown(path, parameters["user"], group_of(parameters["user"]))
    for entry in sorted(new.iterdir(), key=lambda each: each.name == STATE):
        shutil.rmtree(datadir / entry.name, ignore_errors=True)
        entry.rename(datadir / entry.name)
    shutil.rmtree(datadir / UNFINISHED)


def main() -> None:
    """Do what the task says."""
    text = {"type": "str", "required": True}
    module = AnsibleModule(
        supports_check_mode=True,
        argument_spec={
            "seed": {"type": "str", "default": "", "no_log": True},
            "datadir": {"type": "path", "required": True},
            "user": text,
            "identity": text,
            "members": {"type": "list", "elements": "str", "required": True},
        },
    )
    datadir = Path(module.params["datadir"])
    if (datadir / STATE).exists():
        module.exit_json(changed=False)
    if found := strangers(datadir):
        module.fail_json(msg=f"{datadir} holds data already: {', '.join(found[:5])}")
    if not module.params["seed"]:
        module.fail_json(msg=f"{datadir} is empty, and the seed was laid down elsewhere and is gone")
    if module.check_mode:
        module.exit_json(changed=True)
    try:
        lay_down(module.params)
    except subprocess.CalledProcessError as error:
        module.fail_json(msg=f"the seed cannot be unpacked: {error.stderr.decode(errors='replace')[-300:]}")
    module.exit_json(changed=True)


if __name__ == "__main__":
    main()
