"""Taking a backup, as a plan."""

from pydantic import BaseModel, ConfigDict

from dbha.backup.shelf import Shelf
from dbha.console import in_bytes
from dbha.errors import BackupFailedError, FoundWrongError
from dbha.journal import Facts
from dbha.workflow import Plan, Step, StepContext
from dbha.workflow.plan import stage


class BackupSpec(BaseModel):
    """What was decided before a backup began; the run's arguments in the journal."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    backup_id: str
    donor: str
    donor_reasons: dict[str, str]
    label: str
    backup_bytes: int
    verify: bool


def backup_plan(spec: BackupSpec, shelf: Shelf) -> Plan:
    """Return the plan of a backup; without one that is good it changes nothing."""

    def take(context: StepContext) -> Facts:
        donor = shelf.cluster.node(spec.donor)
        manifest = shelf.take(donor, spec.backup_id, label=spec.label, context=context)
        return {"id": manifest.id, "seqno": manifest.seqno, "note": in_bytes(manifest.stream.stored_bytes)}

    def verify(context: StepContext) -> Facts:
        try:
            shelf.prepared(spec.backup_id, context.measure)
        except FoundWrongError as error:
            raise BackupFailedError(str(error), hint=error.hint) from error
        shelf.forget_prepared(spec.backup_id)
        return {}

    steps = [stage(Step("backup", f"take a backup on {spec.donor}", take))]
    if spec.verify:
        steps.append(stage(Step("verify", "verify the backup", verify)))
    return Plan(title=f"backup {spec.backup_id}", forward=tuple(steps))
