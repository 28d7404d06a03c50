"""Ask the installed code of a release, wherever it is, which heads a synced schema has."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dbha.errors import UnreachableError
from dbha.releases.runner import WITHOUT_CURRENT_DIRECTORY, Runner, run_within
from dbha.services import SERVICES, Service

SCRIPT = Path(__file__).with_name("probe_script.py")


@dataclass(frozen=True, slots=True)
class CodeHeads:
    """What the code of a place answered, by database; a container of one service has problems with the rest."""

    heads: Mapping[str, tuple[str, ...]]
    problems: Mapping[str, str]


def probe(
    runner: Runner, services: Iterable[Service] = tuple(SERVICES.values()), *, timeout_s: float = 60
) -> CodeHeads:
    """Return the heads of the services' databases, sorted, as the runner's code has them.

    Raises UnreachableError when the place or its Python is not there, or gave no answer.
    """
    databases = [database for service in services for database in service.databases]
    schemas = {database.schema.name: asdict(database.schema) for database in databases}
    for source in schemas.values():
        del source["name"]
    argv = ("python3", "-", json.dumps(schemas))
    ended = run_within(
        runner, argv, stdin=WITHOUT_CURRENT_DIRECTORY + SCRIPT.read_text(), timeout_s=timeout_s
    )
    answer = _answer(runner, ended.tail)
    found, problems = answer["heads"], answer["problems"]
    names = [(database.name, database.schema.name) for database in databases]
    return CodeHeads(
        heads={name: tuple(found[schema]) for name, schema in names if schema in found},
        problems={name: problems[schema] for name, schema in names if schema in problems},
    )


def _answer(runner: Runner, lines: tuple[str, ...]) -> dict[str, Any]:
    for line in reversed(lines):
        if line.startswith('{"heads": '):
            answer: dict[str, Any] = json.loads(line)
            return answer
    reason = lines[-1] if lines else "it said nothing"
    raise UnreachableError(f"the code in {runner.name} does not tell its schema: {reason}", hint=runner.hint)
