"""The part of a replay that runs where the data is. Sent there over stdin, with `node_server` and `host`.

stdin   this source; one line of JSON, the request; then SQL; then the line of the request's `token`. SQL that
        ends without that line was cut off: then everything is ended, and what is whole stays.
stdout  lines of JSON: `at`, the GTID position that the data has, before any SQL is taken; `reached`, at the end.
stderr  the words of the tools, without the statements, which hold rows and passwords.

The server is a plain one: no cluster, no network, and a binary log that tells how far the data is. The log does not
survive the replay. Python 3.8 is enough.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

from dbha.host import boot_id, taken_along
from dbha.node_server import end_servers, first_errors, hand_over

LOG = "dbha-replay"  # of the binary logs, and of all that the server leaves beside the data
BORDER = b"/*!*/;\n"  # ends each statement that mariadb-binlog prints
_BLOCK_BYTES = 1 << 20
_START_DEADLINE_S = 600  # after a kill, the engine recovers first
_STOP_DEADLINE_S = 600
_POLL_S = 0.05
_LEAST_FREE_BYTES = 48 << 20  # a server that cannot write its binary log waits for ever
_MOST_BYTES = 1 << 30  # the largest packet a server can be set to take
_POSITION = "SELECT @@GLOBAL.gtid_binlog_pos"


class ReplayError(Exception):
    """Something did not work; the message is fit for an operator."""


class Statements:
    """Lets SQL through up to its last border, and keeps back the rest: half a statement must not be executed.

    A client takes what it has for a whole statement when its input ends.
    """

    def __init__(self, token: bytes) -> None:
        self._end = token + b"\n"
        self._held = bytearray()
        self.complete = False

    def take(self, data: bytes) -> bytes:
        """Return what may be executed now."""
        seen = len(self._held)
        self._held += data
        if self._held.endswith(self._end):
            self.complete = True
            return bytes(self._held[: -len(self._end)])
        border = self._held.rfind(BORDER, max(0, seen - len(BORDER)))
        if border < 0:
            return b""
        cut = border + len(BORDER)
        free, self._held = bytes(self._held[:cut]), self._held[cut:]
        return free


def server_argv(request: dict[str, Any]) -> list[str]:
    """Return the command of the server. What it commits survives its own end, not that of the host."""
    datadir = request["datadir"]
    return [
        "mariadbd", "--no-defaults", f"--datadir={datadir}", f"--socket={LOG}.sock", f"--pid-file={LOG}.pid",
        f"--log-error={datadir}/{LOG}.err", f"--tmpdir={datadir}", "--skip-networking", "--skip-grant-tables",
        "--wsrep-on=OFF", "--skip-slave-start", f"--log-bin={LOG}", "--binlog-format=ROW", "--server-id=1",
        "--log-bin-trust-function-creators", "--innodb-flush-log-at-trx-commit=2", "--sync-binlog=0",
        f"--innodb-buffer-pool-size={request['pool_bytes']}", f"--max-allowed-packet={_MOST_BYTES}",
        *request["layout"], *(["--user=root"] if os.geteuid() == 0 else []),
    ]  # fmt: skip


def client_argv() -> list[str]:
    """Return the command that runs SQL and ends with the first statement that fails."""
    return [
        "mariadb", "--no-defaults", f"--socket={LOG}.sock", "--binary-mode", "-NB",
        f"--max-allowed-packet={_MOST_BYTES}",
    ]  # fmt: skip


@contextlib.contextmanager
def running_server(request: dict[str, Any]) -> Iterator[subprocess.Popen[bytes]]:
    """Run the server while the block runs; when the block fails it is killed."""
    with subprocess.Popen(
        [*taken_along(), *server_argv(request)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, cwd=request["datadir"],
    ) as server:  # fmt: skip
        try:
            yield server
        finally:
            if server.poll() is None:
                server.kill()


def wait_for(server: subprocess.Popen[bytes], request: dict[str, Any]) -> str:
    """Return the position once the server answers."""
    deadline = time.monotonic() + _START_DEADLINE_S
    while True:
        asked = subprocess.run(
            [*client_argv(), "-e", _POSITION], stdin=subprocess.DEVNULL, capture_output=True, check=False,
            cwd=request["datadir"],
        )  # fmt: skip
        if asked.returncode == 0:
            return asked.stdout.decode().strip()
        if server.poll() is not None or time.monotonic() > deadline:
            raise ReplayError(f"the server on the restored data does not start: {errors_of(request)}")
        time.sleep(_POLL_S)


def feed(source: io.BufferedReader, request: dict[str, Any]) -> str:
    """Execute what comes from `source`, and return the position after it."""
    statements = Statements(request["token"].encode())
    with tempfile.TemporaryFile() as words, subprocess.Popen(
        [*taken_along(), *client_argv()], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=words,
        cwd=request["datadir"],
    ) as client:  # fmt: skip
        assert client.stdin is not None
        assert client.stdout is not None
        try:
            # Accounts can be changed from here on; and this connection stays what it is.
            client.stdin.write(b"FLUSH LOCAL PRIVILEGES;\n")
            _pass_on(source, client.stdin, statements, request["datadir"])
            if statements.complete:
                client.stdin.write(f"\n{_POSITION};\n".encode())
                client.stdin.close()
                reached = client.stdout.read().decode().strip()
        except BrokenPipeError:  # a statement failed: the client's words say which
            pass
        finally:
            if not statements.complete:
                _end_unless_failed(client)
            with contextlib.suppress(BrokenPipeError):
                client.stdin.close()
        if client.wait() != 0:
            raise ReplayError(f"mariadb ended with {client.returncode}: {errors_in(words)}")
    return reached


def _pass_on(source: io.BufferedReader, target: IO[bytes], statements: Statements, datadir: str) -> None:
    while not statements.complete:
        if shutil.disk_usage(datadir).free < _LEAST_FREE_BYTES:
            raise ReplayError(f"there is no room left in {datadir}")
        data = source.read1(_BLOCK_BYTES)
        if not data:
            raise ReplayError("the logs ended before their end: nothing more is replayed")
        target.write(statements.take(data))
        target.flush()


def _end_unless_failed(client: subprocess.Popen[bytes]) -> None:
    """End a client that waits for more, before its input ends; one that failed ends by itself."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        client.wait(_POLL_S)
    if client.poll() is None:
        client.kill()


