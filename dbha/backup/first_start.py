"""Have a server started once on restored data, where it lies: what is asked, and what is answered."""

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from dbha.cluster.saved_state import SavedState
from dbha.database import Account
from dbha.errors import DbhaError
from dbha.transport import RunningCommand, Transport, deadline
from dbha.transport.sent_program import SentProgram

PROGRAM = SentProgram(("dbha.host", "dbha.node_server", "dbha.backup.begin_program"))

OnTables = Callable[[int, int], None]  # tables read, tables in all


class FirstStartError(DbhaError):
    """The server did not start on the data, or did not end as it should."""


@dataclass(frozen=True, slots=True)
class FirstStart:
    """What every node is asked: the position a history begins at, who is let in, and which tables are read."""

    beginning: SavedState
    account: Account
    began: datetime
    databases: tuple[str, ...]
    last_gtid: int | None  # the number of the data's last transaction, from which GTIDs are counted on

    def request(self, place: str, pool_bytes: int) -> dict[str, Any]:
        """Return what the program is asked for the directory `new` of a place. It has the password in it."""
        return {
            "datadir": f"{place}/new",
            "scratch": f"{place}/begin",
            "boot_id": "",
            "uuid": self.beginning.uuid,
            "seqno": self.beginning.seqno,
            "account": self.account.user,
            "password": self.account.password.reveal(),
            "timestamp": int(self.began.timestamp()),
            "databases": self.databases,
            "last_gtid": -1 if self.last_gtid is None else self.last_gtid,
            "pool_bytes": pool_bytes,
        }


@dataclass(frozen=True, slots=True)
class Begun:
    """Where a node stands in the new history, and the checksum of each of its tables there."""

    seqno: int
    checksums: dict[str, int]


class Counted:
    """The tables that all nodes have read, told as one number; called from several threads."""

    def __init__(self, on_tables: OnTables) -> None:
        self._on_tables = on_tables
        self._nodes: dict[str, tuple[int, int]] = {}
        self._lock = threading.Lock()

    def of(self, node: str) -> OnTables:
        """Return who is to be told of one node."""

        def tell(done: int, tables: int) -> None:
            with self._lock:
                self._nodes[node] = (done, tables)
                read, total = map(sum, zip(*self._nodes.values(), strict=True))
                self._on_tables(read, total)

        return tell


def begin(
    transport: Transport, request: Mapping[str, Any], on_tables: OnTables, *, timeout_s: float
) -> Begun:
    """Do the request on a host and return the answer. Raises FirstStartError with what the program said."""
    with PROGRAM.started(transport) as command, deadline(command, timeout_s) as timed_out:
        with suppress(BrokenPipeError):  # it ended early; what it said tells why
            command.write(json.dumps(request).encode() + b"\n")
        for said in _answers(command):
            if "seqno" in said:
                return Begun(said["seqno"], said["checksums"])
            if "problem" in said:
                raise FirstStartError(said["problem"])
            on_tables(said["done"], said["tables"])
        command.wait()
    if timed_out.is_set():
        raise FirstStartError(f"it took longer than {timeout_s:g} s and was ended")
    words = command.stderr_tail().decode(errors="replace").strip()[-300:]
    raise FirstStartError(words or "it was cut off")


def _answers(command: RunningCommand) -> Iterator[dict[str, Any]]:
    held = b""
    while block := command.read():
        *lines, held = (held + block).split(b"\n")
        yield from map(json.loads, lines)
