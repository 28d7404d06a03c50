"""Start or stop a MariaDB server that systemd looks after."""

import subprocess
import time
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: mariadb_unit
short_description: Start or stop a MariaDB server that systemd looks after
description:
  - Returns once the server runs, which is before it has joined its cluster. systemd itself waits for that, and
    so would whoever waits for systemd; a state transfer can take hours.
  - The unit of MariaDB recovers the position of a server that crashed, and starts it there.
options:
  state: {type: str, choices: [started, stopped], required: true, description: What the server shall be.}
  unit: {type: str, default: mariadb.service, description: The unit.}
  error_log: {type: path, required: true, description: Where the server writes its error log.}
  new_cluster: {type: bool, default: false, description: Form a new cluster instead of joining one.}
  settle_s: {type: float, default: 0.5, description: How long a server must run to count as started.}
  start_timeout_s: {type: int, default: 600, description: How long the server may recover before it runs.}
  timeout_s: {type: int, default: 120, description: How long a stop may take.}
  unheard_s: {type: int, default: 10, description: When a server that never joined is killed while it stops.}
author: [dbha]
"""

EXAMPLES = r"""
- name: Start the server
  mariadb_unit:
    state: started
    error_log: /var/log/mysql/error.log
"""

RETURN = r"""
pid: {type: int, returned: when the server runs, description: The server's process id.}
"""

POLL_S = 0.05
STOPPED = ("inactive", "failed")
RUNNING = ("active", "activating", "reloading")
SERVERS = ("mariadbd", "mysqld")
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}


def systemctl(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run systemctl and return how that went."""
    return subprocess.run(
        ["systemctl", *arguments], env=ENVIRONMENT, capture_output=True, text=True, check=False
    )


def properties(unit: str) -> dict[str, str]:
    """Return what systemd says of the unit."""
    lines = systemctl("show", unit, "--property=ActiveState,SubState,Result,MainPID,LoadState").stdout
    return dict(line.split("=", 1) for line in lines.splitlines() if "=" in line)


def server_pid(unit: str) -> int:
    """Return the process id of the unit's server; 0 while it only recovers its position, or does not run."""
    pid = int(properties(unit).get("MainPID") or 0)
    try:
        name = Path(f"/proc/{pid}/comm").read_text(encoding="utf-8").strip()
    except OSError:
        return 0
    return pid if name in SERVERS else 0


def start(module: AnsibleModule) -> dict[str, object]:
    """Start the server unless it runs."""
    parameters = module.params
    unit = parameters["unit"]
    found = properties(unit)
    if found.get("LoadState") != "loaded":
        module.fail_json(msg=f"there is no unit {unit}: {found.get('LoadState', 'systemd does not answer')}")
    if found["ActiveState"] in RUNNING:
        return {"changed": False, "pid": wait_until_it_runs(module, ErrorLog(Path(parameters["error_log"])))}
    if module.check_mode:
        return {"changed": True}
    systemctl("reset-failed", unit)
    log = ErrorLog(Path(parameters["error_log"]))
    # MariaDB's own program tells the unit to form a cluster, once; a cluster of one is soon there.
    done = (
        subprocess.run(
            ["galera_new_cluster", unit], env=ENVIRONMENT, capture_output=True, text=True, check=False
        )
        if parameters["new_cluster"]
        else systemctl("start", "--no-block", unit)
    )
    if done.returncode != 0:
        module.fail_json(msg=f"{done.stderr.strip()}: {log.last_words(unit)}")
    return {"changed": True, "pid": wait_until_it_runs(module, log)}


def wait_until_it_runs(module: AnsibleModule, log: "ErrorLog") -> int:
    """Return the server's process id once it has run for a moment; fails the task when it ends."""
    parameters = module.params
    deadline = time.monotonic() + parameters["start_timeout_s"]
    while not (pid := server_pid(parameters["unit"])):
        fail_unless_it_runs(module, log)
        if time.monotonic() > deadline:
            module.fail_json(msg=f"the server did not start in {parameters['start_timeout_s']} s")
        time.sleep(POLL_S)
    time.sleep(parameters["settle_s"])
    fail_unless_it_runs(module, log)
    return pid


def fail_unless_it_runs(module: AnsibleModule, log: "ErrorLog") -> None:
    """Fail the task when the unit's server has ended, or when systemd starts it again after it did."""
    found = properties(module.params["unit"])
    if found["ActiveState"] not in RUNNING or found.get("SubState") == "auto-restart":
        words = log.last_words(module.params["unit"])
        module.fail_json(msg=f"the server ended at once ({found.get('Result')}): {words}")


class ErrorLog:
    """What the server wrote into its error log since now."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._begin = path.stat().st_size if path.exists() else 0

    def last_words(self, unit: str, lines: int = 5) -> str:
        """Return the server's errors, and without any what systemd said of the unit."""
        said = ""
        if self._path.exists():
            with self._path.open("rb") as log:
                log.seek(self._begin)
                said = log.read().decode(errors="replace")
        if errors := [line for line in said.splitlines() if "ERROR" in line]:
            return " | ".join(errors[-lines:])
        argv = ["journalctl", "--no-pager", "--output=cat", f"--lines={lines}", f"--unit={unit}"]
        done = subprocess.run(argv, env=ENVIRONMENT, capture_output=True, text=True, check=False)
        return " | ".join(done.stdout.strip().splitlines()) or "nothing was said"


def stop(module: AnsibleModule) -> dict[str, object]:
    """Stop the server cleanly; never kill one that has served, for that is a decision.

    One that still looks for its cluster hears no signal (Galera waits for the others without an end), and nobody
    has written to it, so it is killed when it does not end by itself.
    """
    parameters = module.params
    unit = parameters["unit"]
    if (before := properties(unit).get("ActiveState")) in STOPPED:
        return {"changed": False}
    if module.check_mode:
        return {"changed": True}
    systemctl("stop", "--no-block", unit)
    began = time.monotonic()
    while properties(unit)["ActiveState"] not in STOPPED:
        waited_s = time.monotonic() - began
        if before == "activating" and waited_s > parameters["unheard_s"]:
            systemctl("kill", "--signal=KILL", unit)
        if waited_s > parameters["timeout_s"]:
            module.fail_json(msg=f"the server did not stop in {parameters['timeout_s']} s; it still runs")
        time.sleep(POLL_S)
    return {"changed": True}


def main() -> None:
    """Do what the task says."""
    module = AnsibleModule(
        supports_check_mode=True,
        argument_spec={
            "state": {"type": "str", "required": True, "choices": ["started", "stopped"]},
            "unit": {"type": "str", "default": "mariadb.service"},
            "error_log": {"type": "path", "required": True},
            "new_cluster": {"type": "bool", "default": False},
            "settle_s": {"type": "float", "default": 0.5},
            "start_timeout_s": {"type": "int", "default": 600},
            "timeout_s": {"type": "int", "default": 120},
            "unheard_s": {"type": "int", "default": 10},
        },
    )
    module.exit_json(**(start(module) if module.params["state"] == "started" else stop(module)))


if __name__ == "__main__":
    main()
