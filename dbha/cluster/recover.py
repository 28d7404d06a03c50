"""Bring a cluster back that is down or in part down, as a plan: what was decided, and how it is done step by step.

Nothing that is done here loses data: servers are started, a flag is set, and data that cannot be believed is moved
aside. Every step looks before it acts, so it can be repeated after it was cut off anywhere.
"""

import json
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from dbha.cluster.bootstrap import start_nodes, stop_nodes
from dbha.cluster.evidence import Evidence, MemberProblemError, ask, gather
from dbha.cluster.handle import Cluster
from dbha.cluster.home import begin_timeline, ensure_home, timeline_chain
from dbha.cluster.joining import await_members
from dbha.cluster.observe import observe
from dbha.cluster.recover_decide import RUNBOOK, Decision, Join, Way, decide
from dbha.cluster.recover_lease import RecoverLease
from dbha.cluster.state import PRIMARY, SYNCED, NodeState
from dbha.cluster.timeline_notes import note_timeline
from dbha.errors import BugError, BusyError, DbhaError, NotRecoveredError, UnreachableError, UnsafeError
from dbha.inventory import Node
from dbha.journal import Facts, RunState, controller_name
from dbha.workflow import Plan, Step, StepContext
from dbha.workflow.plan import Stage, once, stage

WORKFLOW = "cluster recover"
CHANCE_S = 20.0  # Galera needs two seconds to restore a component of members that all run; hosts may be slow
_LOOK_EVERY_S = 0.2
_OWN_WORDS = (BugError.exit_code, 130, 143)
_OBSERVE_WITHIN_S = 3.0


