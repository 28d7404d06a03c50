"""Start or stop a MariaDB server that no service manager looks after."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: mariadb_process
short_description: Start or stop a MariaDB server that no service manager looks after
description:
  - The server is known by its data directory, so a process id that was given away again is never mistaken for it.
  - After a crash the server starts at the position that its storage engine recovered. Without it Galera
    would copy the whole data directory anew.
options:
  state: {type: str, choices: [started, stopped], required: true, description: What the server shall be.}
  defaults_file: {type: path, required: true, description: The server's configuration.}
  datadir: {type: path, required: true, description: The server's data directory.}
  pid_file: {type: path, required: true, description: Where the server writes its process id.}
  error_log: {type: path, required: true, description: Where the server writes its error log.}
  user: {type: str, required: true, description: The account of the operating system that the server runs as.}
  new_cluster: {type: bool, default: false, description: Form a new cluster instead of joining one.}
  settle_s: {type: float, default: 0.5, description: How long a server must run to count as started.}
  timeout_s: {type: int, default: 120, description: How long a stop may take.}
author: [dbha]
"""

EXAMPLES = r"""
- name: Start the server
  mariadb_process:
    state: started
    defaults_file: /etc/mysql/my.cnf
    datadir: /var/lib/mysql
    pid_file: /run/mysqld/mariadb.pid
    error_log: /var/log/mysql/error.log
    user: mysql
"""

RETURN = r"""
pid: {type: int, returned: when the server runs, description: The server's process id.}
orphans: {type: list, elements: int, returned: always, description: Helpers of a dead server that were ended.}
position: {type: str, returned: when one was recovered, description: The position the server started at.}
"""

MARK = "DBHA_DATADIR"  # in the environment of the server, and so of every helper it starts
POLL_S = 0.02
ORPHAN_GRACE_S = 3.0
POSITION = re.compile(r"WSREP: Recovered position:\s*([0-9a-f-]{36}:-?\d+\S*)")
STATE = re.compile(r"^(uuid|seqno):\s*(\S+)", re.MULTILINE)
NO_UUID = "00000000-0000-0000-0000-000000000000"


def read_proc(pid: int, name: str) -> tuple[str, ...]:
    """Return the words of /proc/PID/NAME; none when the process is gone or not ours to look at."""
    try:
        return tuple(Path(f"/proc/{pid}/{name}").read_bytes().decode(errors="replace").split("\0"))
    except OSError:
        return ()


def process_ids() -> list[int]:
    """Return all process ids there are."""
    return [int(entry) for entry in os.listdir("/proc") if entry.isdecimal()]  # noqa: PTH208 - quicker


def is_server(arguments: tuple[str, ...], datadir: str) -> bool:
    """Return whether a command line is that of a server on `datadir`."""
    name = os.path.basename(arguments[0]) if arguments else ""  # noqa: PTH119 - not a path of ours
    return name in ("mariadbd", "mysqld") and f"--datadir={datadir}" in arguments


def find_server(datadir: str) -> int | None:
    """Return the process id of the server on `datadir`, or None."""
    return next((pid for pid in process_ids() if is_server(read_proc(pid, "cmdline"), datadir)), None)


def find_orphans(datadir: str) -> list[int]:
    """Return the processes that a dead server on `datadir` left: donors and joiners hold ports and files."""
    return [pid for pid in process_ids() if f"{MARK}={datadir}" in read_proc(pid, "environ")]


def end_orphans(datadir: str) -> list[int]:
    """End what `find_orphans` finds, kindly first, and return it."""
    ended = find_orphans(datadir)
    for number in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + ORPHAN_GRACE_S
        for pid in find_orphans(datadir):
            send(pid, number)
        while find_orphans(datadir) and time.monotonic() < deadline:
            time.sleep(POLL_S)
    return ended


