"""Have a server started once on restored data, where it lies: what is asked, and what is answered."""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from dbha.cluster.saved_state import SavedState
from dbha.database import Account
from dbha.errors import DbhaError
from dbha.transport import Transport, deadline
from dbha.transport.sent_program import SentProgram

PROGRAM = SentProgram(("dbha.host", "dbha.node_server", "dbha.backup.begin_program"))


class FirstStartError(DbhaError):
    """The server did not start on the data, or did not end as it should."""


@dataclass(frozen=True, slots=True)
class FirstStart:
    """What every node is asked: the position that a history begins at, and who is let in."""

    beginning: SavedState
    account: Account
    began: datetime
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
            "last_gtid": -1 if self.last_gtid is None else self.last_gtid,
            "pool_bytes": pool_bytes,
        }


def begin(transport: Transport, request: Mapping[str, Any], *, timeout_s: float) -> int:
    """Do the request on a host and return the seqno there. Raises FirstStartError with what the program said."""
    answer = b""
    with PROGRAM.started(transport) as command, deadline(command, timeout_s) as timed_out:
        with suppress(BrokenPipeError):  # it ended early; what it said tells why
            command.write(json.dumps(request).encode() + b"\n")
        while block := command.read():
            answer += block
        command.wait()
    if timed_out.is_set():
        raise FirstStartError(f"it took longer than {timeout_s:g} s and was ended")
    line, ended, _ = answer.partition(b"\n")
    said = json.loads(line) if ended else {}
    if "seqno" in said:
        return int(said["seqno"])
    words = command.stderr_tail().decode(errors="replace").strip()[-300:]
    raise FirstStartError(said.get("problem") or words or "it was cut off")
