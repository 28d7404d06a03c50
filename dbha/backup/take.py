"""Take one backup, full or upon a base: structure before, the stream, structure after, and only then a manifest."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from dbha import __version__
from dbha.backup.accounts import Accounts, accounts_file, packed, read_accounts
from dbha.backup.base import require_descent
from dbha.backup.checkpoint import checkpoint
from dbha.backup.compression import compress_argv, stream_file
from dbha.backup.definitions import Definitions, change_counters, read_definitions, tablespaces
from dbha.backup.encryption import encrypt_argv, encrypted
from dbha.backup.estimate import in_mib, incremental_estimate, size_in_scope, stored_estimate
from dbha.backup.lineage import leave_mark, look_at_directory, renew_mark, require_nothing_imported
from dbha.backup.manifest import (
    AccountsFile,
    Base,
    DefinitionsFile,
    Encryption,
    LsnRange,
    Manifest,
    Origin,
    Scope,
    ServiceState,
    StreamFile,
)
from dbha.backup.pipeline import (
    PROGRAM,
    Report,
    backup_argv,
    expected_members,
    options_file,
    problem_of,
    receive,
)
from dbha.backup.rows import counting_rows
from dbha.backup.store import Draft, Store, StoredBackup, incremental_ratio, stored_ratio
from dbha.backup.tool_files import (
    BINLOG_FILES,
    CHECKPOINT_FILES,
    GALERA_FILES,
    INFO_FILES,
    galera_position,
    gtid_of,
    key_values,
    lsn_range,
)
from dbha.cluster.handle import Cluster
from dbha.config.model import BackupPolicy
from dbha.errors import BackupFailedError, DbhaError
from dbha.inventory import Node
from dbha.transport import RunningCommand

_READ_TIMEOUT_S = 300  # for each answer about structure; an ended backup must not wait for one for ever
_WAIT = "dbha backup create     again, once no schema sync or migration runs"


@dataclass(slots=True)
class _Flow:
    """The stream on its way into the store: hashed, counted and told about as it flows."""

    draft: Draft
    expected_bytes: int
    on_bytes: Callable[[int, int], None]
    before_first: Callable[[], object]
    stored_bytes: int = 0
    digest: Any = field(default_factory=hashlib.sha256)

    def take(self, block: bytes) -> None:
        if not self.stored_bytes:
            self.before_first()
        self.digest.update(block)
        self.draft.write(block)
        self.stored_bytes += len(block)
        self.on_bytes(self.stored_bytes, max(self.expected_bytes, self.stored_bytes))


@dataclass(frozen=True, slots=True)
class _Before:
    """What was read of the donor just before the copy began; the counters first of all."""

    counters: dict[str, int]
    tablespaces: tuple[str, ...]
    server_version: str
    data_bytes: int
    accounts: Accounts


def take_backup(
    cluster: Cluster,
    store: Store,
    donor: Node,
    *,
    backup_id: str,
    services: Mapping[str, ServiceState],
    label: str,
    policy: BackupPolicy,
    databases: Sequence[str],
    on_bytes: Callable[[int, int], None],
    on_line: Callable[[str], None],
    base: Manifest | None = None,
    recipients: Sequence[str] = (),
    scope: Scope = Scope.CLUSTER,
    timeout_s: float = 6 * 3600,
) -> Manifest:
    """Back up a donor and return the manifest that was published; `databases` are those of services.

    The whole donor, or by `scope` only these databases and the system's own; nothing can be based on that. With
    `base` only what changed since that backup, which has to be of this very data directory. With `recipients`
    everything but the manifest is encrypted for them. `on_bytes` gets the bytes stored so far and an estimate of all.
    Raises BackupFailedError with the cause in words for whatever went wrong: nothing is published then, and older
    backups are as they were.
    """
    taking = _Taking(cluster, donor, backup_id, policy, recipients, scope, base, timeout_s, on_bytes, on_line)
    try:
        if base is not None and base.origin is not None:
            require_descent(base, look_at_directory(cluster, donor, base.id, base.origin))
        earlier = store.list()
        draft = store.begin(backup_id)
    except (DbhaError, OSError) as error:
        raise _failure(backup_id, donor, error) from error
    try:
        beside, manifest = taking.copy_to(draft, databases, earlier)
        manifest = manifest.model_copy(update={"label": label, "services": dict(services)})
        draft.publish(beside, manifest)
    except BaseException as error:  # after a signal, too, the draft is marked as abandoned
        failure = _failure(backup_id, donor, error)
        draft.abandon(str(failure), taking.log)
        if isinstance(error, DbhaError | OSError):
            raise failure from error
        raise
    on_line(f"backup {backup_id} is complete at seqno {manifest.seqno}")
    return manifest


class _Taking:
    """One backup in the making; `log` is what the tools on the donor said last."""

    def __init__(
        self,
        cluster: Cluster,
        donor: Node,
        backup_id: str,
        policy: BackupPolicy,
        recipients: Sequence[str],
        scope: Scope,
        base: Manifest | None,
        timeout_s: float,
        on_bytes: Callable[[int, int], None],
        on_line: Callable[[str], None],
    ) -> None:
        self._cluster, self._donor, self._id = cluster, donor, backup_id
        self._policy, self._recipients, self._base = policy, recipients, base
        self._scope, self._timeout_s = scope, timeout_s
        self._on_bytes, self._on_line = on_bytes, on_line
        self.log = b""

    def copy_to(
        self, draft: Draft, databases: Sequence[str], earlier: Sequence[StoredBackup]
    ) -> tuple[dict[str, bytes], Manifest]:
        """Return the files that lie beside the stream, and the manifest of what is in the draft then."""
        created = datetime.now(UTC)
        is_whole = self._scope is Scope.CLUSTER
        origin = leave_mark(self._cluster, self._donor, self._id) if is_whole else None
        with (
            ThreadPoolExecutor(1) as pool,
            counting_rows(self._cluster, self._donor, databases, wanted=self._policy.count_rows) as counting,
            PROGRAM.started(self._cluster.transport(self._donor)) as command,
        ):
            before = self._look(databases)
            self._on_line(f"copying {self._donor} ({in_mib(before.data_bytes)} of tables)")
            reading = pool.submit(self._read_definitions, before, databases)
            flow = _Flow(
                draft, self._expected_bytes(before, earlier), self._on_bytes, before_first=reading.result
            )
            counting.wait_for_snapshot()
            report = self._receive(command, before, flow, databases)
            rows = counting.result()
            definitions = reading.result()
        self._require_same_structure(before, definitions)
        if self._base is not None and self._base.origin is not None:
            require_nothing_imported(self._cluster, self._donor, self._base.origin.last_table)
        if origin is not None:
            origin = renew_mark(self._cluster, self._donor, self._id, origin)
        content = encrypted(definitions.model_dump_json(by_alias=True).encode(), self._recipients)
        accounts, accounts_file = self._accounts(before)
        manifest = self._manifest(created, before, flow, report, content, origin)
        beside = {manifest.definitions.file: content, accounts_file.file: accounts}
        return beside, manifest.model_copy(update={"rows": rows, "accounts": accounts_file})

    def _accounts(self, before: _Before) -> tuple[bytes, AccountsFile]:
        with self._cluster.session(self._donor, read_timeout_s=_READ_TIMEOUT_S) as session:
            after = read_accounts(session)
        content = encrypted(packed(after), self._recipients)
        name = f"accounts.json{'.age' if self._recipients else ''}"
        return content, accounts_file(before.accounts, after, name, hashlib.sha256(content).hexdigest())

    def _expected_bytes(self, before: _Before, earlier: Sequence[StoredBackup]) -> int:
        ratio = stored_ratio(earlier)
        if self._base is None:
            return stored_estimate(before.data_bytes, ratio)
        return incremental_estimate(before.data_bytes, incremental_ratio(earlier), ratio)

    def _look(self, databases: Sequence[str]) -> _Before:
        with self._cluster.session(self._donor) as session:
            checkpoint(session)
            counters, stems = change_counters(session), tablespaces(session)
            return _Before(
                counters=counters,
                tablespaces=tuple(stem for name in databases for stem in stems[name]),
                server_version=str(session.value("SELECT VERSION()")),
                data_bytes=size_in_scope(session, databases, self._scope),
                accounts=read_accounts(session),
            )

    def _read_definitions(self, before: _Before, databases: Sequence[str]) -> Definitions:
        """Return the structure as it was before the copy, which the counters prove, though it is read beside it."""
        with self._cluster.session(self._donor, read_timeout_s=_READ_TIMEOUT_S) as session:
            definitions = read_definitions(session, databases)
            if change_counters(session) != before.counters:
                raise BackupFailedError(
                    "the structure of a database was changed as the backup began", hint=_WAIT
                )
        return definitions

    def _receive(
        self, command: RunningCommand, before: _Before, flow: _Flow, databases: Sequence[str]
    ) -> Report:
        only = databases if self._scope is Scope.SERVICES else ()
        request = {
            "backup": backup_argv(
                self._donor, self._cluster.account.user, self._policy, only, since_lsn=self._since_lsn()
            ),
            "throttle_bytes_s": round((self._policy.throttle_mib_s or 0) * (1 << 20)),
            "filters": [
                argv for argv in (compress_argv(self._policy), encrypt_argv(self._recipients)) if argv
            ],
            "options": options_file(self._cluster.account),
            "expected": expected_members(before.tablespaces, incremental=self._base is not None),
        }
        report, status, self.log = receive(command, request, flow.take, timeout_s=self._timeout_s)
        if report is None:
            last = self.log.decode("utf-8", "replace").strip().rpartition("\n")[2] or "nothing was said"
            raise BackupFailedError(f"the stream was cut off (exit status {status}): {last}")
        if problem := problem_of(report):
            raise BackupFailedError(problem)
        return report

    def _since_lsn(self) -> int | None:
        if self._base is None:
            return None
        assert self._base.lsn is not None
        return self._base.lsn.to_lsn

    def _require_same_structure(self, before: _Before, known: Definitions) -> None:
        databases = sorted(known.databases)
        with self._cluster.session(self._donor) as session:
            if change_counters(session) == before.counters:
                return
            after = read_definitions(session, databases)
        changed = [name for name in databases if known.fingerprint_of([name]) != after.fingerprint_of([name])]
        if changed:
            raise BackupFailedError(
                f"the structure of {', '.join(changed)} was changed during the backup", hint=_WAIT
            )

    def _manifest(
        self,
        created: datetime,
        before: _Before,
        flow: _Flow,
        report: Report,
        content: bytes,
        origin: Origin | None,
    ) -> Manifest:
        base = self._base
        try:
            state_uuid, seqno = galera_position(report.text_of(GALERA_FILES))
            from_lsn, to_lsn = lsn_range(report.text_of(CHECKPOINT_FILES))
        except ValueError as error:
            raise BackupFailedError(str(error)) from error
        if from_lsn != (self._since_lsn() or 0):
            raise BackupFailedError(f"it begins at LSN {from_lsn} instead of {self._since_lsn() or 0}")
        return Manifest(
            id=self._id,
            cluster=self._cluster.name,
            kind="full" if base is None else "incremental",
            base=Base(id=base.id, sha256=base.stream.sha256) if base else None,
            depth=base.depth + 1 if base else 0,
            lsn=LsnRange(from_lsn=from_lsn, to_lsn=to_lsn),
            origin=origin,
            label="",
            scope=self._scope,
            created=created,
            finished=datetime.now(UTC),
            donor=self._donor.name,
            server_version=before.server_version,
            tool_version=key_values(report.text_of(INFO_FILES)).get("tool_version", ""),
            timeline=state_uuid,
            cluster_state_uuid=state_uuid,
            seqno=seqno,
            gtid=gtid_of(report.text_of(BINLOG_FILES)),
            services={},
            stream=StreamFile(
                file=stream_file(self._policy.compression, encrypted=bool(self._recipients)),
                stored_bytes=flow.stored_bytes,
                raw_bytes=report.raw_bytes,
                sha256=flow.digest.hexdigest(),
                compression=self._policy.compression,
            ),
            definitions=DefinitionsFile(
                file=f"definitions.json{'.age' if self._recipients else ''}",
                sha256=hashlib.sha256(content).hexdigest(),
            ),
            encryption=Encryption(recipients=tuple(self._recipients)) if self._recipients else None,
            data_bytes=before.data_bytes,
            dbha_version=__version__,
        )


def _failure(backup_id: str, donor: Node, error: BaseException) -> BackupFailedError:
    if isinstance(error, OSError):
        words = f"the store cannot take it: {error.strerror or error}"
    else:
        words = str(error) or type(error).__name__
    hint = error.hint if isinstance(error, DbhaError) else ""
    return BackupFailedError(
        f"backup {backup_id} of {donor} failed: {words}",
        hint=hint or "dbha backup list     keeps it with its reason",
    )
