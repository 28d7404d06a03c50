"""The record of every run: intent on disk before an effect, outcome on disk before the next step.

SQLite in WAL mode with synchronous=FULL: a committed write survives a power cut
(https://www.sqlite.org/pragma.html#pragma_synchronous).
"""

import json
import os
import secrets
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row
from sqlalchemy.engine.interfaces import DBAPIConnection

from dbha import faults
from dbha.errors import ConfigurationError, UsageError

Facts = Mapping[str, Any]

_metadata = sa.MetaData()
_runs = sa.Table(
    "runs",
    _metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("workflow", sa.Text, nullable=False),
    sa.Column("arguments", sa.JSON, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("controller", sa.Text, nullable=False),
    sa.Column("version", sa.Text, nullable=False),
    sa.Column("started", sa.Text, nullable=False),
    sa.Column("ended", sa.Text),
    sa.Column("outcome", sa.Text, nullable=False, default=""),
)
_steps = sa.Table(
    "steps",
    _metadata,
    sa.Column("run_id", sa.Text, sa.ForeignKey("runs.id"), primary_key=True),
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("position", sa.Integer, nullable=False),
    sa.Column("title", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("facts", sa.JSON, nullable=False),
    sa.Column("error", sa.Text, nullable=False, default=""),
    sa.Column("started", sa.Text, nullable=False),
    sa.Column("ended", sa.Text),
)


class RunState(StrEnum):
    """Where a run stands; these words are part of the `--json` contract."""

    RUNNING = "running"
    DONE = "done"
    REFUSED = "refused"  # failed before it changed anything
    ROLLED_BACK = "rolled-back"
    FAILED = "failed"  # something was changed and could not be put back
    ABANDONED = "abandoned"


class StepState(StrEnum):
    """Where a step stands; `intended` without a live process means that it was interrupted."""

    INTENDED = "intended"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class StepRecord:
    """What the journal knows of a step; `facts` are its outcome, or its intent's while it is `intended`."""

    name: str
    title: str
    state: StepState
    attempts: int
    facts: dict[str, Any]
    error: str
    started: str
    ended: str | None

    @property
    def seconds(self) -> float:
        """How long it took; 0 while it has not ended."""
        return _seconds_between(self.started, self.ended)


@dataclass(frozen=True, slots=True)
class RunRecord:
    """What the journal knows of a run; times are UTC in ISO 8601."""

    id: str
    workflow: str
    arguments: dict[str, Any]
    state: RunState
    controller: str
    version: str
    started: str
    ended: str | None
    outcome: str
    steps: tuple[StepRecord, ...] = field(default=())

    @property
    def seconds(self) -> float:
        """How long it took; 0 while it has not ended."""
        return _seconds_between(self.started, self.ended)


class Journal:
    """The journal of one controller, in one file. Safe for use by several threads."""

    def __init__(self, path: Path) -> None:
        """Open the journal, or begin one. Raises ConfigurationError for a file that cannot be one."""
        self._engine = sa.create_engine(f"sqlite:///{path}")
        sa.event.listen(self._engine, "connect", _configure)
        self._write_lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _require_sound(self._engine)
        except (OSError, sa.exc.DBAPIError) as error:
            self.close()
            raise _unusable(path, error) from error

    def close(self) -> None:
        """Release the file."""
        self._engine.dispose()

    def start_run(self, workflow: str, arguments: Facts, *, version: str) -> str:
        """Record a new run and return its id, which sorts by UTC time."""
        run_id = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(2)}"
        with self._writing("run", run_id) as connection:
            connection.execute(
                _runs.insert().values(
                    id=run_id, workflow=workflow, arguments=dict(arguments), state=RunState.RUNNING,
                    controller=controller_name(), version=version, started=utc_now(),
                )
            )  # fmt: skip
        return run_id

    def reopen_run(self, run_id: str) -> None:
        """Record that a run which stopped is being taken up again, by this controller."""
        with self._writing("reopen", run_id) as connection:
            connection.execute(
                _runs.update()
                .where(_runs.c.id == run_id)
                .values(state=RunState.RUNNING, controller=controller_name(), ended=None)
            )

    def end_run(self, run_id: str, state: RunState, outcome: str) -> None:
        """Record how the run ended."""
        with self._writing("end", run_id) as connection:
            connection.execute(
                _runs.update()
                .where(_runs.c.id == run_id)
                .values(state=state, outcome=outcome, ended=utc_now())
            )

    def intend(self, run_id: str, name: str, title: str, intent: Facts) -> None:
        """Record that a step is about to act, and what it needs to know should it be interrupted."""
        with self._writing("intend", name) as connection:
            earlier = connection.execute(
                sa.select(_steps.c.position, _steps.c.attempts).where(*_is(run_id, name))
            ).first()
            if earlier is None:
                position = connection.scalar(
                    sa.select(sa.func.count()).select_from(_steps).where(_steps.c.run_id == run_id)
                )
                connection.execute(
                    _steps.insert().values(
                        run_id=run_id, name=name, position=position, title=title, state=StepState.INTENDED,
                        attempts=1, facts=dict(intent), started=utc_now(),
                    )
                )  # fmt: skip
            else:
                connection.execute(
                    _steps.update()
                    .where(*_is(run_id, name))
                    .values(
                        state=StepState.INTENDED,
                        attempts=earlier.attempts + 1,
                        facts=dict(intent),
                        error="",
                        started=utc_now(),
                        ended=None,
                    )
                )

    def done(self, run_id: str, name: str, facts: Facts) -> None:
        """Record that a step did all of its work, and what it found."""
        self._finish(run_id, name, StepState.DONE, facts, "")

    def failed(self, run_id: str, name: str, facts: Facts, error: str) -> None:
        """Record that a step failed, and why."""
        self._finish(run_id, name, StepState.FAILED, facts, error)

    def put_away(self, run_id: str, names: Sequence[str]) -> None:
        """Rename the records of steps that are about to be run anew, so that both attempts stay in the journal."""
        with self._writing("put-away", names[-1]) as connection:
            for name in names:
                attempt = connection.scalar(sa.select(_steps.c.attempts).where(*_is(run_id, name)))
                if attempt is not None:
                    taken = connection.scalar(
                        sa.select(sa.func.count())
                        .select_from(_steps)
                        .where(
                            _steps.c.run_id == run_id, _steps.c.name.startswith(f"{name}@", autoescape=True)
                        )
                    )
                    connection.execute(
                        _steps.update()
                        .where(*_is(run_id, name))
                        .values(name=f"{name}@{(taken or 0) + 1}", state=StepState.DONE)
                    )

    def _finish(self, run_id: str, name: str, state: StepState, facts: Facts, error: str) -> None:
        with self._writing(state.value, name) as connection:
            connection.execute(
                _steps.update()
                .where(*_is(run_id, name))
                .values(state=state, facts=dict(facts), error=error, ended=utc_now())
            )

    def run(self, run_id: str) -> RunRecord:
        """Return a run with its steps in order. Raises UsageError for an id that is not in the journal."""
        with self._engine.connect() as connection:
            found = connection.execute(sa.select(_runs).where(_runs.c.id == run_id)).first()
            if found is None:
                raise UsageError(f"no run is called {run_id}", hint="dbha runs list")
            steps = connection.execute(
                sa.select(_steps).where(_steps.c.run_id == run_id).order_by(_steps.c.position)
            ).all()
        return _run_record(found, steps)

    def knows(self, run_id: str) -> bool:
        """Tell whether a run of this id is in the journal."""
        with self._engine.connect() as connection:
            return connection.execute(sa.select(_runs.c.id).where(_runs.c.id == run_id)).first() is not None

    def has_ended(self, run_id: str) -> bool:
        """Tell whether a run of this journal came to its end; False for one that it does not know."""
        return run_id not in {record.id for record in self.unfinished()} and self.knows(run_id)

    def runs(self, *, limit: int = 50) -> list[RunRecord]:
        """Return the last runs, newest first, with their steps."""
        with self._engine.connect() as connection:
            newest_first = (_runs.c.started.desc(), _runs.c.id.desc())  # ids tell seconds only
            ids = connection.scalars(sa.select(_runs.c.id).order_by(*newest_first).limit(limit)).all()
        return [self.run(run_id) for run_id in ids]

    def last_of_each(self) -> list[RunRecord]:
        """Return the newest run of each workflow, with its steps, in the order of the workflows' names."""
        newest_first = (_runs.c.started.desc(), _runs.c.id.desc())
        place = sa.func.row_number().over(partition_by=_runs.c.workflow, order_by=newest_first)
        placed = sa.select(_runs.c.id, _runs.c.workflow, place.label("place")).subquery()
        with self._engine.connect() as connection:
            ids = connection.scalars(
                sa.select(placed.c.id).where(placed.c.place == 1).order_by(placed.c.workflow)
            ).all()
        return [self.run(run_id) for run_id in ids]

    def counts(self) -> dict[tuple[str, RunState], int]:
        """Return how many runs there are of each workflow in each state."""
        counted = sa.select(_runs.c.workflow, _runs.c.state, sa.func.count())
        with self._engine.connect() as connection:
            found = connection.execute(counted.group_by(_runs.c.workflow, _runs.c.state)).all()
        return {(workflow, RunState(state)): count for workflow, state, count in found}

    def unfinished(self) -> list[RunRecord]:
        """Return the runs that have not come to an end, oldest first: in progress, cut off, or in need of a human."""
        with self._engine.connect() as connection:
            ids = connection.scalars(
                sa.select(_runs.c.id)
                .where(_runs.c.state.in_([RunState.RUNNING, RunState.FAILED]))
                .order_by(_runs.c.started, _runs.c.id)
            ).all()
        return [self.run(run_id) for run_id in ids]

    @contextmanager
    def _writing(self, kind: str, name: str) -> Iterator[Connection]:
        """One durable write; a test may end the process just before and just after it."""
        point = kind if kind in ("run", "end", "reopen") else f"{kind}:{name}"
        with self._write_lock:
            faults.reach(f"before:{point}")
            with self._engine.begin() as connection:
                yield connection
            faults.reach(f"after:{point}")


def controller_name() -> str:
    """Return the name of this controller process, unique on this host while it lives."""
    return f"{socket.gethostname()}:{os.getpid()}"


def utc_now() -> str:
    """Return the present time, UTC, ISO 8601 with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _seconds_between(started: str, ended: str | None) -> float:
    if ended is None:
        return 0.0
    return (datetime.fromisoformat(ended) - datetime.fromisoformat(started)).total_seconds()


def _configure(connection: DBAPIConnection, _: object) -> None:
    cursor = connection.cursor()
    for pragma in ("busy_timeout=30000", "journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _require_sound(engine: sa.Engine) -> None:
    """Make the tables that are missing; raises DBAPIError for a file that is damaged, or of something else."""
    with engine.begin() as connection:
        if (found := connection.scalar(sa.text("PRAGMA quick_check(1)"))) != "ok":
            raise sa.exc.DatabaseError("PRAGMA quick_check", None, ValueError(found))
        for table in _metadata.sorted_tables:
            connection.execute(sa.schema.CreateTable(table, if_not_exists=True))
            connection.execute(sa.select(table).limit(0))


def _unusable(path: Path, error: OSError | sa.exc.DBAPIError) -> ConfigurationError:
    words = error.strerror if isinstance(error, OSError) else " ".join(str(error.orig).split())
    return ConfigurationError(
        f"the journal {path}",
        [f"{path}: {words}"],
        hint=f"if it is only not accessible: ls -l {path}*\n"
        "if it is damaged: keep it, and copy it back from a backup of this host before anything else is run; "
        "it alone knows what an interrupted run has half done\n"
        f"mkdir {path.parent}/damaged && mv {path}* {path.parent}/damaged/     only when no run was in progress:"
        " then a new one is begun",
    )


def _is(run_id: str, name: str) -> tuple[sa.ColumnElement[bool], sa.ColumnElement[bool]]:
    return (_steps.c.run_id == run_id, _steps.c.name == name)


def _run_record(found: Row[Any], steps: Sequence[Row[Any]]) -> RunRecord:
    return RunRecord(
        id=found.id, workflow=found.workflow, arguments=found.arguments, state=RunState(found.state),
        controller=found.controller, version=found.version, started=found.started, ended=found.ended,
        outcome=found.outcome,
        steps=tuple(
            StepRecord(
                name=step.name, title=step.title, state=StepState(step.state), attempts=step.attempts,
                facts=step.facts, error=step.error, started=step.started, ended=step.ended,
            )
            for step in steps
        ),
    )  # fmt: skip


def as_json(record: RunRecord) -> dict[str, Any]:
    """Return the run in the shape of the `--json` contract (design section 5)."""
    return {
        "id": record.id,
        "workflow": record.workflow,
        "state": record.state.value,
        "arguments": record.arguments,
        "started": record.started,
        "ended": record.ended,
        "outcome": record.outcome,
        "steps": [
            {
                "name": step.name, "title": step.title, "state": step.state.value, "attempts": step.attempts,
                "facts": json.loads(json.dumps(step.facts)), "error": step.error, "started": step.started,
                "ended": step.ended,
            }
            for step in record.steps
        ],
    }  # fmt: skip
