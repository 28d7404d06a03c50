"""Runs where native commands are to run: python3 -c THIS MARKER TOOL. Each command is a fork that becomes the tool.

A request on standard input is a line of JSON, {"arguments": [...], "stdin_bytes": N}, and N bytes. When one is taken
up `MARKER began` is said, when it is done `MARKER ended EXIT-STATUS`, each on a line of its own; what is between is
the tool's. What it reads on its standard input lies in memory and is readable from its start through /dev/stdin, as
often as it opens that: nova-manage of 2026.2 reads its configuration twice.

The tool's own modules are imported once, before the first request: of most commands that is nearly all the work.
This has to run under whatever Python the tool has, 3.8 or newer.
"""

import atexit
import gc
import importlib
import json
import os
import re
import runpy
import shutil
import sys
from os import fork, waitpid  # before a tool's modules replace them (eventlet does)
from pathlib import Path

NOT_FOUND = 127
ENTRY_POINT = re.compile(r"^from ([\w.]+) import \w+$", re.MULTILINE)  # of a script that pip, uv or pbr wrote


def main() -> None:
    """Answer requests until standard input ends."""
    marker, tool = sys.argv[1:3]
    os.dup2(1, 2)  # the tools talk on stderr; in one stream their lines arrive in order
    path = shutil.which(tool)
    is_loaded = path is not None and load(Path(path))
    gc.freeze()
    requests = os.fdopen(os.dup(0), "rb")
    while line := requests.readline():
        request = json.loads(line)
        content = requests.read(request["stdin_bytes"])
        os.write(1, f"{marker} began\n".encode())
        child = fork()
        if child == 0:
            requests.close()
            become(path or tool, request["arguments"], content, is_loaded)
            return
        status = waitpid(child, 0)[1]
        code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)
        os.write(1, f"\n{marker} ended {code}\n".encode())


def load(path: Path) -> bool:
    """Import what the tool's script imports; return whether the tool can run in this very interpreter."""
    script = path.read_text(encoding="utf-8", errors="replace")
    interpreter = Path((script[2:].split() or [""])[0])
    here = Path(sys.executable).absolute().parent
    entry_point = ENTRY_POINT.search(script)
    is_ours = path.absolute().parent == here and (
        interpreter.parent == here or interpreter.name in ("env", "sh")
    )
    if not script.startswith("#!") or not is_ours or entry_point is None:
        return False
    sys.argv = [str(path)]
    sys.path.insert(0, str(path.parent))  # as if the script had been started
    try:
        importlib.import_module(entry_point.group(1))
    except Exception:  # noqa: BLE001 - the tool, started by itself, meets it again and tells
        return False
    return True


def become(path: str, arguments: "list[str]", content: bytes, is_loaded: bool) -> None:
    """Be the tool, with its own way to end."""
    memory = os.memfd_create("stdin")
    os.write(memory, content)
    os.lseek(memory, 0, os.SEEK_SET)
    os.dup2(memory, 0)
    sys.argv = [path, *arguments]
    if is_loaded:
        sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
        os._exit(run(path))
    try:
        os.execv(path, sys.argv)  # noqa: S606 - the tool is what dbha's own data names
    except OSError as error:
        os.write(2, f"{path}: {error.strerror}\n".encode())
        sys.exit(NOT_FOUND)


def run(path: str) -> int:
    """Run the tool's script in this interpreter and return its exit status, as the interpreter would end with it.

    Ending the interpreter itself would take apart, and so copy, all the memory that the fork shares: about a second.
    """
    status = 0
    try:
        runpy.run_path(path, run_name="__main__")
    except SystemExit as end:
        if isinstance(end.code, str):
            sys.stderr.write(f"{end.code}\n")
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001 - as the interpreter does
        sys.excepthook(*sys.exc_info())
        status = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return status & 0xFF


if __name__ == "__main__":
    main()
