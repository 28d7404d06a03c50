"""Run a backup on the donor's host and receive it: argument vectors, the request, the report, and its judgement.

`mariadb-backup | zstd | age` runs on the donor, so what leaves it is compressed, and encrypted where that is asked
for. Behind mariadb-backup sits `node_program`, which sees every member of the stream pass; it knows what a shell
pipeline would not tell.
"""

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import Field

from dbha.backup.manifest import Record
from dbha.backup.node_program import OPTIONS_FD, REPORT_MARK
from dbha.backup.tool_files import INFO_FILES
from dbha.config.model import BackupPolicy
from dbha.database import Account
from dbha.errors import UnreachableError
from dbha.inventory import Node
from dbha.transport import RunningCommand, deadline
from dbha.transport.sent_program import SentProgram

PROGRAM = SentProgram(("dbha.backup.node_program",))
READ_BYTES = 1 << 20
SYSTEM_DATABASE = "mysql"
STALL_LIMIT_S = 600  # how long the stream may stand still before the donor gives up

# What mariadb-backup says, and what that means for an operator.
_CAUSES = (
    ("Access denied for user", "the server refused the account or its password"),
    ("Can't connect to", "the server does not answer"),
    ("erver has gone away", "the server went away during the backup"),
    ("Lost connection to", "the server went away during the backup"),
    ("Connection was killed", "its connection to the server was ended"),
    ("No space left on device", "the donor's disk is full"),
    ("Was only able to copy log", "the redo log was overwritten before it was copied: make it larger"),
    ("Too many open files", "the donor allows too few open files"),
)


class Report(Record):
    """What the program on the node reports at its end."""

    problem: str
    raw_bytes: int
    backup_status: int | None = None
    filters: tuple[tuple[str, int], ...] = ()  # the tools behind mariadb-backup, and how each ended
    completed: bool = False
    last_lines: tuple[str, ...] = ()
    last_member: str = ""
    at_a_border: bool = False
    missing_count: int = 0
    missing: tuple[str, ...] = ()
    kept: dict[str, str] = Field(default_factory=dict)

    def text_of(self, members: Sequence[str]) -> str:
        """Return the content of the first of these members that the stream had, or an empty string."""
        return next((self.kept[name] for name in members if name in self.kept), "")


def backup_argv(
    node: Node,
    user: str,
    policy: BackupPolicy,
    databases: Sequence[str] = (),
    *,
    since_lsn: int | None = None,
) -> tuple[str, ...]:
    """Return the command that writes the stream to its stdout. The option file must be the first argument.

    With `since_lsn` it copies only the pages of InnoDB that were changed since then. With `databases`, these and what
    a server cannot do without: the system's own database, the redo log.
    """
    only = (f"--databases={' '.join((*databases, SYSTEM_DATABASE))}",) if databases else ()
    return (
        "mariadb-backup",
        f"--defaults-extra-file=/dev/fd/{OPTIONS_FD}",
        "--backup",
        "--galera-info",
        "--stream=mbstream",
        f"--parallel={policy.copy_threads}",
        f"--user={user}",
        f"--host={node.address}",
        f"--port={node.port}",
        "--protocol=tcp",
        f"--datadir={node.datadir}",
        *(() if since_lsn is None else (f"--incremental-lsn={since_lsn}",)),
        *only,
    )


def expected_members(tablespaces: Sequence[str], *, incremental: bool) -> list[str]:
    """Return the members of the stream without which it does not hold these tablespaces."""
    suffixes = (".ibd.delta", ".ibd.meta") if incremental else (".ibd",)
    return [f"{stem}{suffix}" for stem in tablespaces for suffix in suffixes]


def options_file(account: Account) -> str:
    """Return the option file that carries the password to mariadb-backup."""
    password = account.password.reveal().replace("\\", "\\\\").replace('"', '\\"')
    return f'[client]\npassword="{password}"\n'


def parse_report(stderr: bytes) -> Report | None:
    """Return the report in the last line of stderr, or None when the program did not live to write it."""
    _, found, line = stderr.rpartition(REPORT_MARK)
    if not found or not line.endswith(b"\n"):
        return None
    try:
        return Report.model_validate(json.loads(line))
    except ValueError:
        return None


def problem_of(report: Report) -> str:
    """Return why the stream is no good backup, in words; empty when every sign is good."""
    if report.backup_status and (cause := _cause(report.last_lines)):
        return cause
    last_words = f": {report.last_lines[-1]}" if report.last_lines else ", and said nothing"
    signs = (
        # When one of them ends, those before it cannot write any more, and end as well: the last one is the cause.
        *((status != 0, f"{tool} {_ended(status)}") for tool, status in reversed(report.filters)),
        (bool(report.problem), report.problem),
        (report.backup_status != 0, f"mariadb-backup {_ended(report.backup_status)}{last_words}"),
        (not report.completed, f"mariadb-backup did not say `completed OK!`{last_words}"),
        (
            report.last_member not in INFO_FILES or not report.at_a_border,
            f"the stream ends in the middle, after {report.last_member or 'nothing'}",
        ),
        (
            report.missing_count > 0,
            f"mariadb-backup left out {report.missing_count} file(s): {', '.join(report.missing)}",
        ),
    )
    return next((words for wrong, words in signs if wrong), "")


def receive(
    command: RunningCommand, request: Mapping[str, Any], sink: Callable[[bytes], None], *, timeout_s: float
) -> tuple[Report | None, int, bytes]:
    """Have a started program do the request, and hand the compressed stream to `sink` as it comes.

    Returns the report (None: the program was cut off), the exit status and the tail of what the tools said.
    Raises UnreachableError when it took too long; what `sink` raises goes through.
    """
    with deadline(command, timeout_s) as timed_out:
        with contextlib.suppress(BrokenPipeError):
            whole = {**request, "stall_limit_s": STALL_LIMIT_S}
            command.write(json.dumps(whole).encode() + b"\n")
        while block := command.read(READ_BYTES):
            sink(block)
        status = command.wait()
    if timed_out.is_set():
        raise UnreachableError(f"the backup took longer than {timeout_s:g} s and was ended")
    stderr = command.stderr_tail()
    return parse_report(stderr), status, stderr


def _cause(lines: Sequence[str]) -> str:
    for line in reversed(lines):
        for sign, meaning in _CAUSES:
            if sign in line:
                return f"{meaning}: {line}"
    return ""


def _ended(status: int | None) -> str:
    if status is not None and status < 0:
        return f"was ended by signal {-status}"
    return f"ended with exit status {status}"
