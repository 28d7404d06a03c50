"""The first start of restored data, where it lies. Sent there over stdin, with `node_server` and `host`.

stdin   this source; one line of JSON, the request; then nothing: its end means that the controller is gone, and then
        this program ends itself and all it started.
stdout  lines of JSON: `done` and `tables` while tables are read; last `seqno` and `checksums`, or `problem`.

The server is a cluster of one with a name of its own, on a port of this host that nobody knows. It begins a history
at a position, which makes that durable in the storage engine; it ends one position further, on every node the same.
The server that still runs on the node's own data is not disturbed: nothing of it is shared, neither files nor ports.
Nothing is flushed before the end, and all of it then. Asked again after it was cut off, it does the same again.
Python 3.8 is enough.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dbha.host import boot_id, taken_along
from dbha.node_server import end_servers, first_errors, hand_over

SOCKET = "dbha-begin.sock"  # in the data directory, as the path of a socket must be short
STATE, VIEW, CACHE = "grastate.dat", "gvwstate.dat", "galera.cache"
_START_DEADLINE_S = 600
_STOP_DEADLINE_S = 600
_POLL_S = 0.02
_TOLD_EVERY_S = 0.5
_MOST_CLIENTS = 4
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class BeginError(Exception):
    """The server did not do what it should; the message has its words, but no argument of the client."""


def server_argv(request: dict[str, Any]) -> list[str]:
    """Return the command of the server: the node's own configuration, but for all that two servers cannot share."""
    scratch = request["scratch"]
    return [
        "mariadbd", f"--defaults-file={request['defaults_file']}", f"--datadir={request['datadir']}",
        f"--socket={SOCKET}", f"--pid-file={scratch}/pid", f"--log-error={scratch}/error.log", f"--tmpdir={scratch}",
        "--skip-networking", "--skip-grant-tables", "--skip-slave-start",
        "--wsrep-new-cluster", "--wsrep-cluster-address=gcomm://", "--wsrep-node-address=127.0.0.1",
        f"--wsrep-cluster-name=private-{request['uuid']}",
        "--wsrep-provider-options=base_host=127.0.0.1;gmcast.listen_addr=tcp://127.0.0.1:0;gcache.size=1M;pc.recovery=false",
        f"--innodb-buffer-pool-size={request['pool_bytes']}", "--innodb-flush-method=nosync",
        "--innodb-flush-log-at-trx-commit=2", "--sync-binlog=0", "--performance-schema=OFF",
        "--general-log=OFF", "--slow-query-log=OFF", *request.get("without_logs", []),
        *(["--user=root"] if os.geteuid() == 0 else []),
    ]  # fmt: skip


def client_argv() -> list[str]:
    """Return the command that runs SQL from its stdin and ends with the first statement that fails."""
    return ["mariadb", "--no-defaults", f"--socket={SOCKET}", "-NB", "--default-character-set=utf8mb4"]


def account_sql(account: str, password: str, timestamp: int) -> str:
    """Return the statements that let the administrator in, whatever the password was; they are not replicated."""
    name, quoted = (text.replace("\\", "\\\\").replace("'", "''") for text in (account, password))
    return (
        f"SET SESSION wsrep_on = OFF, sql_log_bin = 0, timestamp = {timestamp};\nFLUSH PRIVILEGES;\n"
        f"CREATE USER IF NOT EXISTS '{name}'@'%';\nALTER USER '{name}'@'%' IDENTIFIED BY '{quoted}' ACCOUNT UNLOCK;\n"
        f"GRANT ALL PRIVILEGES ON *.* TO '{name}'@'%' WITH GRANT OPTION;\n"
    )


def tables_sql(databases: list[str]) -> str:
    """Return the query for the base tables of some databases."""
    names = ", ".join("'" + name.replace("\\", "\\\\").replace("'", "''") + "'" for name in databases)
    return (
        "SELECT JSON_ARRAY(table_schema, table_name) FROM information_schema.tables"
        f" WHERE table_type = 'BASE TABLE' AND table_schema IN ({names or 'NULL'});\n"
    )


def checksum_sql(tables: list[tuple[str, str]]) -> str:
    """Return a statement for each table."""

    def quoted(name: str) -> str:
        return "`" + name.replace("`", "``") + "`"

    return "".join(f"CHECKSUM TABLE {quoted(database)}.{quoted(table)};\n" for database, table in tables)


def shares(tables: dict[tuple[str, str], int], number: int) -> list[list[tuple[str, str]]]:
    """Return the tables, whose sizes are given, in so many lists that are about equally long to read."""
    found: list[tuple[int, list[tuple[str, str]]]] = [(0, []) for _ in range(number)]
    for table, size_bytes in sorted(tables.items(), key=lambda each: (-each[1], each[0])):
        lightest = min(range(number), key=lambda index: found[index][0])
        load, share = found[lightest]
        found[lightest] = (load + size_bytes + 1, [*share, table])
    return [share for _, share in found if share]


