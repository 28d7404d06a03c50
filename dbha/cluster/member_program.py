"""What a node's host says of its server and data, and the few things that are done to stopped data. Sent there.

stdin   this source; one line of JSON, the request.
stdout  one line of JSON, the answer; `problem` in it is why nothing was done.

Whatever touches the data first makes sure that no server runs on it: a running one keeps writing to files that were
replaced under it. Asked again after it was cut off, each action ends the same. Python 3.8 is enough.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

STATE, VIEW, TIMELINE = "grastate.dat", "gvwstate.dat", "dbha-timeline"
MARKERS = ("sst_in_progress", "wsrep_sst.pid", "rsync_sst.pid", "rsync_sst_complete")
TABLESPACE = "ibdata1"  # where there is none, no server ever finished its first start
NO_UUID = "00000000-0000-0000-0000-000000000000"
POSITION = re.compile(r"WSREP: Recovered position:\s*(\S+)")
CLAIM = "recovering"
_RECOVER_WITHIN_S = 1800  # the storage engine may have much to do after a crash
_GONE_WITHIN_S = 20
_POLL_S = 0.02
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class MemberError(Exception):
    """It was not done; the message says why, and what is there is as it was."""


def words_of(pid: int, name: str = "cmdline") -> list[str]:
    """Return the words of /proc/PID/NAME; none for a process that is gone or somebody else's."""
    try:
        return os.fsdecode(Path(f"/proc/{pid}/{name}").read_bytes()).split("\0")
    except OSError:
        return []


def process_ids() -> Iterator[int]:
    """Yield all process ids there are."""
    yield from (int(entry) for entry in os.listdir("/proc") if entry.isdecimal())  # noqa: PTH208


def servers_on(datadir: str) -> list[int]:
    """Return the servers on a data directory: named on their command line, or their working directory."""

    def is_one(pid: int) -> bool:
        words = words_of(pid)
        if os.path.basename(words[0] if words else "") not in ("mariadbd", "mysqld"):  # noqa: PTH119
            return False
        if f"--datadir={datadir}" in words:
            return True
        with contextlib.suppress(OSError):
            return Path(f"/proc/{pid}/cwd").samefile(datadir)
        return False

    return [pid for pid in process_ids() if is_one(pid)]


def family_of(pids: list[int]) -> list[int]:
    """Return these processes and all below them: a state transfer is made by helpers of the server."""
    children: dict[int, list[int]] = {}
    for pid in process_ids():
        with contextlib.suppress(OSError, IndexError, ValueError):
            stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
            children.setdefault(int(stat.rpartition(")")[2].split()[1]), []).append(pid)
    found = list(pids)
    for pid in found:
        found += children.get(pid, [])
    return found


def read(path: Path) -> str:
    """Return what a file says; nothing where it is missing. What is no text is nonsense, and shown as such."""
    try:
        return path.read_text(encoding="ascii", errors="replace")[:20_000]
    except OSError:
        return ""


