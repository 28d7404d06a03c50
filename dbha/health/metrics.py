"""All metrics of dbha: a pure function of what was observed, and of the time."""

from collections.abc import Iterator

from dbha import __version__
from dbha.health import backup_metrics, inside_metrics, node_metrics, run_metrics
from dbha.health.backup_metrics import samples_of_archive, samples_of_store
from dbha.health.inside_metrics import samples_of_inside
from dbha.health.metric import Metric, Sample
from dbha.health.node_metrics import samples_of_nodes
from dbha.health.observation import Look, Moment, Observation
from dbha.health.run_metrics import samples_of_runs

_PART = ("part",)

BUILD = Metric("dbha_build_info", "The version of dbha.", ("version",))
SUCCESS = Metric("dbha_observation_success", "Whether the last look at this part succeeded.", _PART)
AGE = Metric("dbha_observation_age_seconds", "How old what is known of this part is.", _PART)
SEEN = Metric("dbha_observation_timestamp_seconds", "When what is known of this part was seen.", _PART)
DURATION = Metric("dbha_observation_duration_seconds", "How long the last look at this part took.", _PART)

METRICS: tuple[Metric, ...] = (
    BUILD, SUCCESS, AGE, SEEN, DURATION,
    *node_metrics.METRICS, *inside_metrics.METRICS, *run_metrics.METRICS, *backup_metrics.METRICS,
)  # fmt: skip


def samples_of(observation: Observation, now: Moment) -> Iterator[Sample]:
    """Yield every sample. What is not known has none: nothing is made up."""
    yield from BUILD.of(1, __version__)
    for part, look in observation.parts().items():
        yield from _of_look(part, look, now)
    if observation.nodes.value:
        yield from samples_of_nodes(observation.nodes.value)
    if observation.inside.value:
        yield from samples_of_inside(observation.inside.value)
    if observation.runs.value:
        yield from samples_of_runs(observation.runs.value)
    for store, look in observation.stores.items():
        if look.value:
            yield from samples_of_store(store, look.value, now.wall)
    if observation.archive.value:
        yield from samples_of_archive(observation.archive.value)


def _of_look(part: str, look: Look[object], now: Moment) -> Iterator[Sample]:
    yield from SUCCESS.of(not look.problem, part)
    yield from AGE.of(look.age_s(now), part)
    yield from SEEN.of(look.seen.wall if look.seen else None, part)
    yield from DURATION.of(look.duration_s, part)
