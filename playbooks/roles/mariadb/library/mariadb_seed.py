"""Make the data directory that every node of a new cluster starts from, as an archive."""

import base64
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: mariadb_seed
short_description: Make the data directory that every node of a new cluster starts from, as an archive
description:
  - Installs a data directory, starts it once as a cluster of one that nobody reaches, makes the administrator's
    account, stops it cleanly and packs it. Nodes that unpack the same seed have the same state, so they
    form a cluster without copying data.
  - As long as the archive is there, it is the seed. A run that was interrupted hands the same one out again.
options:
  archive: {type: path, required: true, description: The archive to write, of mode 0600.}
  datadir: {type: path, required: true, description: This node's data directory. When it has a state nothing is done.}
  scratch: {type: path, required: true, description: A directory to work in. It is removed before and after.}
  socket: {type: path, required: true, description: The socket that the server listens on meanwhile.}
  defaults_file: {type: path, required: true, description: The server's configuration.}
  user: {type: str, required: true, description: The account of the operating system that the server runs as.}
  admin_account: {type: str, required: true, description: The administrator's account.}
  admin_password: {type: str, required: true, description: Its password.}
  timeout_s: {type: int, default: 60, description: How long the server may take to start.}
author: [dbha]
"""

EXAMPLES = r"""
- name: Make the seed
  mariadb_seed:
    archive: /var/lib/seed.tar.zst
    datadir: /var/lib/mysql
    scratch: /var/lib/seed
    socket: /run/mysqld/seed.sock
    defaults_file: /etc/mysql/my.cnf
    user: mysql
    admin_account: dbha
    admin_password: "{{ mariadb_admin_password }}"
  no_log: true
"""

RETURN = r"""
seed: {type: str, returned: changed, description: The archive in base64. It has the password's hash in it.}
"""

POLL_S = 0.02
MARK = "DBHA_DATADIR"  # as mariadb_process marks its servers, so that one left behind is found
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# Each node has its own of these, or makes it. The write-set cache also holds the administrator's password.
NOT_SEED = re.compile(r"galera\.cache|gvwstate\.dat|grastate\.dat|binlog\..*|ib_buffer_pool")


class SeedError(Exception):
    """A step failed; the message names it and has the tool's last words, but no argument."""


def install_argv(defaults_file: str, datadir: str, user: str) -> list[str]:
    """Return the command that makes an empty data directory; root enters by the unix socket only."""
    return [
        "mariadb-install-db", f"--defaults-file={defaults_file}", f"--datadir={datadir}", "--skip-test-db",
        "--auth-root-authentication-method=socket", f"--auth-root-socket-user={user}",
        "--force",  # also on a host that cannot look its own name up: no account has a host's name
        *([f"--user={user}"] if os.geteuid() == 0 else []),
    ]  # fmt: skip


def server_argv(defaults_file: str, datadir: str, socket: str, scratch: str, user: str) -> list[str]:
    """Return the command of a server that is a cluster by itself and listens on nothing but its socket."""
    return [
        "mariadbd", f"--defaults-file={defaults_file}", f"--datadir={datadir}", f"--socket={socket}",
        "--skip-networking", f"--pid-file={scratch}/pid", f"--log-error={scratch}/error.log",
        "--wsrep-cluster-address=gcomm://", "--wsrep-new-cluster",
        *([f"--user={user}"] if os.geteuid() == 0 else []),
    ]  # fmt: skip


def account_sql(account: str, password: str) -> str:
    """Return the statements that make the administrator's account, and no anonymous one."""
    name, quoted = (text.replace("\\", "\\\\").replace("'", "''") for text in (account, password))
    return (
        "DELETE FROM mysql.global_priv WHERE User = '';\nFLUSH PRIVILEGES;\n"
        f"CREATE USER '{name}'@'%' IDENTIFIED BY '{quoted}';\n"
        f"GRANT ALL PRIVILEGES ON *.* TO '{name}'@'%' WITH GRANT OPTION;\n"
        "CREATE DATABASE dbha CHARACTER SET utf8mb4;\n"
    )


def client_argv(socket: str, user: str) -> list[str]:
    """Return the client's command; who enters by the socket is an account of the operating system."""
    account = "root" if os.geteuid() == 0 else user
    return ["mariadb", "--no-defaults", f"--socket={socket}", f"--user={account}"]


def run(argv: list[str], step: str, stdin: str = "") -> None:
    """Run a command to its end. Raises SeedError with its last words."""
    done = subprocess.run(
        argv, input=stdin.encode(), capture_output=True, check=False, env={"PATH": PATH, "LANG": "C.UTF-8"}
    )
    if done.returncode != 0:
        words = (done.stderr or done.stdout).decode(errors="replace").strip()[-500:]
        raise SeedError(f"{step} ended with {done.returncode}: {words}")


def wait_until_ready(server: "subprocess.Popen[bytes]", socket: str, user: str, timeout_s: int) -> None:
    """Return when the server takes writes. Raises SeedError when it ends, or takes too long."""
    argv = [*client_argv(socket, user), "-NBe"]
    deadline = time.monotonic() + timeout_s
    while True:
        if Path(socket).exists():
            query = [*argv, "SHOW GLOBAL STATUS LIKE 'wsrep_ready'"]
            if b"ON" in subprocess.run(query, capture_output=True, check=False).stdout.split():
                return
        if server.poll() is not None:
            raise SeedError(f"the seed's server ended at once with {server.returncode}")
        if time.monotonic() > deadline:
            raise SeedError(f"the seed's server did not start in {timeout_s} s")
        time.sleep(POLL_S)


def fill(parameters: dict[str, object], datadir: Path, scratch: Path) -> None:
    """Run the server once on `datadir` and make the account. The server is gone when this returns."""
    user, socket = str(parameters["user"]), str(parameters["socket"])
    argv = server_argv(str(parameters["defaults_file"]), str(datadir), socket, str(scratch), user)
    with subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env={"PATH": PATH, "LANG": "C.UTF-8", MARK: str(parameters["datadir"])}, cwd="/", start_new_session=True,
    ) as server:  # fmt: skip
        try:
            wait_until_ready(server, socket, user, int(str(parameters["timeout_s"])))
            sql = account_sql(str(parameters["admin_account"]), str(parameters["admin_password"]))
            run(client_argv(socket, user), "the client", sql)
            server.send_signal(signal.SIGTERM)
            if server.wait(int(str(parameters["timeout_s"]))) != 0:
                raise SeedError(f"the seed's server stopped with {server.returncode}")
        finally:
            server.kill()


def unbootstrapped(grastate: str) -> str:
    """Return the state file with no node marked to be started first. Raises SeedError for an unclean stop."""
    if not re.search(r"^seqno:\s+\d+$", grastate, re.MULTILINE):
        raise SeedError("the seed's server left no position behind")
    return re.sub(r"^safe_to_bootstrap: 1$", "safe_to_bootstrap: 0", grastate, flags=re.MULTILINE)


def pack(datadir: Path, archive: Path) -> None:
    """Write the seed to `archive`, which appears complete or not at all; the state file comes last."""
    state = datadir / "grastate.dat"
    state.write_text(unbootstrapped(state.read_text(encoding="utf-8")), encoding="utf-8")
    for big in (
        "ib_logfile0",
        "ibdata1",
    ):  # nearly all zeros; where holes cannot be dug they are packed as such
        subprocess.run(["fallocate", "--dig-holes", str(datadir / big)], capture_output=True, check=False)
    names = sorted(entry.name for entry in datadir.iterdir() if not NOT_SEED.fullmatch(entry.name))
    partial = archive.with_name(archive.name + ".partial")
    partial.touch(mode=0o600)
    run(
        ["tar", "--create", f"--file={partial}", f"--directory={datadir}", "--numeric-owner",
         "--sparse",
         "--use-compress-program=zstd -1", *names, "grastate.dat"], "tar"
    )  # fmt: skip
    partial.rename(archive)


def make_seed(parameters: dict[str, object]) -> None:
    """Make the seed in the scratch directory and pack it."""
    scratch = Path(str(parameters["scratch"]))
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(mode=0o700)
    datadir, user = scratch / "data", str(parameters["user"])
    try:
        if os.geteuid() == 0:
            shutil.chown(scratch, user)
        run(install_argv(str(parameters["defaults_file"]), str(datadir), user), "mariadb-install-db")
        fill(parameters, datadir, scratch)
        pack(datadir, Path(str(parameters["archive"])))
    except SeedError as error:
        raise SeedError(f"{error} {last_words(scratch / 'error.log')}".strip()) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)  # its write-set cache holds the password


def last_words(log: Path) -> str:
    """Return the last errors of the seed's server."""
    if not log.exists():
        return ""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return " | ".join([line for line in lines if "ERROR" in line][-3:] or lines[-3:])


def main() -> None:
    """Do what the task says."""
    path = {"type": "path", "required": True}
    text = {"type": "str", "required": True}
    module = AnsibleModule(
        supports_check_mode=True,
        argument_spec={
            "archive": path, "datadir": path, "scratch": path, "socket": path, "defaults_file": path,
            "user": text, "admin_account": text, "admin_password": {**text, "no_log": True},
            "timeout_s": {"type": "int", "default": 60},
        },
    )  # fmt: skip
    archive = Path(module.params["archive"])
    if Path(module.params["datadir"], "grastate.dat").exists() and not archive.exists():
        module.exit_json(changed=False)
    if module.check_mode:
        module.exit_json(changed=True)
    try:
        if not archive.exists():
            make_seed(module.params)
    except (SeedError, OSError, subprocess.TimeoutExpired) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=True, seed=base64.b64encode(archive.read_bytes()).decode())


if __name__ == "__main__":
    main()
