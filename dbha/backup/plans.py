"""Taking a backup, as a plan."""

from functools import partial
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict

from dbha.backup.levels import Level
from dbha.backup.shelf import Shelf
from dbha.console import in_bytes
from dbha.errors import BackupFailedError, FoundWrongError
from dbha.journal import Facts
from dbha.workflow import Plan, Step, StepContext
from dbha.workflow.plan import stage


def _level_of_old(value: object) -> object:
    """Return what dbha 0.1, which knew one level, meant in the journal."""
    return {True: Level.PREPARE, False: None}.get(value, value) if isinstance(value, bool) else value


class BackupSpec(BaseModel):
    """What was decided before a backup began; the run's arguments in the journal."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    backup_id: str
    donor: str
    donor_reasons: dict[str, str]
    label: str
    backup_bytes: int
    verify: Annotated[Level | None, BeforeValidator(_level_of_old)]
    store: str = ""  # the one of the configuration
    base: str = ""  # of an incremental one
    why_full: str = ""  # why it is none, although one was asked for


def backup_plan(spec: BackupSpec, shelf: Shelf) -> Plan:
    """Return the plan of a backup; without one that is good it changes nothing."""

    def take(context: StepContext) -> Facts:
        donor = shelf.cluster.node(spec.donor)
        manifest = shelf.take(donor, spec.backup_id, label=spec.label, context=context, base=spec.base)
        return {"id": manifest.id, "seqno": manifest.seqno, "note": in_bytes(manifest.stream.stored_bytes)}

    def verify(level: Level, context: StepContext) -> Facts:
        try:
            shelf.verify(spec.backup_id, level, context)
        except FoundWrongError as error:
            raise BackupFailedError(str(error), hint=error.hint) from error
        return {"level": level, "note": level}

    what = (
        f"take what changed since {spec.base} on {spec.donor}"
        if spec.base
        else f"take a backup on {spec.donor}"
    )
    steps = [stage(Step("backup", what, take))]
    if spec.verify:
        steps.append(stage(Step("verify", "verify the backup", partial(verify, spec.verify))))
    return Plan(title=f"backup {spec.backup_id}", forward=tuple(steps))
