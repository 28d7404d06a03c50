"""Write the certificates of a node."""

import os
import pwd
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: mariadb_tls
short_description: Write the certificates of a node
description:
  - One task for what would be four. The key is the server's alone to read, from its first byte on.
options:
  directory: {type: path, required: true, description: Where they go.}
  user: {type: str, required: true, description: The account of the operating system that the server runs as.}
  ca: {type: str, required: true, description: 'The certificate of the CA, as PEM.'}
  certificate: {type: str, required: true, description: 'The certificate of the node, as PEM.'}
  key: {type: str, required: true, description: 'Its key, as PEM.'}
author: [dbha]
"""

EXAMPLES = r"""
- name: Write the certificates
  mariadb_tls:
    directory: /etc/mysql/tls
    user: mysql
    ca: "{{ mariadb_tls_files[inventory_hostname].ca }}"
    certificate: "{{ mariadb_tls_files[inventory_hostname].certificate }}"
    key: "{{ mariadb_tls_files[inventory_hostname].key }}"
  no_log: true
"""

RETURN = r"""#"""


def write(path: Path, content: str, owner: "pwd.struct_passwd") -> None:
    """Write a file that is there complete or not at all, and only its owner's to read."""
    partial = path.with_name(f".{path.name}.partial")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(content)
        os.fchown(file.fileno(), owner.pw_uid, owner.pw_gid)
    partial.rename(path)


def main() -> None:
    """Do what the task says."""
    text = {"type": "str", "required": True}
    module = AnsibleModule(
        supports_check_mode=True,
        argument_spec={
            "directory": {"type": "path", "required": True}, "user": text, "ca": text, "certificate": text,
            "key": {**text, "no_log": True},
        },
    )  # fmt: skip
    parameters = module.params
    directory, owner = Path(parameters["directory"]), pwd.getpwnam(parameters["user"])
    files = {directory / f"{name}.pem": parameters[name] for name in ("ca", "certificate", "key")}
    changed = [path for path, content in files.items() if not path.exists() or path.read_text() != content]
    if changed and not module.check_mode:
        directory.mkdir(mode=0o755, exist_ok=True)
        for path in changed:
            write(path, files[path], owner)
    module.exit_json(changed=bool(changed))


if __name__ == "__main__":
    main()
