"""Replay archived logs on one node: `mariadb-binlog | sed | mariadb`, every exit status and the end known."""

import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from dbha.backup.binlog.gtid import Gtid, latest, parse_gtids
from dbha.backup.binlog.replay_plan import ReplayPlan, Segment, cut_after
from dbha.backup.binlog.replayed import require_replayed
from dbha.backup.children import start
from dbha.backup.logical import client_options
from dbha.cluster.handle import Cluster
from dbha.errors import DbhaError, UnsafeError
from dbha.inventory import Node

_POLL_S = 0.2
_LAST_WORDS_BYTES = 400
_MOST_BYTES = 1 << 30  # the largest packet a server can be set to take

# Only the very lines that the tool prints are touched. A node of a cluster refuses to be another server: ERROR 1231.
# And a number set as `gtid_seq_no` does not move the cluster's own counter: what is written later would get it again.
_DROP = r"/^\/\*M\{0,1\}![0-9]* SET @@session\.server_id=[0-9]*\*\/\/\*!\*\/;$/d"
_RESET = r"/^\/\*M\{0,1\}![0-9]* SET @@SESSION\.SERVER_ID=@@GLOBAL\.SERVER_ID \*\/;$/d"
_COUNT = r"s/^\(\/\*M\{0,1\}![0-9]* SET @@session\.\)\(gtid_seq_no=[0-9]*\*\/\/\*!\*\/;\)$/\1wsrep_\2/"


class ReplayError(DbhaError):
    """A replay broke off; asked again, it goes on where it was."""

    exit_code = 8
    unchanged = "the archive is as it was, and every transaction on the node is there as a whole"


def replay(
    cluster: Cluster,
    node: Node,
    plan: ReplayPlan,
    *,
    on_bytes: Callable[[int, int], None],
    guard: Callable[[], None] = lambda: None,
) -> Gtid:
    """Bring a node from the backup of the plan to the plan's last transaction, and return its position then.

    The node has to serve in a Primary component whose data is that backup, alone or with others: what is replayed
    is replicated (`wsrep_on` stays ON) and keeps its numbers, so the counter of the cluster goes on after them.
    Nobody else may have written to the cluster since it was restored, not even the lease: the numbers would be
    others. Asked again after it was cut off anywhere, it goes on after the last transaction that the node has,
    once it has seen that all of them are replayed ones. `on_bytes` gets the bytes of logs done and all; `guard`
    raises when this must not go on.

    Raises UnsafeError, before anything is changed, when the node has something else than the backup; ReplayError
    when it broke off, or when the node's position at the end is not what was meant.
    """
    before = position_of(cluster, node, plan)
    has = (
        before or plan.start
    )  # a server that has written nothing yet since it was restored names no position
    if not plan.start.sequence <= has.sequence <= plan.until.sequence:
        raise UnsafeError(
            f"{node} is at {has}, which is not between {plan.start}, the end of backup {plan.backup_id},"
            f" and {plan.until}",
            hint="dbha status",
        )
    if has.sequence > plan.start.sequence:
        require_replayed(cluster, node, plan, has)
    left = [cut for each in plan.segments if (cut := cut_after(each, has.sequence, plan.local_domains))]
    if not left:
        return has
    failures = _run(cluster, node, left, plan, on_bytes, guard)
    reached = position_of(cluster, node, plan)
    if failures or reached is None or reached.sequence != plan.until.sequence:
        why = f": {'; '.join(failures)}" if failures else ""
        raise ReplayError(
            f"{node} is at {reached or has} after the replay instead of {plan.until}{why}",
            hint="the same command again goes on after that transaction",
        )
    return reached


def position_of(cluster: Cluster, node: Node, plan: ReplayPlan) -> Gtid | None:
    """Return the last transaction of the cluster that is in the node's binary log."""
    with cluster.session(node) as session:
        row = session.rows("SELECT @@GLOBAL.gtid_binlog_pos AS position, @@GLOBAL.gtid_domain_id AS local")[0]
    return latest(parse_gtids(str(row["position"])), {*plan.local_domains, int(row["local"])})


def read_argv(segment: Segment, local_domains: frozenset[int]) -> tuple[str, ...]:
    """Return the command that prints a segment as SQL. Positions in bytes say exactly which transactions."""
    ignored = ",".join(map(str, sorted(local_domains)))
    return (
        "mariadb-binlog",
        "--no-defaults",
        f"--start-position={segment.begin}",
        f"--stop-position={segment.end}",
        *((f"--ignore-domain-ids={ignored}",) if ignored else ()),
        str(segment.part.path.absolute()),
    )