def look(request: dict[str, Any]) -> dict[str, object]:
    """Return all that the host knows of its member."""
    datadir = Path(request["datadir"])
    pids = servers_on(str(datadir))
    entries = sorted(os.listdir(datadir)) if datadir.is_dir() else []  # noqa: PTH208
    known = set(entries)
    answer: dict[str, object] = {
        "looked_at": time.time(),
        "has_directory": datadir.is_dir(),
        "has_data": TABLESPACE in known,
        "pids": pids,
        "start_position": start_position(pids),
        "is_transferring": any("wsrep_sst_" in word for pid in family_of(pids) for word in words_of(pid)),
        "is_frozen": any(
            read(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()[:1] == ["T"] for pid in pids
        ),
        "markers": [name for name in MARKERS if name in known],
        "state": read(datadir / STATE),
        "view": read(datadir / VIEW),
        "has_view": VIEW in known,
        "timeline": read(datadir / TIMELINE),
        "claim": read(place_of(datadir) / CLAIM),
        "free_bytes": shutil.disk_usage(datadir).free if datadir.is_dir() else 0,
        "position": "",
        "position_problem": "",
    }
    if not pids and request["recover"] and is_worth_asking(answer):
        answer.update(recover(request))
    return answer


def place_of(datadir: Path) -> Path:
    """Return where dbha keeps what belongs to a data directory, on the same file system."""
    return datadir.with_name(f"{datadir.name}.dbha")


def start_position(pids: list[int]) -> str:
    """Return the position that a running server was started with."""
    option = "--wsrep-start-position="
    found = [
        word[len(option) :]
        for pid in pids
        for word in words_of(pid)
        if word.replace("_", "-").startswith(option)
    ]
    return found[0] if found else ""


def is_worth_asking(answer: dict[str, object]) -> bool:
    """Return whether the data may be what it says it is: half of a transfer must not even be started."""
    uuid = re.search(r"^uuid:\s+([0-9a-f-]{36})$", str(answer["state"]), re.MULTILINE)
    return bool(answer["has_data"] and not answer["markers"] and uuid and uuid[1] != NO_UUID)


def recover(request: dict[str, Any]) -> dict[str, object]:
    """Let the storage engine recover and return the position it reached; it is what the next start does as well."""
    datadir = request["datadir"]
    owner = Path(datadir).stat()
    with tempfile.TemporaryDirectory(prefix="dbha-recover-") as directory:
        log = Path(directory, "recover.log")
        if os.geteuid() == 0:  # the server gives its rights up before it writes
            os.chown(directory, owner.st_uid, owner.st_gid)
        argv = [
            "mariadbd", f"--defaults-file={request['defaults_file']}", f"--datadir={datadir}", "--wsrep-recover",
            f"--log-error={log}", f"--pid-file={directory}/pid", f"--socket={directory}/socket",
            *([f"--user={pwd.getpwuid(owner.st_uid).pw_name}"] if os.geteuid() == 0 else []),
        ]  # fmt: skip
        try:
            done = subprocess.run(
                argv, env={"PATH": _PATH, "LANG": "C.UTF-8"}, stdin=subprocess.DEVNULL,
                capture_output=True, timeout=_RECOVER_WITHIN_S, check=False,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            return {"position_problem": f"mariadbd --wsrep-recover: {error}"}
        text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    found = POSITION.findall(text)
    if done.returncode != 0 or not found:
        words = [line for line in text.splitlines() if "[ERROR]" in line] or text.splitlines()[-2:]
        return {
            "position_problem": f"mariadbd --wsrep-recover: exit {done.returncode}: {' | '.join(words[:2])[:400]}"
        }
    return {"position": found[-1]}


def require_stopped(datadir: Path) -> None:
    """Raise MemberError while a server runs on the data."""
    if pids := servers_on(str(datadir)):
        raise MemberError(f"a server runs on {datadir} (process {pids[0]}): its files must not be touched")


def arm(request: dict[str, Any]) -> dict[str, object]:
    """Say in the member's files that it forms a new cluster, or that it does not; forget the view it was in."""
    datadir = Path(request["datadir"])
    require_stopped(datadir)
    state = read(datadir / STATE)
    flag = f"safe_to_bootstrap: {int(request['forms'])}"
    if re.search(r"^safe_to_bootstrap: \d$", state, re.MULTILINE):
        state = re.sub(r"^safe_to_bootstrap: \d$", flag, state, flags=re.MULTILINE)
    elif request["forms"]:
        raise MemberError(f"{datadir / STATE} has no line safe_to_bootstrap")
    if state != read(datadir / STATE):
        replace(datadir / STATE, state)
    with contextlib.suppress(FileNotFoundError):  # what it said is in the journal
        (datadir / VIEW).unlink()
    return {}


def forget_view(request: dict[str, Any]) -> dict[str, object]:
    """Remove the file of a view that is torn or empty: a server does not start on it (galera issue 354)."""
    datadir = Path(request["datadir"])
    require_stopped(datadir)
    with contextlib.suppress(FileNotFoundError):
        (datadir / VIEW).unlink()
    return {}


def set_aside(request: dict[str, Any]) -> dict[str, object]:
    """Move the data directory aside and leave an empty one, which a member fills by a full transfer."""
    datadir = Path(request["datadir"])
    old = place_of(datadir) / request["run"] / "old"
    require_stopped(datadir)
    if not old.exists() and datadir.is_dir() and os.listdir(datadir):  # noqa: PTH208
        if os.path.ismount(datadir):
            raise MemberError(f"{datadir} is a mount point and cannot be moved aside: empty it by hand")
        old.parent.mkdir(parents=True, mode=0o700, exist_ok=True)
        datadir.rename(old)
    model = old if old.exists() else datadir.parent
    if not datadir.exists():
        owner = model.stat()
        datadir.mkdir(mode=0o700)
        os.chown(datadir, owner.st_uid, owner.st_gid)
    return kept(request)


def kept(request: dict[str, Any]) -> dict[str, object]:
    """Return where a run keeps the data that it moved aside here; nothing where it moved none."""
    old = place_of(Path(request["datadir"])) / request["run"] / "old"
    return {"old": str(old) if old.exists() else ""}


def replace(path: Path, text: str) -> None:
    """Write a file that is the old or the new one whatever happens, with the owner of its directory."""
    new = path.with_name(f".{path.name}.new")
    with new.open("w", encoding="ascii") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    owner = path.parent.stat()
    os.chown(new, owner.st_uid, owner.st_gid)
    new.chmod(0o660)
    new.rename(path)
    directory = os.open(path.parent, os.O_RDONLY)
    os.fsync(directory)
    os.close(directory)


def note_timeline(request: dict[str, Any]) -> dict[str, object]:
    """Write down which timelines the data has come through: a full transfer removes it, as it should."""
    path = Path(request["datadir"], TIMELINE)
    if read(path) != request["timeline"]:
        replace(path, request["timeline"])
    return {}


def end_waiting(request: dict[str, Any]) -> dict[str, object]:
    """Kill a server that waits for other members: it has served nobody, and does not hear a polite request."""
    datadir = request["datadir"]
    deadline = time.monotonic() + _GONE_WITHIN_S
    servers = servers_on(datadir)
    ended = family_of(servers)
    for pid in servers:
        if unit := unit_of(pid):  # asked first, so that systemd does not start it again
            subprocess.run(["systemctl", "stop", "--no-block", unit], capture_output=True, check=False)
    while left := [pid for pid in family_of(servers_on(datadir)) if words_of(pid)]:
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            raise MemberError(f"process {left[0]} was killed and is still there")
        time.sleep(_POLL_S)
    return {"ended": ended}


def unit_of(pid: int) -> str:
    """Return the systemd unit whose main process this is; empty where it has none, whatever it was started below."""
    name = read(Path(f"/proc/{pid}/cgroup")).strip().rpartition("/")[2]
    if not name.endswith(".service"):
        return ""
    argv = ["systemctl", "show", "--property=MainPID", "--value", name]
    with contextlib.suppress(OSError):
        main = subprocess.run(argv, capture_output=True, text=True, check=False).stdout.strip()
        return name if main == str(pid) else ""
    return ""


def progress(request: dict[str, Any]) -> dict[str, object]:
    """Return what grows while a member receives its data: bytes in its directory, bytes that its processes moved."""
    datadir = Path(request["datadir"])
    pids = servers_on(str(datadir))
    moved = 0
    for pid in family_of(pids):
        with contextlib.suppress(OSError, ValueError, IndexError):
            lines = dict(
                line.split(": ") for line in Path(f"/proc/{pid}/io").read_text(encoding="ascii").splitlines()
            )
            moved += int(lines["wchar"])
    size = 0
    for directory, _, names in os.walk(datadir):
        for name in names:
            with contextlib.suppress(OSError):
                size += os.stat(os.path.join(directory, name)).st_blocks * 512  # noqa: PTH116, PTH118
    return {
        "runs": bool(pids),
        "size_bytes": size,
        "moved_bytes": moved,
        "log": "" if pids else last_errors(request),
    }


def last_errors(request: dict[str, Any]) -> str:
    """Return the last words of a server that ended."""
    argv = ["mariadbd", f"--defaults-file={request['defaults_file']}", "--print-defaults"]
    with contextlib.suppress(OSError):
        text = subprocess.run(argv, capture_output=True, text=True, check=False, env={"PATH": _PATH}).stdout
        found = re.findall(r"--log[_-]error=(\S+)", text)
        if found:
            lines = read_tail(Path(request["datadir"], found[-1]))
            return " | ".join(([line for line in lines if "[ERROR]" in line] or lines)[-2:])[:600]
    return ""


def read_tail(path: Path) -> list[str]:
    """Return the last lines of a file."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 20_000))
            return file.read().decode(errors="replace").splitlines()
    except OSError:
        return []


def claim(request: dict[str, Any]) -> dict[str, object]:
    """Say on this host that a run recovers the cluster; refuse when another one says so already."""
    path = place_of(Path(request["datadir"])) / CLAIM
    path.parent.mkdir(mode=0o700, exist_ok=True)
    own = path.with_name(f".{CLAIM}.{os.getpid()}")
    own.write_text(request["claim"], encoding="ascii")
    with contextlib.suppress(FileExistsError):  # with its content or not at all
        os.link(own, path)
    own.unlink()
    found = read(path)
    return {} if found == request["claim"] else {"taken_by": found}


def unclaim(request: dict[str, Any]) -> dict[str, object]:
    """Take the claim of this run back; leave that of another one."""
    path = place_of(Path(request["datadir"])) / CLAIM
    if read(path) == request["claim"]:
        path.unlink()
    with contextlib.suppress(OSError):  # it holds old data
        path.parent.rmdir()
    return {}


ACTIONS = {
    "look": look, "arm": arm, "forget_view": forget_view, "set_aside": set_aside, "kept": kept,
    "note_timeline": note_timeline, "end_waiting": end_waiting, "progress": progress, "claim": claim,
    "unclaim": unclaim,
}  # fmt: skip


def main() -> int:
    """Answer the request; return the exit status."""
    request = json.loads(sys.stdin.buffer.readline())
    os.environ["PATH"] = _PATH
    try:
        answer = ACTIONS[request["action"]](request)
    except (MemberError, OSError, ValueError, KeyError) as error:
        answer = {"problem": str(error)}
    sys.stdout.write(f"{json.dumps(answer)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
