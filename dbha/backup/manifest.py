"""What is known of a backup: its manifest and what its verifications found, as canonical JSON.

Each is one JSON object in canonical form (keys sorted, no spaces but a newline at the end) that carries the
sha256 of itself without that key, so a changed byte anywhere in the file is refused when it is read.
"""

import hashlib
import json
import re
import secrets
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError

from dbha.backup.levels import Level
from dbha.config.model import Compression
from dbha.errors import FoundWrongError

_ID = r"\d{8}T\d{6}Z-[0-9a-f]{4}"
BACKUP_ID = re.compile(_ID)

BackupId = Annotated[str, StringConstraints(pattern=f"^{_ID}$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
M = TypeVar("M", bound=BaseModel)


class Record(BaseModel):
    """A frozen record; fields of later versions of dbha are ignored, never refused."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Scope(StrEnum):
    """What a backup holds; these words are part of the `--json` contract."""

    CLUSTER = "cluster"
    SERVICES = "services"  # the databases of some: enough to restore these, never the whole cluster


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
    compression: Compression = Compression.ZSTD  # the only one of dbha 0.1


class DefinitionsFile(Record):
    """The stored definitions of the databases."""

    file: str = "definitions.json"
    sha256: Sha256


class Encryption(Record):
    """Who can open the files of a backup. Only the manifest is in plain."""

    format: Literal["age"] = "age"
    recipients: tuple[str, ...]  # public; each alone is enough


class AccountsFile(Record):
    """The stored accounts: `names` are theirs, and those in `unsettled` were changed while the copy was made."""

    file: str = "accounts.json"
    sha256: Sha256
    names: tuple[str, ...]
    unsettled: tuple[str, ...] = ()


class RowCounts(Record):
    """How many rows tables had when the copy began, and by how many that may have changed until it ended.

    `tables` has the count of each `database.table`; `added` and `removed` are the most rows that can have come
    and gone in any of them meanwhile. `why_not` says why nothing, or not everything, was counted.
    """

    tables: dict[str, int] = Field(default_factory=dict)
    added: int = 0
    removed: int = 0
    why_not: str = ""


class LsnRange(Record):
    """Which changes a backup brings, by the log sequence numbers of its donor; `from_lsn` of a full one is 0."""

    from_lsn: int
    to_lsn: int


class Origin(Record):
    """What tells whether a data directory descends from this backup's: see lineage.

    `mark` was written into it just after the copy. Tables made or imported since then have ids above `last_table`.
    """

    mark: str
    mark_table: int  # the id of the table with the mark: a logical copy of the mark has another one
    last_table: int


class Base(Record):
    """The backup that an incremental one goes on from, by the sha256 of its stored stream."""

    id: BackupId
    sha256: Sha256


class Manifest(Record):
    """Everything about one complete backup. It is written last: a backup exists when its manifest does."""

    schema_version: Literal[1] = Field(default=1, alias="schema")
    id: BackupId
    cluster: str
    scope: Scope = Scope.CLUSTER  # the only one of dbha 0.1
    kind: Literal["full", "incremental"] = "full"
    base: Base | None = None  # of an incremental one
    depth: int = 0  # how many incremental ones have to be applied to the full one, this one included
    lsn: LsnRange | None = None
    origin: Origin | None = None  # None: nothing can be based on it
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
    encryption: Encryption | None = None
    accounts: AccountsFile | None = None  # not in backups of dbha 0.1
    data_bytes: int
    rows: RowCounts | None = None
    dbha_version: str

    @property
    def part(self) -> str:
        """The services that it holds and nothing else, in words; empty when it is of the whole cluster."""
        return ", ".join(sorted(self.services)) if self.scope is Scope.SERVICES else ""

    @property
    def recipients(self) -> tuple[str, ...]:
        """Who can open it; empty when it is in plain."""
        return self.encryption.recipients if self.encryption else ()


def _level_of_old(value: object) -> object:
    return Level.PREPARE if value == "prepared" else value  # the only level of dbha 0.1, by its name of then


class Verdict(Record):
    """What one verification found. `level` is the one it reached or, when it is bad, the one it failed at."""

    level: Annotated[Level, BeforeValidator(_level_of_old)] = Level.PREPARE
    outcome: Literal["good", "bad"]
    problem: str = ""
    note: str = ""  # what was not, or not exactly, compared
    when: datetime
    stream_sha256: Sha256
    tool_version: str
    dbha_version: str

    @property
    def good(self) -> bool:
        """Whether nothing was wrong."""
        return self.outcome == "good"


class Verification(Verdict):
    """The verdict on a backup that counts, and in `history` those that were ever given, the newest last.

    `prepared` is the tree that was left for a restore, if any. Records of dbha 0.1 have no history.
    """

    schema_version: Literal[1] = Field(default=1, alias="schema")
    backup: BackupId
    history: tuple[Verdict, ...] = ()
    prepared: Path | None = Field(default=None, exclude=True)

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """All verdicts that are known, the newest last."""
        return self.history or (Verdict.model_validate(self.model_dump()),)


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


def require_same(content: bytes, expected: DefinitionsFile | AccountsFile, what: str) -> bytes:
    """Return what lies beside a stream. Raises FoundWrongError naming `what` when it is not what was written."""
    if hashlib.sha256(content).hexdigest() != expected.sha256:
        raise FoundWrongError(f"{what} are damaged", hint="dbha backup list")
    return content


def _seal(data: dict[str, Any]) -> str:
    return hashlib.sha256(canonical(data)).hexdigest()
