"""What each endpoint answers: pure functions of the last observation and the time."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from dbha.cluster.assess import NodeVerdict
from dbha.health.observation import Moment, NodesSeen, Observation
from dbha.health.status import nodes_as_json

OK, UNKNOWN, UNAVAILABLE = 200, 404, 503


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP status, and the words or values that go with it."""

    status: int
    body: dict[str, Any]


def health(observation: Observation, now: Moment, stale_after_s: float) -> Answer:
    """Return everything that is known. 200 while the cluster serves, 503 when it is unsafe, down, or not known."""
    seen, why = _fresh(observation, now, stale_after_s)
    known = observation.nodes.value
    body: dict[str, Any] = {
        "schema": 1,
        "cluster": observation.cluster,
        "verdict": seen.verdict.level if seen else "unknown",
        "reasons": list(seen.verdict.reasons) if seen else [why],
        "writer": seen.verdict.writer if seen else None,
        "nodes": nodes_as_json(known.nodes, known.verdict) if known else [],
        **_inside(observation),
        "observed": {
            part: {"age_s": _rounded(look.age_s(now)), "problem": look.problem or None}
            for part, look in observation.parts().items()
        },
    }
    serves = seen is not None and seen.verdict.level in ("healthy", "degraded")
    return Answer(OK if serves else UNAVAILABLE, body)


def ready(observation: Observation, now: Moment, stale_after_s: float, node: str = "") -> Answer:
    """Return whether clients may be sent to the cluster, or to one node of it: 200 or 503."""
    return _of_cluster_or_node(observation, now, stale_after_s, node, lambda _, each: (each.serves, each.why))


def writer(observation: Observation, now: Moment, stale_after_s: float, node: str = "") -> Answer:
    """Return which node clients should write to, or whether it is this one: 200 or 503."""
    return _of_cluster_or_node(observation, now, stale_after_s, node, _is_writer)


def live() -> Answer:
    """Return that the process answers, whatever the cluster does: a restart of dbha would heal no node."""
    return Answer(OK, {"live": True})


def _of_cluster_or_node(
    observation: Observation,
    now: Moment,
    stale_after_s: float,
    node: str,
    judge: Callable[[NodesSeen, NodeVerdict], tuple[bool, str]],
) -> Answer:
    seen, why = _fresh(observation, now, stale_after_s)
    if seen is None:
        return Answer(UNAVAILABLE, {"writer": None, "why": why})
    name = seen.verdict.writer
    if not node:
        why = "" if name else "; ".join(seen.verdict.reasons)
        return Answer(OK if name else UNAVAILABLE, {"writer": name, "why": why})
    judged = next((each for each in seen.verdict.nodes if each.name == node), None)
    if judged is None:
        names = ", ".join(each.name for each in seen.verdict.nodes)
        return Answer(UNKNOWN, {"writer": name, "why": f"no node is called {node}; there are {names}"})
    holds, why = judge(seen, judged)
    return Answer(OK if holds else UNAVAILABLE, {"node": node, "writer": name, "why": why})


def _is_writer(seen: NodesSeen, node: NodeVerdict) -> tuple[bool, str]:
    name = seen.verdict.writer
    return node.name == name, node.why or ("" if node.name == name else f"the writer is {name}")


def _fresh(observation: Observation, now: Moment, stale_after_s: float) -> tuple[NodesSeen | None, str]:
    """Return what the nodes said if that is not too long ago, else None and why: nobody may rely on it."""
    look = observation.nodes
    age_s = look.age_s(now)
    if look.value is None or age_s is None:
        return None, f"the nodes were not observed: {look.problem}"
    if age_s > stale_after_s:
        return None, f"the last observation is {age_s:.0f} s old (limit {stale_after_s:g} s)"
    return look.value, ""


def _inside(observation: Observation) -> dict[str, Any]:
    inside, runs = observation.inside.value, observation.runs.value
    lease = inside.lease if inside and inside.lease and inside.lease.run_id else None
    stopped = [run for run in runs.unfinished if run != runs.active] if runs else []
    return {
        "timeline": inside.timeline if inside else None,
        "services": [asdict(service) for service in inside.services] if inside else [],
        "lease": {"run": lease.run_id, "workflow": lease.workflow, "holder": lease.holder} if lease else None,
        "active_run": runs.active.id if runs and runs.active else None,
        "unfinished_runs": [run.id for run in stopped],
    }


def _rounded(age_s: float | None) -> float | None:
    return None if age_s is None else round(age_s, 3)