def errors_in(words: IO[bytes]) -> str:
    """Return what the client complained about. It repeats the statement, and with it rows and passwords."""
    words.seek(0)
    lines = words.read().decode("utf-8", "replace").splitlines()
    return "; ".join(line[:400] for line in lines if line.startswith("ERROR ")) or "it said nothing"


def errors_of(request: dict[str, Any]) -> str:
    """Return the first errors of the server."""
    return first_errors(Path(request["datadir"], f"{LOG}.err")) or "it left no log"


def stop(server: subprocess.Popen[bytes], request: dict[str, Any]) -> None:
    """Stop the server cleanly."""
    server.send_signal(signal.SIGTERM)
    try:
        status = server.wait(_STOP_DEADLINE_S)
    except subprocess.TimeoutExpired:
        status = -1
    if status != 0:
        raise ReplayError(f"the server stopped with {status}: {errors_of(request)}")


def finish(request: dict[str, Any], reached: str) -> None:
    """Hand the data over, say so, and remove what only the replay needed."""
    datadir = Path(request["datadir"])
    hand_over(datadir)
    write_durably(Path(request["mark"]), {"boot_id": boot_id(), "reached": reached})
    for path in datadir.glob(f"{LOG}.*"):
        path.unlink()


def write_durably(path: Path, content: dict[str, str]) -> None:
    """Write a file so that it is there, or not, whatever happens."""
    new = path.with_name(f"{path.name}.new")
    with new.open("w", encoding="ascii") as file:
        json.dump(content, file)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


def earlier(request: dict[str, Any]) -> str | None:
    """Return what an earlier attempt reached, if it came to its end; note that this one begins."""
    mark = Path(request["mark"])
    if mark.exists():
        found = json.loads(mark.read_text(encoding="ascii"))
        if "reached" in found:
            return str(found["reached"])
        if found != {"boot_id": boot_id()}:
            raise ReplayError("the host was restarted during the replay: what it had by then is not certain")
    write_durably(mark, {"boot_id": boot_id()})
    return None


def say(**answer: str) -> None:
    """Tell the controller."""
    sys.stdout.write(f"{json.dumps(answer)}\n")
    sys.stdout.flush()


def run(source: io.BufferedReader, request: dict[str, Any]) -> str:
    """Replay, and return the position at the end."""
    if not end_servers(request["datadir"], _STOP_DEADLINE_S):
        raise ReplayError("a server that runs on the data does not end")
    done = earlier(request)
    if done is not None:
        say(at=done, reached=done)
        return done
    with running_server(request) as server:
        say(at=wait_for(server, request))
        reached = feed(source, request)
        stop(server, request)
    finish(request, reached)
    return reached


def main() -> int:
    """Do what the request says; return the exit status."""
    source = cast("io.BufferedReader", sys.stdin.buffer)
    try:
        say(reached=run(source, json.loads(source.readline())))
    except (ReplayError, OSError, ValueError, subprocess.SubprocessError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
