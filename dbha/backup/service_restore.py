"""Put one service's databases back from a verified backup while all other services keep working.

The tables that are there are moved aside first and dropped only when the restored ones are proven: equal to the
backup's structure, with equal checksums on every node and, where they were recorded before the damage, with the
very checksums of then. Until then the service has to stay behind its fence.
"""

import contextlib
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from dbha.backup.aside import (
    aside_name,
    asides_in,
    bring_back,
    bring_others_back,
    charset_of,
    create_database,
    drop_others,
    drop_tables,
    drop_tables_and_database,
    move_tables,
    others_in,
    others_of,
    tables_of,
    triggers_of,
)
from dbha.backup.definitions import Definitions, fingerprint
from dbha.backup.logical import restore_logically
from dbha.backup.proof import (
    Checksums,
    NotProvenError,
    checksums,
    forget_probe,
    prove_replication,
    prove_structure,
    require_equal,
)
from dbha.backup.staged_files import CopyFailedError
from dbha.backup.tablespaces import clear_database, clear_tables, drop_tables_here, import_database
from dbha.cluster.assess import Verdict
from dbha.cluster.handle import Cluster, host_by_host, side_by_side
from dbha.database import NodeUnreachableError, SqlError
from dbha.errors import DbhaError, UnreachableError
from dbha.heads import Heads
from dbha.inventory import Node
from dbha.journal import Facts
from dbha.transport import CommandFailedError
from dbha.workflow import Step, StepContext
from dbha.workflow.plan import Stage, stage

_DATABASES_PER_NODE = 3  # while one defines its tables another copies its files
_LOADING = threading.Lock()  # services that are loaded side by side take turns with the private server
_NODE_CANNOT = (UnreachableError, SqlError, CopyFailedError, CommandFailedError)

IMPORT = "import"  # tables are imported on every node side by side
LOGICAL = "logical"  # a dump is replayed through one node
NOTHING = "nothing"  # the databases are as they were