def filter_argv() -> tuple[str, ...]:
    """Return the command that turns what the tool prints into what a node of a cluster takes."""
    return ("sed", "--expression", _DROP, "--expression", _RESET, "--expression", _COUNT)


def client_argv(options: str) -> tuple[str, ...]:
    """Return the command that runs SQL on the node and ends with the first statement that fails."""
    return ("mariadb", options, "--binary-mode", f"--max-allowed-packet={_MOST_BYTES}")


def _run(
    cluster: Cluster,
    node: Node,
    segments: Sequence[Segment],
    plan: ReplayPlan,
    on_bytes: Callable[[int, int], None],
    guard: Callable[[], None],
) -> list[str]:
    """Feed the segments to one client, one after the other, and return which tools failed, in words."""
    total = plan.size_bytes
    done = total - sum(segment.size_bytes for segment in segments)
    failures: list[str] = []
    with _client(cluster, node, failures) as target, tempfile.TemporaryFile() as words:
        for segment in segments:
            guard()
            argv = read_argv(segment, plan.local_domains)
            with _started(argv, stdout=target, stderr=words) as reader:
                while not _ended(reader):
                    guard()
                    on_bytes(done + _read_so_far(reader.pid, segment), total)
            if reader.returncode:
                failures.append(_words_of("mariadb-binlog", reader, words))
                break
            done += segment.size_bytes
            on_bytes(done, total)
    return failures


@contextmanager
def _client(cluster: Cluster, node: Node, failures: list[str]) -> Iterator[IO[bytes]]:
    """Yield where SQL for the node is to be written; at the end put what failed before other failures."""
    with (
        client_options(cluster, node) as (option, descriptor),
        tempfile.TemporaryFile() as words,
        tempfile.TemporaryFile() as sed_words,
        _started(filter_argv(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=sed_words) as sed,
        _started(
            client_argv(option), stdin=sed.stdout, stdout=subprocess.DEVNULL, stderr=words,
            pass_fds=(descriptor,),
        ) as client,
    ):  # fmt: skip
        assert sed.stdin is not None
        assert sed.stdout is not None
        sed.stdout.close()  # so that sed notices when the client ends early
        yield sed.stdin
        sed.stdin.close()
        if sed.wait():
            failures.insert(0, _words_of("sed", sed, sed_words))
        if client.wait():
            failures.insert(0, _words_of("mariadb", client, words, only="ERROR "))


@contextmanager
def _started(argv: Sequence[str], **streams: Any) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a tool while the block runs. It has no home: options in ~/.my.cnf would outrank ours."""
    environment = {"PATH": os.environ.get("PATH", os.defpath), "HOME": "/nonexistent", "LC_ALL": "C"}
    process = start(argv, env=environment, **streams)
    try:
        yield process
    finally:  # whatever ends the block, also a signal
        if process.poll() is None:
            process.kill()
        process.wait()


def _ended(process: "subprocess.Popen[bytes]") -> bool:
    try:
        process.wait(_POLL_S)
    except subprocess.TimeoutExpired:
        return False
    return True


def _words_of(name: str, process: "subprocess.Popen[bytes]", words: IO[bytes], only: str = "") -> str:
    """Return how a tool ended and its last words: lines that begin with `only`.

    The client repeats the statement that failed, and with it the rows and passwords that are in it.
    """
    words.seek(0)
    lines = words.read().decode("utf-8", "replace").splitlines()
    said = "\n".join(line for line in lines if line.startswith(only)).strip()[-_LAST_WORDS_BYTES:]
    how = f"signal {-process.returncode}" if process.returncode < 0 else f"exit status {process.returncode}"
    return f"{name} ended with {how}{': ' if said else ''}{said}"


def _read_so_far(pid: int, segment: Segment) -> int:
    """Return how much of its segment a tool has read, by its file position; 0 while it has not opened the log."""
    wanted = segment.part.path.resolve()
    with suppress(OSError):  # it ended just now
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            if entry.resolve() == wanted:
                told = Path(f"/proc/{pid}/fdinfo/{entry.name}").read_text(encoding="ascii")
                position = int(told.partition("pos:")[2].split(maxsplit=1)[0])
                return max(0, min(position, segment.end) - segment.begin)
    return 0
