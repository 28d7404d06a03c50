"""What is known of a backup: its manifest and what its last verification found, as canonical JSON.

Each is one JSON object in canonical form (keys sorted, no spaces but a newline at the end) that carries the
sha256 of itself without that key, so a changed byte anywhere in the file is refused when it is read.
"""

import hashlib
import json
import re
import secrets
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from dbha.errors import FoundWrongError

_ID = r"\d{8}T\d{6}Z-[0-9a-f]{4}"
BACKUP_ID = re.compile(_ID)

BackupId = Annotated[str, StringConstraints(pattern=f"^{_ID}$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
M = TypeVar("M", bound=BaseModel)


class Record(BaseModel):
    """A frozen record; fields of later versions of dbha are ignored, never refused."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class ServiceState(Record):
    """A service as it was when the backup was taken; `heads` has the schema heads of each database."""

    release: str
    databases: tuple[str, ...]
    heads: dict[str, tuple[str, ...]]


class StreamFile(Record):
    """The stored stream: `sha256` and `stored_bytes` are of the file, `raw_bytes` is its size unpacked."""

    file: str = "stream.mbs.zst"
    stored_bytes: int
    raw_bytes: int
    sha256: Sha256


class DefinitionsFile(Record):
    """The stored definitions of the databases."""

    file: str = "definitions.json"
    sha256: Sha256


class Manifest(Record):
    """Everything about one complete backup. It is written last: a backup exists when its manifest does."""

    schema_version: Literal[1] = Field(default=1, alias="schema")
    id: BackupId
    cluster: str
    kind: Literal["full"] = "full"
    label: str
    created: datetime
    finished: datetime
    donor: str
    server_version: str
    tool_version: str
    timeline: str  # the cluster's state UUID: a new one begins with every bootstrap from other data
    cluster_state_uuid: str
    seqno: int
    gtid: str  # empty when the donor keeps no binary log
    services: dict[str, ServiceState]
    stream: StreamFile
    definitions: DefinitionsFile
    data_bytes: int
    dbha_version: str


class Verification(Record):
    """What the last verification of a backup found; `prepared` is the tree it left for a restore, if any."""

    schema_version: Literal[1] = Field(default=1, alias="schema")
    backup: BackupId
    level: Literal["prepared"] = "prepared"  # hashed, unpacked, prepared, and every table exported
    outcome: Literal["good", "bad"]
    problem: str = ""
    when: datetime
    stream_sha256: Sha256
    tool_version: str
    dbha_version: str
    prepared: Path | None = Field(default=None, exclude=True)


def new_backup_id(now: datetime | None = None) -> str:
    """Return an id like `20261123T043000Z-3f2a`; ids sort by their UTC time."""
    return f"{(now or datetime.now(UTC)).astimezone(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(2)}"


def canonical(data: dict[str, Any]) -> bytes:
    """Return the one way in which dbha writes this JSON object."""
    return json.dumps(data, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def sealed(record: BaseModel) -> bytes:
    """Return a record as it is stored, with its own sha256."""
    data = record.model_dump(mode="json", by_alias=True)
    return canonical(data | {"sha256": _seal(data)})


def unsealed(content: bytes, kind: type[M], what: str) -> M:
    """Return the record that `sealed` wrote. Raises FoundWrongError naming `what` when a byte was changed."""
    try:
        data = json.loads(content)
        if not isinstance(data, dict) or canonical(data) != content:
            raise ValueError("not in canonical form")
        if data.pop("sha256", None) != _seal(data):
            raise ValueError("its sha256 is not its own")
        return kind.model_validate(data)
    except (ValueError, ValidationError) as error:
        raise FoundWrongError(
            f"{what} is damaged: {str(error).splitlines()[0]}",
            hint="dbha backup list     choose another backup, and `dbha backup create` for a new one",
        ) from error


def _seal(data: dict[str, Any]) -> str:
    return hashlib.sha256(canonical(data)).hexdigest()