@dataclass(frozen=True, slots=True)
class Method:
    """How a service is put back, and why that way."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Target:
    """What is to be put back; `before` finds the checksums from before the damage, if they were recorded.

    `heads` are known once the source is prepared.
    """

    service: str
    databases: tuple[str, ...]
    heads: Callable[[], Heads]
    before: Callable[[Mapping[str, Facts]], Checksums | None]


class Source(Protocol):
    """Where the good data comes from."""

    def definitions(self) -> Definitions:
        """Return the structure of the databases; raises FoundWrongError when it is damaged."""
        ...

    def prepared(self, context: StepContext) -> Path:
        """Return the unpacked and prepared backup, making it again if it is gone."""
        ...

    def prepared_apart(self, context: StepContext) -> Path:
        """Return one more prepared backup, which a server may write to; one at a time."""
        ...


def choose_method(verdict: Verdict, definitions: Definitions, databases: Sequence[str]) -> Method:
    """Return how to put the databases back safely. Importing needs every node of the inventory to take part:
    what is imported is not replicated, so a node that is away would come back without it.
    """
    if away := _away(verdict):
        return Method(LOGICAL, f"{', '.join(away)} cannot take part now, and must be able to catch up later")
    if beyond := [thing for database in databases for thing in definitions.databases[database].beyond_tables]:
        return Method(LOGICAL, f"the backup has more than tables: {', '.join(beyond[:3])}")
    return Method(IMPORT, "all nodes can import the same tables side by side")


def _away(verdict: Verdict) -> list[str]:
    return [node.name for node in verdict.nodes if not node.serves]


def _serving(cluster: Cluster, verdict: Verdict) -> list[Node]:
    return [cluster.node(node.name) for node in verdict.nodes if node.serves]


class ServiceRestore:
    """Builds the stages that put services back, for a plan or for the undo of one."""

    def __init__(
        self,
        cluster: Cluster,
        source: Source,
        observe: Callable[[], Verdict],
        quiesce: Callable[[str], None],
    ) -> None:
        self._cluster = cluster
        self._source = source
        self._observe = observe
        self._quiesce = quiesce

    def stages(self, target: Target, *, force: bool) -> tuple[Stage, ...]:
        """Return the stages that put one service back and prove it; with `force` even if it looks untouched.

        What was there before stays aside until `clean_up`, and comes back when these stages are undone.
        """
        prefix, title = f"restore:{target.service}", target.service
        imports = [
            Step(
                f"{prefix}:import:{node.name}",
                f"import {title} on {node.name}",
                partial(self._import, target, node),
            )
            for node in self._cluster.nodes
        ]
        return (
            stage(Step(f"{prefix}:look", f"see what {title} needs", partial(self._look, target, force))),
            stage(self._aside_step(target, prefix)),
            stage(*imports),
            stage(
                Step(f"{prefix}:load", f"load {title} where importing cannot be", partial(self._load, target))
            ),
            stage(Step(f"{prefix}:prove", f"prove {title} equal on all nodes", partial(self._prove, target))),
        )

    def clean_up(self, target: Target) -> Step:
        """Return the step that drops what was moved aside, once the service is proven."""
        name, title = f"restore:{target.service}:drop", f"drop what was moved aside of {target.service}"
        return Step(name, title, partial(self.drop_aside, target))

    def _aside_step(self, target: Target, prefix: str) -> Step:
        put_back = Step(
            f"{prefix}:aside-undo",
            f"bring the tables of {target.service} back from aside",
            partial(self._bring_back, target),
        )
        return Step(
            f"{prefix}:aside",
            f"move the tables of {target.service} aside",
            partial(self._move_aside, target),
            partial(self._before_moving, target),
            undo=(stage(put_back),),
        )

    def _before_moving(self, target: Target, facts: Mapping[str, Facts]) -> Facts:
        """Return what has to be known to bring the tables back without the backup: their names, the text of what
        cannot move, and what the restore is going to make."""
        restored = self._source.definitions().databases
        with self._cluster.session(self._writer(self._observe())) as session:
            return {
                "charsets": {name: charset_of(session, name) for name in target.databases},
                "tables": {name: tables_of(session, name) for name in target.databases},
                "triggers": {name: triggers_of(session, name) for name in target.databases},
                "others": {name: others_of(session, name) for name in target.databases},
                "made_tables": {name: sorted(restored[name].tables) for name in target.databases},
                "made_others": {name: sorted(others_in(restored[name])) for name in target.databases},
            }

    def _look(self, target: Target, force: bool, context: StepContext) -> Facts:
        self._quiesce(target.service)
        verdict = self._observe()
        writer = self._writer(verdict)
        before = target.before(context.facts)
        if not force and before is not None and self._untouched(target, writer, before):
            return {"method": NOTHING, "reason": "structure and rows are as before", "writer": writer.name}
        method = choose_method(verdict, self._source.definitions(), target.databases)
        context.say(f"{target.service}: {method.reason}")
        return {"method": method.name, "reason": method.reason, "writer": writer.name}

    def _untouched(self, target: Target, writer: Node, before: Checksums) -> bool:
        definitions = self._source.definitions()
        with self._cluster.session(writer) as session:
            if fingerprint(session, target.databases) != definitions.fingerprint_of(target.databases):
                return False
        return checksums(self._cluster, writer, target.databases) == before

    def _move_aside(self, target: Target, context: StepContext) -> Facts:
        look = context.facts[f"restore:{target.service}:look"]
        if look["method"] == NOTHING:
            return {**context.intent, "asides": []}
        definitions = self._source.definitions()
        asides = []
        with self._cluster.session(self._writer(self._observe())) as session:
            for database in target.databases:
                known = definitions.databases[database]
                create_database(session, database, known.charset, known.collation)
                aside = aside_name(context.run_id, database)
                drop_others(session, database, context.intent["others"][database], guard=context.guard)
                move_tables(session, database, aside, guard=context.guard)
                asides.append(aside)
        return {**context.intent, "asides": asides}

    def _bring_back(self, target: Target, context: StepContext) -> Facts:
        """Put what was moved aside in the place of whatever the restore had made so far."""
        before = context.begun[f"restore:{target.service}:aside"]
        if "tables" not in before:  # it failed before it could even look: nothing was moved
            return {}
        verdict = self._observe()
        with self._cluster.session(self._writer(verdict)) as session:
            there = asides_in(session)
            for database in target.databases:
                aside = aside_name(context.run_id, database)
                if aside in there:
                    create_database(session, database, *before["charsets"][database])
                    newly_made = set(before["made_tables"][database]) - set(before["tables"][database])
                    replaced = sorted(newly_made.union(tables_of(session, aside)))
                    for node in _serving(self._cluster, verdict):  # a node may have them half imported
                        context.guard()
                        clear_tables(self._cluster, node, database, replaced)
                    drop_others(session, database, before["made_others"][database], guard=context.guard)
                    drop_tables(session, database, newly_made, guard=context.guard)
                    bring_back(session, aside, database, before["triggers"][database], guard=context.guard)
                bring_others_back(session, database, before["others"][database], guard=context.guard)
        return {}

    def _import(self, target: Target, node: Node, context: StepContext) -> Facts:
        if context.facts[f"restore:{target.service}:look"]["method"] != IMPORT:
            return {"imported": 0}
        definitions = self._source.definitions()
        prepared = self._source.prepared(context)
        copied, counting = 0, threading.Lock()

        def count(more: int) -> None:
            nonlocal copied
            with counting:
                copied += more
            context.measure(copied, None)

        def import_one(database: str) -> int:
            tables = definitions.databases[database].tables
            return import_database(
                self._cluster, node, database, tables, prepared, guard=context.guard, on_bytes=count
            )

        try:
            with ThreadPoolExecutor(max_workers=_DATABASES_PER_NODE) as pool:
                imported = sum(pool.map(import_one, target.databases))
        except _NODE_CANNOT as error:  # the load step takes the other way
            context.say(f"importing on {node} failed, so {target.service} is loaded instead: {error}")
            return {"imported": None, "why": str(error)}
        return {"imported": imported, "bytes": copied}

    def _load(self, target: Target, context: StepContext) -> Facts:
        prefix = f"restore:{target.service}"
        method = context.facts[f"{prefix}:look"]["method"]
        if method == NOTHING:
            return {"loaded": False}
        failed = [
            node.name
            for node in self._cluster.nodes
            if context.facts[f"{prefix}:import:{node.name}"]["imported"] is None
        ]
        if method == IMPORT and not failed:
            away = _away(self._observe())
            if not away:
                return {"loaded": False}
            context.say(f"{', '.join(away)} left since, so {target.service} is loaded instead")
        self._load_now(target, context)
        return {"loaded": True, "import_failed_on": failed}

    def _load_now(self, target: Target, context: StepContext) -> None:
        verdict = self._observe()
        definitions = self._source.definitions()
        with _LOADING:
            for node in _serving(self._cluster, verdict):
                for database in target.databases:
                    clear_database(self._cluster, node, database)  # else its files keep it from being dropped
            restore_logically(
                self._cluster,
                self._writer(verdict),
                {database: definitions.databases[database] for database in target.databases},
                self._source.prepared_apart(context),
                guard=context.guard,
            )

    def _prove(self, target: Target, context: StepContext) -> Facts:
        if context.facts[f"restore:{target.service}:look"]["method"] == NOTHING:
            return {"tables": 0}
        if context.facts[f"restore:{target.service}:load"]["loaded"]:
            return self._read_back(target, context)
        try:
            if away := _away(self._observe()):  # what they missed is not in what the others send them
                raise NotProvenError(
                    f"{', '.join(away)} cannot be asked, and may come back without the import"
                )
            return self._read_back(target, context)
        except (
            NotProvenError,
            NodeUnreachableError,
        ) as error:  # one of them got a state transfer meanwhile, say
            context.say(f"{error}; so {target.service} is loaded instead")
        self._load_now(target, context)
        return self._read_back(target, context)

    def _read_back(self, target: Target, context: StepContext) -> Facts:
        verdict = self._observe()
        reachable = _serving(self._cluster, verdict)
        writer = self._writer(verdict)
        wanted = target.heads()
        versioned = next((database for database, heads in wanted.items() if heads), None)
        if versioned is not None:
            forget_probe(self._cluster, writer, versioned)
        expected_structure = self._source.definitions().fingerprint_of(target.databases)
        side_by_side(lambda node: prove_structure(self._cluster, node, wanted, expected_structure), reachable)
        found = host_by_host(lambda node: checksums(self._cluster, node, target.databases), reachable)
        require_equal(target.before(context.facts) or found[writer.name], found)
        if versioned is not None:
            prove_replication(self._cluster, writer, reachable, versioned)
        return {"tables": len(found[writer.name]), "nodes": [node.name for node in reachable]}

    def drop_aside(self, target: Target, context: StepContext) -> Facts:
        """Drop what this run moved aside of the service, if anything; return the names of the databases."""
        own = {aside_name(context.run_id, database) for database in target.databases}
        verdict = self._observe()
        with self._cluster.session(self._writer(verdict)) as session:
            asides = sorted(own.intersection(asides_in(session)))
            side_by_side(partial(self._drop_here, asides, context), _serving(self._cluster, verdict))
            for aside in asides:  # with what is left of it on any node
                drop_tables_and_database(session, aside, guard=context.guard)
        return {"dropped": asides}

    def _drop_here(self, asides: Sequence[str], context: StepContext, node: Node) -> None:
        """Drop the tables on this node by itself, which holds up nobody; what cannot be is dropped on all at once."""
        with contextlib.suppress(UnreachableError, SqlError):
            for aside in asides:
                drop_tables_here(self._cluster, node, aside, guard=context.guard)

    def _writer(self, verdict: Verdict) -> Node:
        if verdict.writer is None:
            raise DbhaError(
                f"no node can take writes: {'; '.join(verdict.reasons)}",
                hint="dbha status     once a node serves again: dbha runs resume",
            )
        return self._cluster.node(verdict.writer)
