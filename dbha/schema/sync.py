"""Run a service's own schema sync against one node, then prove by reading back that it did all of its work."""

import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from dbha.backup.definitions import fingerprint
from dbha.backup.proof import NotProvenError
from dbha.cluster.handle import Cluster, side_by_side
from dbha.database import identifier
from dbha.errors import DbhaError
from dbha.heads import Heads, in_words, read_heads
from dbha.inventory import Node
from dbha.releases.configuration import Endpoint, render_config
from dbha.releases.runner import NativeResult
from dbha.releases.tools import Tools
from dbha.schema.migration_account import migration_account
from dbha.services import NativeCommand, Service, SyncMethod, cell_mapping_commands

_CAUSE_LINES = 4
_EXCEPTION = re.compile(r"(?:(?:\w+\.)+[A-Z]\w*|[A-Z]\w*(?:Error|Exception))(?::|$)")


class SyncFailedError(DbhaError):
    """A native command failed, or it said that it worked and the schema says otherwise."""

    exit_code = 1


@dataclass(frozen=True, slots=True)
class SyncJob:
    """One service to bring to the schema of the code that `tools` are of, through the address of one node."""

    service: Service
    method: SyncMethod
    tools: Tools
    expected: Heads
    timeout_s: float
    output_directory: Path


def sync_service(
    cluster: Cluster, node: Node, job: SyncJob, *, run_id: str, guard: Callable[[], None]
) -> list[NativeResult]:
    """Run the native commands of the job with an account made for it, and prove the heads on every node.

    Returns what each command did; all that they said goes to a file in the job's directory. Raises
    SyncFailedError with the cause in the tool's words and what its exit code means; the schema may then be half
    changed.
    """
    with job.tools, _output_file(job, run_id) as output:
        return _sync(cluster, node, job, output, guard)


def _sync(
    cluster: Cluster, node: Node, job: SyncJob, output: TextIO, guard: Callable[[], None]
) -> list[NativeResult]:
    results: list[NativeResult] = []
    with migration_account(cluster, node, job.service, guard=guard) as account:
        endpoint = Endpoint(node.address, node.port, account.user, account.password)

        def run(command: NativeCommand) -> NativeResult:
            guard()
            configuration = render_config(command, endpoint)

            def keep(line: str) -> None:
                output.write(f"{command.title}: {line}\n")

            return job.tools.run(command, configuration, timeout_s=job.timeout_s, on_line=keep)

        for stage in job.service.stages(job.method):
            results += _side_by_side(run, stage, output.name)
        for command in cell_mapping_commands(job.service, unmapped_cells(cluster, node, job.service)):
            results += _side_by_side(run, [command], output.name)
    prove_heads(cluster, job.service, job.expected)
    return results


def prove_heads(cluster: Cluster, service: Service, expected: Heads) -> None:
    """Raise SyncFailedError unless every database of the service has the expected heads on every node."""
    found = side_by_side(lambda node: _heads_on(cluster, node, service), cluster.nodes)
    wrong = [f"{node} has {in_words(heads)}" for node, heads in found.items() if heads != expected]
    if wrong:
        raise SyncFailedError(f"{service.name} is not at {in_words(expected)}: {'; '.join(wrong)}")


def prove_same_structure(cluster: Cluster, databases: Sequence[str]) -> str:
    """Return the fingerprint of the databases' structure; raises NotProvenError when nodes do not agree on it."""

    def on(node: Node) -> str:
        with cluster.session(node) as session:
            session.execute("SET SESSION wsrep_sync_wait = 1")
            return fingerprint(session, databases)

    found = side_by_side(on, cluster.nodes)
    if len(set(found.values())) != 1:
        raise NotProvenError(f"the structure of {', '.join(databases)} differs between nodes: {found}")
    return next(iter(found.values()))


def unmapped_cells(cluster: Cluster, node: Node, service: Service) -> set[str]:
    """Return the cell databases that nova_api.cell_mappings does not mention; none for other services."""
    cells = {database.name for database in service.databases if database.cell}
    if not cells:
        return set()
    api = next(database.name for database in service.databases if not database.cell)
    with cluster.session(node) as session:
        urls = session.column(f"SELECT database_connection FROM {identifier(api)}.cell_mappings")
    mapped = {url.rsplit("/", 1)[-1].partition("?")[0] for url in urls}
    return cells - mapped


def _heads_on(cluster: Cluster, node: Node, service: Service) -> Heads:
    with cluster.session(node) as session:
        session.execute("SET SESSION wsrep_sync_wait = 1")
        return read_heads(session, service.database_names)


def _side_by_side(
    run: Callable[[NativeCommand], NativeResult], commands: Sequence[NativeCommand], output: str
) -> list[NativeResult]:
    with ThreadPoolExecutor(max_workers=max(1, len(commands))) as pool:
        results = list(pool.map(run, commands))
    for command, result in zip(commands, results, strict=True):
        if not result.is_success:
            words = "\n  ".join(cause_of(result.tail))
            raise SyncFailedError(
                f"`{command.tool} {' '.join(command.arguments)}` exited {result.returncode} ({command.title}):"
                f" {result.meaning.sentence}\n  {words}\n  all that it said: {output}"
            )
    return results


def cause_of(tail: Sequence[str]) -> list[str]:
    """Return the lines of a tool's last words that name the cause: of a Python traceback the exception itself.

    An exception of SQL is followed by the statement, which can be long and has lines of any shape.
    """
    told = [line for line in tail if line.strip() and not line.startswith("(Background on this error")]
    exceptions = [number for number, line in enumerate(told) if _EXCEPTION.match(line)]
    return told[exceptions[-1] :][:_CAUSE_LINES] if exceptions else told[-_CAUSE_LINES:]


@contextmanager
def _output_file(job: SyncJob, run_id: str) -> Iterator[TextIO]:
    """Yield the file that keeps what the job's commands say, for its owner only."""
    job.output_directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = job.output_directory / f"{run_id}-{job.service.name}.log"
    path.touch(mode=0o600)
    with path.open("a", encoding="utf-8", buffering=1) as file:
        yield file
