"""Add to a unit of systemd, have systemd read it, and have the unit started with the host."""

import os
import subprocess
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: mariadb_unit_file
short_description: Add to a unit of systemd, have systemd read it, and have the unit started with the host
description:
  - One task for what would be three, each of which takes its time on every host.
options:
  unit: {type: str, required: true, description: The unit.}
  content: {type: str, required: true, description: What is added to it.}
author: [dbha]
"""

EXAMPLES = r"""
- name: Let a state transfer take its time
  mariadb_unit_file:
    unit: mariadb.service
    content: |
      [Service]
      TimeoutStartSec=infinity
"""

RETURN = r"""#"""

SYSTEM = Path("/etc/systemd/system")
NAME = "dbha.conf"


def systemctl(module: AnsibleModule, *arguments: str) -> None:
    """Run systemctl; fail the task with what it said."""
    done = subprocess.run(["systemctl", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        module.fail_json(msg=f"systemctl {' '.join(arguments)}: {done.stderr.strip()}")


def is_enabled(unit: str) -> bool:
    """Return whether the unit starts with the host."""
    done = subprocess.run(["systemctl", "is-enabled", unit], capture_output=True, text=True, check=False)
    return done.stdout.strip() == "enabled"


def write(path: Path, content: str) -> None:
    """Write a file that is there complete or not at all."""
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(content, encoding="utf-8")
    partial.chmod(0o644)
    os.replace(partial, path)  # noqa: PTH105 - says that it overwrites


def main() -> None:
    """Do what the task says."""
    text = {"type": "str", "required": True}
    module = AnsibleModule(supports_check_mode=True, argument_spec={"unit": text, "content": text})
    unit, content = module.params["unit"], module.params["content"].rstrip("\n") + "\n"
    path = SYSTEM / f"{unit}.d" / NAME
    is_written = path.exists() and path.read_text(encoding="utf-8") == content
    starts = is_enabled(unit)
    if (is_written and starts) or module.check_mode:
        module.exit_json(changed=not (is_written and starts))
    if not is_written:
        write(path, content)
        systemctl(module, "daemon-reload")
    if not starts:
        systemctl(module, "enable", unit)
    module.exit_json(changed=True)


if __name__ == "__main__":
    main()