def option_in(arguments: str, name: str, default: str) -> str:
    """Return the value of an option among the arguments of a server."""
    found = re.findall(rf"(?:^|\s)--{name.replace('_', '[-_]')}=(\S+)", arguments)
    return str(found[-1]) if found else default


def begin_logs(datadir: Path, arguments: str, last_gtid: int) -> list[str]:
    """Remove the binary logs, which are of another history, and leave the number that their server goes on from.

    A server that has no log takes up what the file `.state` says (MariaDB source, do_binlog_recovery), and a cluster
    that begins on restored data counts on from the number that is there in its own domain. Where logs are kept
    elsewhere they are those of the server that still runs: returned are the options that keep this one away.
    """
    named = option_in(arguments, "log_bin", "")
    base = datadir / named
    if not named or base.parent != datadir:
        return ["--skip-log-bin"]
    for log in sorted(datadir.glob(f"{base.name}.*")):
        log.unlink()
    if last_gtid >= 0:
        domain, server = (
            option_in(arguments, "wsrep_gtid_domain_id", "0"),
            option_in(arguments, "server_id", "1"),
        )
        base.with_name(f"{base.name}.state").write_text(f"{domain}-{server}-{last_gtid}\n", encoding="ascii")
    return []


def arguments_of(defaults_file: str) -> str:
    """Return the arguments that a server has from its configuration."""
    argv = ["mariadbd", f"--defaults-file={defaults_file}", "--print-defaults"]
    return subprocess.run(argv, capture_output=True, text=True, check=False).stdout


def write_state(datadir: Path, uuid: str, seqno: int) -> None:
    """Write the position that the server is to begin at, and that it forms a cluster there."""
    new = datadir / f"{STATE}.new"
    new.write_text(
        f"# GALERA saved state\nversion: 2.1\nuuid:    {uuid}\nseqno:   {seqno}\nsafe_to_bootstrap: 1\n",
        encoding="ascii",
    )
    new.replace(datadir / STATE)
    for name in (VIEW, CACHE):
        with contextlib.suppress(FileNotFoundError):
            (datadir / name).unlink()


def position(datadir: Path, uuid: str) -> int:
    """Return the seqno that the server left. Raises BeginError when it is not of the new history."""
    text = (datadir / STATE).read_text(encoding="ascii", errors="replace")
    found = re.search(r"^uuid:\s+(\S+)\nseqno:\s+(\d+)$", text, re.MULTILINE)
    if found is None or found[1] != uuid:
        raise BeginError("the server left no position of the new history behind")
    return int(found[2])


