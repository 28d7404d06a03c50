"""Taking a backup, as a plan."""

from functools import partial
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict

from dbha.backup.levels import Level
from dbha.backup.shelf import Shelf
from dbha.cluster.desync import desync, resync_after
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
    services: tuple[str, ...] = ()  # only these; empty for the whole cluster
    store: str = ""  # the one of the configuration
    base: str = ""  # of an incremental one
    why_full: str = ""  # why it is none, although one was asked for
    desync: str = ""  # why the donor is kept out of flow control meanwhile, if it is


def backup_plan(spec: BackupSpec, shelf: Shelf) -> Plan:
    """Return the plan of a backup; without one that is good it changes nothing."""

    def take(context: StepContext) -> Facts:
        donor = shelf.cluster.node(spec.donor)
        manifest = shelf.take(
            donor, spec.backup_id, label=spec.label, services=spec.services, base=spec.base, context=context
        )
        return {"id": manifest.id, "seqno": manifest.seqno, "note": in_bytes(manifest.stream.stored_bytes)}

    def verify(level: Level, context: StepContext) -> Facts:
        try:
            shelf.verify(spec.backup_id, level, context)
        except FoundWrongError as error:
            raise BackupFailedError(str(error), hint=error.hint) from error
        return {"level": level, "note": level}

    def keep_out(context: StepContext) -> Facts:
        with shelf.cluster.session(shelf.cluster.node(spec.donor)) as session:
            is_ours = desync(session, spec.donor, context.run_id)
        return {"note": spec.desync if is_ours else "somebody else has desynced it: left as it is"}

    def let_in(context: StepContext) -> Facts:
        note = resync_after(shelf.cluster, spec.donor, context.run_id)
        return {"note": note} if note else {}

    what = (
        f"take what changed since {spec.base} on {spec.donor}"
        if spec.base
        else f"take a backup on {spec.donor}"
    )
    steps = [stage(Step("backup", what, take))]
    if spec.desync:
        let_in_again = f"let {spec.donor} take part in flow control again"
        undo = stage(Step("resync-undo", let_in_again, let_in))
        out = Step("desync", f"keep {spec.donor} out of flow control", keep_out, undo=(undo,))
        steps = [stage(out), *steps, stage(Step("resync", let_in_again, let_in))]
    if spec.verify:
        steps.append(stage(Step("verify", "verify the backup", partial(verify, spec.verify))))
    part = f" of {', '.join(spec.services)}" if spec.services else ""
    return Plan(title=f"backup {spec.backup_id}{part}", forward=tuple(steps))
