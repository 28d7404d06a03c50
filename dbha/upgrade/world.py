"""The real cluster, as an upgrade acts on it. Everything here may be repeated after it was cut off anywhere."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from dbha.backup.definitions import fingerprint
from dbha.backup.proof import Checksums, checksums
from dbha.backup.service_restore import ServiceRestore, Target
from dbha.backup.shelf import Shelf
from dbha.cluster.assess import Verdict
from dbha.cluster.handle import Cluster
from dbha.cluster.home import record_release
from dbha.console import in_bytes
from dbha.errors import BackupFailedError, FoundWrongError
from dbha.heads import read_heads
from dbha.inventory import Node
from dbha.journal import Facts
from dbha.schema.migration_account import remove_migration_account
from dbha.schema.sync import SyncJob, prove_heads, prove_same_structure, sync_service
from dbha.services import Service
from dbha.upgrade.fencing import Fencing
from dbha.upgrade.plan import RECORD
from dbha.upgrade.spec import ServiceUpgrade, UpgradeSpec
from dbha.workflow import Step, StepContext
from dbha.workflow.plan import Stage, UndoFirstError


@dataclass(frozen=True, slots=True)
class ClusterWorld:
    """Acts on `cluster`; `job` makes the sync job of a service's part, `services` are those of the policy."""

    cluster: Cluster
    shelf: Shelf
    services: Mapping[str, Service]
    observe: Callable[[], Verdict]
    job: Callable[[ServiceUpgrade], SyncJob]

    def accounts(self, spec: UpgradeSpec) -> Facts:
        return self._fencing(spec).intent()

    def raise_fence(self, spec: UpgradeSpec, context: StepContext) -> Facts:
        return self._fencing(spec).up(context)

    def lift_fence(self, spec: UpgradeSpec, context: StepContext) -> Facts:
        return self._fencing(spec).down(context)

    def record(self, spec: UpgradeSpec, context: StepContext) -> Facts:
        reader = next(
            (node for node in self.cluster.nodes if node.name not in (spec.donor, spec.writer)), None
        )
        found = checksums(self.cluster, reader or self._writer(spec), spec.databases, guard=context.guard)
        return {"checksums": found, "note": f"{len(found)} tables"}

    def take_backup(self, spec: UpgradeSpec, context: StepContext) -> Facts:
        donor = self.cluster.node(spec.donor)
        manifest = self.shelf.take(donor, spec.backup_id, label=f"before {spec.target}", context=context)
        return {"id": manifest.id, "seqno": manifest.seqno, "note": in_bytes(manifest.stream.stored_bytes)}

    def verify_backup(self, spec: UpgradeSpec, context: StepContext) -> Facts:
        for upgrade in spec.services:  # they import their modules meanwhile, and know no password yet
            self.job(upgrade).tools.warm_up(self.services[upgrade.service].tools)
        try:
            return {"prepared": str(self.shelf.prepared(spec.backup_id, context.measure))}
        except FoundWrongError as error:
            raise BackupFailedError(str(error), hint=error.hint) from error

    def sync(self, spec: UpgradeSpec, upgrade: ServiceUpgrade, context: StepContext) -> Facts:
        service = self.services[upgrade.service]
        writer = self._writer(spec)
        self._fencing(spec).require_up()
        if context.interrupted:
            remove_migration_account(self.cluster, writer, service.name)
            self._require_whole(spec, upgrade, _checksums_before(upgrade, context.facts))
        self._restore(spec).drop_aside(
            _target(upgrade), context
        )  # of an attempt that was put back, and proven
        job = self.job(upgrade)
        results = sync_service(self.cluster, writer, job, run_id=context.run_id, guard=context.guard)
        return {"commands": [[" ".join(each.argv[-3:]), each.returncode] for each in results]}

    def prove(self, spec: UpgradeSpec, context: StepContext) -> Facts:
        for upgrade in spec.services:
            prove_heads(self.cluster, self.services[upgrade.service], upgrade.expected)
        structure = prove_same_structure(self.cluster, spec.databases)
        return {
            "structure": structure,
            "note": f"{len(spec.databases)} databases on {len(self.cluster.nodes)} nodes",
        }

    def restore(self, spec: UpgradeSpec, upgrade: ServiceUpgrade) -> tuple[Stage, ...]:
        return self._restore(spec).stages(_target(upgrade), force=False)

    def drop_aside(self, spec: UpgradeSpec, upgrade: ServiceUpgrade) -> Step:
        return self._restore(spec).clean_up(_target(upgrade))

    def _restore(self, spec: UpgradeSpec) -> ServiceRestore:
        def quiesce(service: str) -> None:
            remove_migration_account(self.cluster, self._writer_now(), service)
            self._fencing(spec).require_up()

        return ServiceRestore(self.cluster, self.shelf.source(spec.backup_id), self.observe, quiesce)

    def note_releases(self, spec: UpgradeSpec, context: StepContext) -> Facts:
        with self.cluster.session(self._writer_now()) as session:
            for upgrade in spec.services:
                record_release(session, upgrade.service, upgrade.target, context.run_id)
        return {}

    def tidy(self, spec: UpgradeSpec, context: StepContext) -> Facts:
        self.shelf.forget_prepared(spec.backup_id)
        return {}

    def _require_whole(self, spec: UpgradeSpec, upgrade: ServiceUpgrade, before: Checksums) -> None:
        """Raise UndoFirstError unless the service is entirely as before the sync, or its schema as after it."""
        writer = self._writer(spec)
        with self.cluster.session(writer) as session:
            heads = read_heads(session, upgrade.databases)
            if heads == upgrade.expected:
                return
            structure = fingerprint(session, upgrade.databases)
        known = self.shelf.definitions(spec.backup_id).fingerprint_of(upgrade.databases)
        untouched = heads == upgrade.before and structure == known
        if not untouched or checksums(self.cluster, writer, upgrade.databases) != before:
            raise UndoFirstError(
                f"the sync of {upgrade.service} was cut off half done: putting it back first"
            )

    def _fencing(self, spec: UpgradeSpec) -> Fencing:
        return Fencing(self.cluster, spec.databases, self._writer_now)

    def _writer(self, spec: UpgradeSpec) -> Node:
        return self.cluster.node(spec.writer)

    def _writer_now(self) -> Node:
        verdict = self.observe()
        return self.cluster.node(verdict.writer or self.cluster.nodes[0].name)


def _target(upgrade: ServiceUpgrade) -> Target:
    before = partial(_checksums_before, upgrade)
    return Target(upgrade.service, upgrade.databases, lambda: dict(upgrade.before), before)


def _checksums_before(upgrade: ServiceUpgrade, facts: Mapping[str, Facts]) -> Checksums:
    """Return the checksums of the service's tables from before the sync."""
    recorded: Checksums = facts[RECORD]["checksums"]
    return {table: value for table, value in recorded.items() if table.partition(".")[0] in upgrade.databases}