class RecoverSpec(BaseModel):
    """What was seen and decided; the run's arguments in the journal."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    way: Way
    first: tuple[str, ...]
    chosen: str
    joins: tuple[tuple[str, str], ...]  # name, and why its data is moved aside
    left_alone: tuple[tuple[str, str], ...]
    missing: tuple[str, ...]
    why: tuple[str, ...]
    seen: tuple[dict[str, Any], ...]

    @property
    def command(self) -> str:
        """What to type for the same once more."""
        return " ".join(("dbha cluster recover", *(f"--accept-missing {node}" for node in self.missing)))


def recover_spec(decision: Decision, evidence: Evidence) -> RecoverSpec:
    """Return the decision with what it was made from, for the journal."""
    known = asdict(decision)
    joins = tuple((join.name, join.afresh) for join in decision.joins)
    return RecoverSpec(**known | {"joins": joins, "seen": tuple(evidence.as_json())})


def recover_plan(
    spec: RecoverSpec, cluster: Cluster, inventory: Path, run_directory: Path, lease: RecoverLease
) -> Plan:
    """Return the plan that does what was decided."""
    world = _World(spec, cluster, inventory, run_directory, lease)
    return Plan(
        title=f"recover cluster {cluster.name}",
        forward=(
            once("claim", "tell every host that this run recovers the cluster", world.claim,
                 Step("unclaim", "let the hosts go", world.unclaim)),
            *world.beginning(),
            once("hold", "hold the cluster", world.hold,
                 Step("give-back", "let the cluster go", world.give_back)),
            *world.new_timeline(),
            *(stage(world.join_step(Join(*each))) for each in spec.joins),
            once("prove", "prove all members one cluster", world.prove),
        ),
        finish=(once("let-go", "let the cluster and the hosts go", world.let_go),),
        on_undone=world.explain,
        ends_as=lambda begun: RunState.REFUSED if begun <= {"claim"} else RunState.ABANDONED,
    )  # fmt: skip


class _World:
    """The steps of one recovery."""

    def __init__(
        self, spec: RecoverSpec, cluster: Cluster, inventory: Path, run_directory: Path, lease: RecoverLease
    ) -> None:
        self.spec, self.whole = spec, cluster
        self.cluster = cluster.only(node.name for node in cluster.nodes if node.name not in spec.missing)
        self.lease = lease
        self._playbooks: dict[str, Any] = {"inventory": inventory, "run_directory": run_directory}

    # --- the steps -----------------------------------------------------------------------------------------

    def claim(self, context: StepContext) -> Facts:
        """Claim one host after the other, in the same order from every controller: the first one decides."""
        for node in self._hosts():
            answer = ask(self.cluster, node, "claim", claim=_claim(context.run_id))
            if (other := answer.get("taken_by")) and self._is_over(other):
                ask(self.cluster, node, "unclaim", claim=other)
                other = ask(self.cluster, node, "claim", claim=_claim(context.run_id)).get("taken_by")
            if other:
                raise BusyError(
                    f"{node}: {_in_words(other)} recovers the cluster already",
                    hint=f"{RUNBOOK}#another-controller-recovers     when that controller is gone for good",
                )
        return {}

    def unclaim(self, context: StepContext) -> Facts:
        """Take the claims back; a host that cannot be asked now keeps one of a run that is known to have ended."""
        release_claims(self.cluster, context.run_id)
        return {}

    def give_back(self, context: StepContext) -> Facts:
        """Give the lease back, if it was taken."""
        self.lease.give_back(self.cluster, context.run_id)
        return {}

    def _is_over(self, claim: str) -> bool:
        """Return whether a claim is of a run of this controller that ended; that it is not at work our lock says."""
        try:
            known = json.loads(claim)
            return known["controller"] == _controller() and self.lease.has_ended(known["run"])
        except (ValueError, KeyError, TypeError):
            return False

    def beginning(self) -> tuple[Stage, ...]:
        """Return the stages after which a Primary component lives."""
        first, chosen = _and(self.spec.first), self.spec.chosen
        form = once(
            "form", f"start {first} with their positions, and let Galera restore their component", self.form
        )
        only_if = "" if self.spec.way == "force" else "only if it does not: "
        force = once("force", f"{only_if}form a new cluster on {chosen} alone", self.force)
        promote = once("promote", f"make {chosen} a Primary component (pc.bootstrap)", self.promote)
        return {"reform": (form, force), "force": (force,), "promote": (promote,)}.get(self.spec.way, ())

    def new_timeline(self) -> tuple[Stage, ...]:
        """Return the stage that tells what follows from what was before, where a bootstrap was forced."""
        if self.spec.way not in ("reform", "force", "promote"):
            return ()
        condition = " if a new cluster was formed" if self.spec.way == "reform" else ""
        step = Step("timeline", f"begin a new timeline{condition}", self.begin_timeline, _new_identity)
        return (stage(step),)

    def form(self, context: StepContext) -> Facts:
        """Start those that were the last component together, and wait as long as Galera may need."""
        nodes = self._nodes(self.spec.first)
        start_nodes(nodes, on_line=context.say, **self._playbooks)
        end_s = time.monotonic() + CHANCE_S
        while not (formed := self._is_primary(nodes)) and time.monotonic() < end_s:
            time.sleep(_LOOK_EVERY_S)
        if formed:
            self._await(nodes, context)
            return {"formed": True, "note": "Galera restored it by itself"}
        return {"formed": False, "note": f"no Primary component within {CHANCE_S:g} s"}

    def force(self, context: StepContext) -> Facts:
        """Form a new cluster on the chosen node, unless one lives; everything is looked at again before."""
        chosen = self.cluster.node(self.spec.chosen)
        if context.facts.get("form", {}).get("formed"):
            return {"forced": False, "note": "not needed"}
        if self._is_primary(self.cluster.nodes):
            return {"forced": context.interrupted, "note": "a Primary component lives"}
        if not (context.interrupted and self._forms_alone(chosen)):
            self._end_all(context)
            self._decide_again()
            for node in sorted(
                self.cluster.nodes, key=lambda each: each is chosen
            ):  # the flag is cleared before it is set
                ask(self.cluster, node, "arm", forms=node is chosen)
            context.guard()
            start_nodes([chosen], new_cluster_node=chosen, on_line=context.say, **self._playbooks)
        self._await([chosen], context)
        return {"forced": True, "note": f"{chosen} alone"}

    def promote(self, context: StepContext) -> Facts:
        """Tell the living node that those outside are dead: it goes on with what it has, without a restart."""
        chosen = self.cluster.node(self.spec.chosen)
        if self._is_primary(self.cluster.nodes):
            return {"forced": context.interrupted, "note": "a Primary component lives already"}
        self._decide_again()
        with self.cluster.session(chosen, read_timeout_s=30) as session:
            session.execute("SET GLOBAL wsrep_provider_options = 'pc.bootstrap=YES'")
        self._await([chosen], context)
        return {"forced": True}

    def hold(self, context: StepContext) -> Facts:
        """Take the lease, so that nobody begins a run while members come and go."""
        return self.lease.take(self.cluster, context)

    def begin_timeline(self, context: StepContext) -> Facts:
        """Give the history that was bootstrapped a name of its own, with those that it comes from."""
        if not any(context.facts.get(name, {}).get("forced") for name in ("force", "promote")):
            return {"note": "not needed: the history is unbroken"}
        nodes = self._primary_nodes()
        without = f" without {', '.join(self.spec.missing)}" if self.spec.missing else ""
        with self.cluster.session(nodes[0]) as session:
            ensure_home(session)
            identity = begin_timeline(
                session, f"recovered from {self.spec.chosen}{without}", identity=context.intent["identity"]
            )
            chain = timeline_chain(session)
        note_timeline(self.cluster, nodes, chain)
        return {"timeline": identity}

    def join_step(self, join: Join) -> Step:
        """Return the step of one member: the others wait for it, as each transfer takes a donor away."""
        what = "move the data aside and bring back, by a full transfer," if join.afresh else "bring back"
        return Step(f"join:{join.name}", f"{what} {join.name}", partial(self.join, join))

    def join(self, join: Join, context: StepContext) -> Facts:
        """Start one member and wait until it has everything."""
        node = self.cluster.node(join.name)
        if not self._is_primary([node]):
            if not self._runs(node):
                self._make_startable(node, join, context)
            start_nodes([node], on_line=context.say, **self._playbooks)
        self._await([node], context)
        self._note_timeline([node])
        old = ask(self.cluster, node, "kept", run=context.run_id)["old"]
        return {"old": old, "note": f"its old data is in {old}"} if old else {}

    def _make_startable(self, node: Node, join: Join, context: StepContext) -> None:
        if join.afresh:
            ask(self.cluster, node, "set_aside", run=context.run_id)
        elif any(each["name"] == node.name and each["has_torn_view"] for each in self.spec.seen):
            ask(self.cluster, node, "forget_view")

    def prove(self, context: StepContext) -> Facts:
        """Require all members in one Synced component, each with nothing left to apply."""
        nodes = self._together()
        states = self._await(nodes, context)
        with self.cluster.session(nodes[0]) as session:
            ensure_home(session)
            chain = timeline_chain(session) or (begin_timeline(session, "first recovered"),)
        note_timeline(self.cluster, nodes, chain)
        return {
            "timeline": chain[-1], "uuid": states[0].cluster_state_uuid,
            "note": f"{len(nodes)} Synced at {states[0].last_committed}",
        }  # fmt: skip

    def let_go(self, context: StepContext) -> Facts:
        """Give back what kept others out."""
        self.give_back(context)
        return self.unclaim(context)

    def explain(self, failure: DbhaError, begun: frozenset[str]) -> DbhaError:
        """Return what the operator is told: nothing is put back, as nothing was lost."""
        again = f"{self.spec.command}     decides anew\n{RUNBOOK}#it-began-and-did-not-finish"
        if begun <= {"claim"} or failure.exit_code in _OWN_WORDS:
            failure.hint = failure.hint or again
            return failure
        return NotRecoveredError(str(failure), hint=failure.hint or again)

    # --- looking -------------------------------------------------------------------------------------------

    def _nodes(self, names: Sequence[str]) -> list[Node]:
        return [node for node in self.cluster.nodes if node.name in names]

    def _together(self) -> list[Node]:
        """Return the nodes that the run brings together; of a component that lived already those that are Synced."""
        joined = [name for name, _ in self.spec.joins]
        if self.spec.way != "join":
            return self._nodes([*self.spec.first, *joined])
        return self._nodes([*joined, *(node.name for node in self._primary_nodes())])

    def _hosts(self) -> list[Node]:
        """Return the nodes whose hosts could be asked."""
        silent = {each["name"] for each in self.spec.seen if each["problem"]}
        return [node for node in self.cluster.nodes if node.name not in silent]

    def _look(self, nodes: Sequence[Node]) -> tuple[NodeState, ...]:
        return observe(self.cluster.only(node.name for node in nodes), _OBSERVE_WITHIN_S)

    def _is_primary(self, nodes: Sequence[Node]) -> bool:
        return any(state.cluster_status == PRIMARY for state in self._look(nodes))

    def _primary_nodes(self) -> list[Node]:
        states = self._look(self.cluster.nodes)
        found = self._nodes([state.name for state in states if state.local_state == SYNCED])
        if not found:
            raise UnreachableError("no node is Synced any more", hint="dbha status", unchanged="")
        return found

    def _runs(self, node: Node) -> bool:
        return bool(ask(self.cluster, node, "look", recover=False)["pids"])

    def _forms_alone(self, node: Node) -> bool:
        """Return whether an attempt that was cut off started the node already, as the one that forms a cluster."""
        answer = ask(self.cluster, node, "look", recover=False)
        return bool(answer["pids"]) and "safe_to_bootstrap: 1" in answer["state"] and not answer["has_view"]

    def _decide_again(self) -> None:
        """Raise UnsafeError unless the evidence leads to the same node still."""
        evidence = gather(self.whole)
        decision = decide(evidence, accept_missing=self.spec.missing)
        if decision.chosen != self.spec.chosen:
            raise UnsafeError(
                f"what is seen now leads to another decision than before ({decision.way} {decision.chosen}):"
                f" {'; '.join(decision.why)}",
                hint=f"{self.spec.command}     decides anew",
            )

    def _end_all(self, context: StepContext) -> None:
        """End all servers: politely those that answer; those that wait for others do not listen to that."""
        members = gather(self.cluster, is_settled=True).members
        if hanging := [member.name for member in members if member.hangs]:
            raise UnsafeError(f"{_and(hanging)} runs and does not answer", hint=f"{RUNBOOK}#a-server-hangs")
        if answering := self._nodes([member.name for member in members if member.answers]):
            stop_nodes(answering, at_once=True, on_line=context.say, **self._playbooks)
        for node in self._nodes([member.name for member in members if member.waits]):
            context.say(f"{node} waits for the others: its server is killed")
            ask(self.cluster, node, "end_waiting")

    # --- acting --------------------------------------------------------------------------------------------

    def _note_timeline(self, nodes: Sequence[Node]) -> None:
        with self.cluster.session(self._primary_nodes()[0]) as session:
            chain = timeline_chain(session)
        note_timeline(self.cluster, nodes, chain)

    def _await(self, nodes: Sequence[Node], context: StepContext) -> tuple[NodeState, ...]:
        return await_members(self.cluster, nodes, context.measure)


def _new_identity(_: Mapping[str, Facts]) -> Facts:
    return {"identity": str(uuid.uuid4())}


def _controller() -> str:
    return controller_name().rpartition(":")[0]


def _claim(run_id: str) -> str:
    return json.dumps({"run": run_id, "controller": _controller()})


def release_claims(cluster: Cluster, run_id: str) -> None:
    """Take back what an abandoned run told the hosts; those that cannot be asked keep it."""
    for node in cluster.nodes:
        try:
            ask(cluster, node, "unclaim", claim=_claim(run_id))
        except (UnreachableError, MemberProblemError):
            continue


def _in_words(claim: str) -> str:
    try:
        known = json.loads(claim)
        return f"run {known['run']} of controller {known['controller']}"
    except (ValueError, KeyError, TypeError):
        return "another run"


def _and(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
