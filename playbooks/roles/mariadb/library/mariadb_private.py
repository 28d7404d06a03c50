"""Start a server once on its data directory, where nobody reaches it, and stop it again."""

import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: mariadb_private
short_description: Start a server once on its data directory, where nobody reaches it, and stop it again
description:
  - The server is a cluster of one with a name of its own. It begins the history that C(state_uuid) names, at
    C(state_seqno), which makes it durable in the storage engine; that alone makes a node of another history
    unable to join by catching up. It ends one position further, on every node the same.
  - Its binary logs in the data directory are of the history before, and removed. Transactions are numbered on from
    C(gtid_seqno), so that numbers never go down.
  - Repeated after an interruption it does the same again, with the same result.
options:
  datadir: {type: path, required: true, description: The server's data directory. It was stopped cleanly.}
  scratch: {type: path, required: true, description: A directory to work in. It is removed before and after.}
  socket: {type: path, required: true, description: The socket that the server listens on meanwhile.}
  defaults_file: {type: path, required: true, description: The server's configuration.}
  user: {type: str, required: true, description: The account of the operating system that the server runs as.}
  state_uuid: {type: str, required: true, description: The history that begins.}
  state_seqno: {type: int, required: true, description: The position that it begins at.}
  gtid_seqno: {type: int, default: -1, description: The number of the data's last transaction. -1 when it has none.}
  admin_account: {type: str, required: true, description: The administrator's account.}
  admin_password: {type: str, required: true, description: The password that it has from now on.}
  timestamp: {type: int, required: true, description: The time of the change in seconds since 1970.}
  timeout_s: {type: int, default: 300, description: How long the server may take to start, and to stop.}
author: [dbha]
"""

EXAMPLES = r"""
- name: Begin a new history
  mariadb_private:
    datadir: /var/lib/mysql
    scratch: /var/lib/mysql-private
    socket: /run/mysqld/private.sock
    defaults_file: /etc/mysql/my.cnf
    user: mysql
    state_uuid: 679b4dd2-e6fc-11f1-8000-123456789a00
    state_seqno: 73
    admin_account: dbha
    admin_password: "{{ mariadb_admin_password }}"
    timestamp: 1795468000
  no_log: true
"""

RETURN = r"""
seqno: {type: int, returned: always, description: The position of the node now.}
"""

POLL_S = 0.02
MARK = "DBHA_DATADIR"  # as mariadb_process marks its servers, so that one left behind is found
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
STATE = "grastate.dat"


class PrivateError(Exception):
    """The server did not do what it should; the message has its last words, but no argument."""


def server_argv(parameters: dict[str, object]) -> list[str]:
    """Return the command of a server that is a cluster by itself and asks nobody for a password."""
    scratch = parameters["scratch"]
    return [
        "mariadbd", f"--defaults-file={parameters['defaults_file']}", f"--datadir={parameters['datadir']}",
        f"--socket={parameters['socket']}", "--skip-networking", "--skip-grant-tables",
        f"--pid-file={scratch}/pid", f"--log-error={scratch}/error.log",
        "--wsrep-new-cluster", "--wsrep-cluster-address=gcomm://",
        f"--wsrep-cluster-name=private-{parameters['state_uuid']}",
        *([f"--user={parameters['user']}"] if os.geteuid() == 0 else []),
    ]  # fmt: skip


def account_sql(account: str, password: str, timestamp: int) -> str:
    """Return the statements that let the administrator in, whatever the password was; they are not replicated."""
    name, quoted = (text.replace("\\", "\\\\").replace("'", "''") for text in (account, password))
    return (
        f"SET SESSION wsrep_on = OFF, sql_log_bin = 0, timestamp = {timestamp};\nFLUSH PRIVILEGES;\n"
        f"CREATE USER IF NOT EXISTS '{name}'@'%';\nALTER USER '{name}'@'%' IDENTIFIED BY '{quoted}' ACCOUNT UNLOCK;\n"
        f"GRANT ALL PRIVILEGES ON *.* TO '{name}'@'%' WITH GRANT OPTION;\n"
    )


def option_in(arguments: str, name: str, default: str) -> str:
    """Return the value of an option among the arguments of a server."""
    pattern = rf"(?:^|\s)--{name.replace('_', '[-_]')}=(\S+)"
    found = re.findall(pattern, arguments)
    return found[-1] if found else default


def log_base(datadir: Path, arguments: str) -> "Path | None":
    """Return what the names of the binary logs begin with; None when they are not in the data directory."""
    named = option_in(arguments, "log_bin", "")
    base = datadir / named if named else None
    return base if base is not None and base.parent == datadir else None


def begin_logs(datadir: Path, arguments: str, gtid_seqno: int) -> None:
    """Remove the binary logs, which are of another history, and leave the number that their server goes on from.

    A server that has no log takes up what the file `.state` says (MariaDB source, do_binlog_recovery), and a cluster
    that begins on restored data counts on from the number that is there in its own domain.
    """
    base = log_base(datadir, arguments)
    if base is None:
        return
    for log in sorted(datadir.glob(f"{base.name}.*")):
        log.unlink()
    if gtid_seqno < 0:
        return
    domain = option_in(arguments, "wsrep_gtid_domain_id", "0")
    state = base.with_name(f"{base.name}.state")
    state.write_text(f"{domain}-{option_in(arguments, 'server_id', '1')}-{gtid_seqno}\n", encoding="ascii")
    if os.geteuid() == 0:
        owner = datadir.stat()
        os.chown(state, owner.st_uid, owner.st_gid)


def arguments_of(defaults_file: str) -> str:
    """Return the arguments that a server has from its configuration."""
    argv = ["mariadbd", f"--defaults-file={defaults_file}", "--print-defaults"]
    return subprocess.run(argv, capture_output=True, text=True, check=False).stdout


def servers_on(datadir: str) -> list[int]:
    """Return the process ids of servers on `datadir`: those of an attempt that was cut off."""
    found = []
    for entry in os.listdir("/proc"):  # noqa: PTH208 - quicker
        try:
            words = Path(f"/proc/{entry}/cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if entry.isdecimal() and words[0].endswith("mariadbd") and f"--datadir={datadir}" in words:
            found.append(int(entry))
    return found


def end_servers(datadir: str, timeout_s: int) -> None:
    """Stop what still runs on the data directory."""
    deadline = time.monotonic() + timeout_s
    for pid in servers_on(datadir):
        os.kill(pid, signal.SIGTERM)
    while servers_on(datadir):
        if time.monotonic() > deadline:
            raise PrivateError("a server that runs on the data directory does not stop")
        time.sleep(POLL_S)


def write_state(datadir: Path, uuid: str, seqno: int) -> None:
    """Write the position that the server is to begin at."""
    new = datadir / f"{STATE}.new"
    new.write_text(
        f"# GALERA saved state\nversion: 2.1\nuuid:    {uuid}\nseqno:   {seqno}\nsafe_to_bootstrap: 1\n",
        encoding="ascii",
    )
    if os.geteuid() == 0:
        owner = datadir.stat()
        os.chown(new, owner.st_uid, owner.st_gid)
    new.replace(datadir / STATE)
    (datadir / "gvwstate.dat").unlink(missing_ok=True)


def run_once(parameters: dict[str, object]) -> None:
    """Run the server, let the administrator in, and stop it. It is gone when this returns."""
    timeout_s = int(str(parameters["timeout_s"]))
    with subprocess.Popen(
        server_argv(parameters), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env={"PATH": PATH, "LANG": "C.UTF-8", MARK: str(parameters["datadir"])}, cwd="/", start_new_session=True,
    ) as server:  # fmt: skip
        try:
            wait_until_ready(server, str(parameters["socket"]), timeout_s)
            sql = account_sql(
                str(parameters["admin_account"]),
                str(parameters["admin_password"]),
                int(str(parameters["timestamp"])),
            )
            client = ["mariadb", "--no-defaults", f"--socket={parameters['socket']}"]
            done = subprocess.run(client, input=sql.encode(), capture_output=True, check=False)
            if done.returncode != 0:
                raise PrivateError(
                    "the administrator's account cannot be set"
                )  # its words may have the password
            server.send_signal(signal.SIGTERM)
            if server.wait(timeout_s) != 0:
                raise PrivateError(f"the server stopped with {server.returncode}")
        finally:
            server.kill()


def wait_until_ready(server: "subprocess.Popen[bytes]", socket: str, timeout_s: int) -> None:
    """Return when the server takes writes. Raises PrivateError when it ends, or takes too long."""
    query = [
        "mariadb",
        "--no-defaults",
        f"--socket={socket}",
        "-NBe",
        "SHOW GLOBAL STATUS LIKE 'wsrep_ready'",
    ]
    deadline = time.monotonic() + timeout_s
    while True:
        if (
            Path(socket).exists()
            and b"ON" in subprocess.run(query, capture_output=True, check=False).stdout.split()
        ):
            return
        if server.poll() is not None:
            raise PrivateError(f"the server ended at once with {server.returncode}")
        if time.monotonic() > deadline:
            raise PrivateError(f"the server was not ready within {timeout_s} s")
        time.sleep(POLL_S)


def position(datadir: Path, uuid: str) -> int:
    """Return the seqno that the server left. Raises PrivateError when it is not of the new history."""
    text = (datadir / STATE).read_text(encoding="ascii", errors="replace")
    found = re.search(r"^uuid:\s+(\S+)\nseqno:\s+(\d+)$", text, re.MULTILINE)
    if found is None or found[1] != uuid:
        raise PrivateError("the server left no position of the new history behind")
    return int(found[2])


def last_words(log: Path) -> str:
    """Return the last errors of the server."""
    if not log.exists():
        return ""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return " | ".join([line for line in lines if "ERROR" in line][-3:] or lines[-3:])


def main() -> None:
    """Do what the task says."""
    path = {"type": "path", "required": True}
    text = {"type": "str", "required": True}
    integer = {"type": "int", "required": True}
    module = AnsibleModule(
        supports_check_mode=True,
        argument_spec={
            "datadir": path, "scratch": path, "socket": path, "defaults_file": path, "user": text,
            "state_uuid": text, "state_seqno": integer, "timestamp": integer, "admin_account": text,
            "gtid_seqno": {"type": "int", "default": -1},
            "admin_password": {**text, "no_log": True}, "timeout_s": {"type": "int", "default": 300},
        },
    )  # fmt: skip
    parameters = module.params
    datadir, scratch = Path(parameters["datadir"]), Path(parameters["scratch"])
    if module.check_mode:
        module.exit_json(changed=True, seqno=parameters["state_seqno"])
    try:
        end_servers(str(datadir), parameters["timeout_s"])
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(mode=0o700)
        if os.geteuid() == 0:
            shutil.chown(scratch, parameters["user"])
        begin_logs(datadir, arguments_of(parameters["defaults_file"]), parameters["gtid_seqno"])
        write_state(datadir, parameters["state_uuid"], parameters["state_seqno"])
        run_once(parameters)
        seqno = position(datadir, parameters["state_uuid"])
    except (PrivateError, OSError, subprocess.TimeoutExpired) as error:
        module.fail_json(msg=f"{error} {last_words(scratch / 'error.log')}".strip())
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    module.exit_json(changed=True, seqno=seqno)


if __name__ == "__main__":
    main()