def send(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process that may just have ended."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def needs_recovery(datadir: Path) -> bool:
    """Return whether the server crashed on a whole data directory, so that its position must be recovered.

    Half of a state transfer reports the donor's position as its own, so its marks forbid to believe it.
    """
    if (datadir / "sst_in_progress").exists() or not (datadir / "grastate.dat").exists():
        return False
    state = dict(STATE.findall((datadir / "grastate.dat").read_text(encoding="utf-8", errors="replace")))
    return state.get("seqno") == "-1" and state.get("uuid", NO_UUID) != NO_UUID


def server_argv(parameters: dict[str, object]) -> list[str]:
    """Return the beginning of every command line of the server."""
    argv = [
        "mariadbd",
        f"--defaults-file={parameters['defaults_file']}",
        f"--datadir={parameters['datadir']}",
    ]
    return argv + ([f"--user={parameters['user']}"] if os.geteuid() == 0 else [])


def server_environment(datadir: str) -> dict[str, str]:
    """Return the server's whole environment: nothing of the caller's, which may hold passwords."""
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return {"PATH": path, "LANG": "C.UTF-8", MARK: datadir}


def recover_position(module: AnsibleModule) -> str | None:
    """Let the storage engine recover and return the position it reached, or None when it has none.

    Fails the task when the server does not say: a start without the position would throw the data away.
    """
    parameters = module.params
    with tempfile.TemporaryDirectory(prefix="mariadb-recover-") as directory:
        log = Path(directory, "recover.log")  # with a suffix, else the server appends one
        if os.geteuid() == 0:  # the server gives its rights up before it writes
            shutil.chown(directory, parameters["user"])
        argv = [
            *server_argv(parameters),
            "--wsrep-recover",
            f"--log-error={log}",
            f"--pid-file={directory}/pid",
        ]
        environment = server_environment(parameters["datadir"])
        done = subprocess.run(
            argv, env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=False
        )
        text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    found = POSITION.findall(text)
    if done.returncode != 0 or not found:
        module.fail_json(msg=f"the position cannot be recovered: {' | '.join(text.splitlines()[-3:])}")
    return None if found[-1].startswith(NO_UUID) else str(found[-1])


def launch(module: AnsibleModule, extra: list[str]) -> int:
    """Start the server in a session of its own and return its process id, unless it ends at once.

    That it runs does not mean that it has joined: it may wait for other nodes, or copy data for hours.
    """
    parameters = module.params
    with open(parameters["error_log"], "ab") as log:  # noqa: PTH123 - what it says before it opens its own log
        server = subprocess.Popen(
            [*server_argv(parameters), *extra],
            env=server_environment(parameters["datadir"]), cwd="/", stdin=subprocess.DEVNULL,
            stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    Path(parameters["pid_file"]).write_text(
        f"{server.pid}\n", encoding="ascii"
    )  # it does so itself much later
    with contextlib.suppress(subprocess.TimeoutExpired):
        status = server.wait(parameters["settle_s"])
        module.fail_json(msg=f"the server ended at once with {status}: {last_errors(parameters)}")
    return server.pid


def last_errors(parameters: dict[str, object], lines: int = 5) -> str:
    """Return the last errors of the server's log, or its last lines when it has none."""
    try:
        log = Path(str(parameters["error_log"])).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        return f"no error log ({error.strerror})"
    errors = [line for line in log[-200:] if "ERROR" in line]
    return " | ".join((errors or log)[-lines:])


def start(module: AnsibleModule) -> dict[str, object]:
    """Start the server unless it runs."""
    parameters = module.params
    if (pid := find_server(parameters["datadir"])) is not None:
        return {"changed": False, "pid": pid, "orphans": []}
    if module.check_mode:
        return {"changed": True, "orphans": find_orphans(parameters["datadir"])}
    orphans = end_orphans(parameters["datadir"])
    position = recover_position(module) if needs_recovery(Path(parameters["datadir"])) else None
    extra = [f"--wsrep-start-position={position}"] if position else []
    extra += ["--wsrep-new-cluster"] if parameters["new_cluster"] else []
    pid = launch(module, extra)
    return {"changed": True, "pid": pid, "orphans": orphans, **({"position": position} if position else {})}


def stop(module: AnsibleModule) -> dict[str, object]:
    """Stop the server cleanly; never kill it, for that is a decision."""
    parameters = module.params
    pid = find_server(parameters["datadir"])
    if module.check_mode:
        orphans = find_orphans(parameters["datadir"])
        return {"changed": bool(pid or orphans), "orphans": orphans}
    if pid is not None:
        send(pid, signal.SIGTERM)
        deadline = time.monotonic() + parameters["timeout_s"]
        while find_server(parameters["datadir"]) == pid:
            if time.monotonic() > deadline:
                module.fail_json(msg=f"the server did not stop in {parameters['timeout_s']} s; it still runs")
            time.sleep(POLL_S)
    orphans = end_orphans(parameters["datadir"])
    return {"changed": bool(pid or orphans), "orphans": orphans}


def main() -> None:
    """Do what the task says."""
    path = {"type": "path", "required": True}
    module = AnsibleModule(
        supports_check_mode=True,
        argument_spec={
            "state": {"type": "str", "required": True, "choices": ["started", "stopped"]},
            "defaults_file": path,
            "datadir": path,
            "pid_file": path,
            "error_log": path,
            "user": {"type": "str", "required": True},
            "new_cluster": {"type": "bool", "default": False},
            "settle_s": {"type": "float", "default": 0.5},
            "timeout_s": {"type": "int", "default": 120},
        },
    )
    module.exit_json(**(start(module) if module.params["state"] == "started" else stop(module)))


if __name__ == "__main__":
    main()