@contextlib.contextmanager
def running_server(request: dict[str, Any]) -> Iterator[subprocess.Popen[bytes]]:
    """Run the server while the block runs, and stop it cleanly; when the block fails it is killed."""
    with subprocess.Popen(
        [*taken_along(), *server_argv(request)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, cwd="/", env={"PATH": _PATH, "LANG": "C.UTF-8"},
    ) as server:  # fmt: skip
        try:
            wait_until_ready(server, request)
            yield server
            server.send_signal(signal.SIGTERM)
            if server.wait(_STOP_DEADLINE_S) != 0:
                raise BeginError(f"the server stopped with {server.returncode}")
        finally:
            server.kill()


def wait_until_ready(server: subprocess.Popen[bytes], request: dict[str, Any]) -> None:
    """Return when the server takes writes. Raises BeginError when it ends, or takes too long."""
    deadline = time.monotonic() + _START_DEADLINE_S
    socket = Path(request["datadir"], SOCKET)
    while True:
        if socket.exists():
            asked = run_client(request, "SHOW GLOBAL STATUS LIKE 'wsrep_ready'")
            if b"ON" in asked.stdout.split():
                return
        if server.poll() is not None:
            raise BeginError(f"the server ended at once with {server.returncode}")
        if time.monotonic() > deadline:
            raise BeginError(f"the server was not ready within {_START_DEADLINE_S} s")
        time.sleep(_POLL_S)


def run_client(request: dict[str, Any], sql: str) -> subprocess.CompletedProcess[bytes]:
    """Run SQL, and return how that went."""
    return subprocess.run(
        client_argv(), input=sql.encode(), capture_output=True, check=False, cwd=request["datadir"]
    )


def let_in(request: dict[str, Any]) -> None:
    """Let the administrator in by the present password. The client's words may have it, so they are not told."""
    sql = account_sql(request["account"], request["password"], request["timestamp"])
    if run_client(request, sql).returncode != 0:
        raise BeginError("the administrator's account cannot be set")


def sized_tables(request: dict[str, Any]) -> dict[tuple[str, str], int]:
    """Return the tables that are to be read, with the bytes of their files."""
    done = run_client(request, tables_sql(request["databases"]))
    if done.returncode != 0:
        raise BeginError(
            f"the tables cannot be listed: {done.stderr.decode(errors='replace').strip()[-300:]}"
        )
    found = {}
    for line in done.stdout.decode().replace("\\\\", "\\").splitlines():
        database, table = json.loads(line)
        try:
            found[database, table] = Path(request["datadir"], database, f"{table}.ibd").stat().st_size
        except OSError:  # a name that is spelled otherwise on disk
            found[database, table] = 0
    return found


class Reading:
    """The checksums of all tables, which several clients read side by side."""

    def __init__(self, request: dict[str, Any], tables: dict[tuple[str, str], int]) -> None:
        self.checksums: dict[str, int] = {}
        self._request, self._tables = request, tables
        self._problems: list[str] = []
        self._lock = threading.Lock()
        self._told_s = 0.0

    def run(self) -> dict[str, int]:
        """Return the checksums, by `database.table`. Raises BeginError when one cannot be had."""
        number = min(_MOST_CLIENTS, os.cpu_count() or 1)
        workers = [threading.Thread(target=self._read, args=(each,)) for each in shares(self._tables, number)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        if self._problems:
            raise BeginError(self._problems[0])
        if len(self.checksums) != len(self._tables):
            raise BeginError(f"{len(self._tables) - len(self.checksums)} table(s) were not read")
        return self.checksums

    def _read(self, tables: list[tuple[str, str]]) -> None:
        with subprocess.Popen(
            [*taken_along(), *client_argv()], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, cwd=self._request["datadir"],
        ) as client:  # fmt: skip
            assert client.stdin is not None
            assert client.stdout is not None
            assert client.stderr is not None
            with contextlib.suppress(BrokenPipeError):
                client.stdin.write(checksum_sql(tables).encode())
                client.stdin.close()
            for line in client.stdout:
                self._take(*line.decode(errors="replace").rstrip("\n").split("\t"))
            words = client.stderr.read().decode(errors="replace").strip()
        if client.returncode != 0:
            self._problems.append(f"tables cannot be read: {words[-300:]}")

    def _take(self, table: str, checksum: str) -> None:
        with self._lock:
            if checksum == "NULL":
                self._problems.append(f"{table} cannot be read")
                return
            self.checksums[table] = int(checksum)
            if time.monotonic() - self._told_s > _TOLD_EVERY_S:
                self._told_s = time.monotonic()
                say(done=len(self.checksums), tables=len(self._tables))


def finish(datadir: Path) -> None:
    """Remove what only this server needed, and hand the data over."""
    for path in [datadir / SOCKET, datadir / CACHE]:  # the write-set cache also holds the password
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
    hand_over(datadir)


def say(**answer: object) -> None:
    """Tell the controller."""
    sys.stdout.write(f"{json.dumps(answer)}\n")
    sys.stdout.flush()


def begin(request: dict[str, Any]) -> dict[str, object]:
    """Do what the request says, and return position and checksums."""
    datadir, scratch = Path(request["datadir"]), Path(request["scratch"])
    if not end_servers(str(datadir), _STOP_DEADLINE_S):
        raise BeginError("a server that runs on the restored data does not end")
    if boot_id() != request["boot_id"]:
        raise BeginError(
            "the host was restarted since the backup was unpacked there: what is on disk is not certain"
        )
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(mode=0o700)
    try:
        away = begin_logs(datadir, arguments_of(request["defaults_file"]), request["last_gtid"])
        write_state(datadir, request["uuid"], request["seqno"])
        with running_server({**request, "without_logs": away}):
            let_in(request)
            checksums = Reading(request, sized_tables(request)).run()
        seqno = position(datadir, request["uuid"])
    except (BeginError, subprocess.TimeoutExpired) as error:
        raise BeginError(f"{error} {first_errors(scratch / 'error.log')}".strip()) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    finish(datadir)
    return {"seqno": seqno, "checksums": checksums}


def end_with_controller() -> None:
    """Wait for the end of stdin, then end this whole group at once: nobody waits for the result any more."""
    while os.read(0, 4096):
        pass
    os.killpg(0, signal.SIGKILL)


def main() -> int:
    """Answer the request; return the exit status."""
    request = json.loads(sys.stdin.buffer.readline())
    if os.getpgrp() != os.getpid():
        os.setpgid(0, 0)  # so that ending the group never ends anything else
    threading.Thread(target=end_with_controller, daemon=True).start()
    try:
        say(**begin(request))
    except (BeginError, OSError, ValueError, subprocess.SubprocessError) as error:
        say(problem=str(error))
        return 1
    return 0


if __name__ == "__main__":
    status = main()
    # Leave at once: a normal exit would wait for the thread that still reads stdin.
    os._exit(status)
