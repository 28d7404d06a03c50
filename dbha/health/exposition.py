"""Metrics as Prometheus reads them. The only module that imports its client library."""

from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import choose_encoder, generate_latest
from prometheus_client.registry import Collector

from dbha.health.metric import Kind, Metric, Sample

Family = GaugeMetricFamily | CounterMetricFamily


class Exposition(Collector):
    """Everything a scrape gets: what `samples` yields now, and with `process` what this process itself uses."""

    def __init__(
        self, cluster: str, samples: Callable[[], Iterable[Sample]], *, process: bool = False
    ) -> None:
        self._cluster = cluster
        self._samples = samples
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        if process:
            ProcessCollector(registry=self._registry)

    def collect(self) -> Iterator[Family]:
        """Yield the families that have samples, in the order in which they first come."""
        families: dict[Metric, Family] = {}
        for sample in self._samples():
            if sample.metric not in families:
                families[sample.metric] = _family(sample.metric)
            families[sample.metric].add_metric([self._cluster, *sample.labels], sample.value)
        yield from families.values()

    def text(self) -> bytes:
        """Return the metrics in the text format of Prometheus."""
        return generate_latest(self._registry)

    def answer(self, accept: str) -> tuple[bytes, str]:
        """Return the metrics in the format that a scraper asks for, and its content type."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type


def _family(metric: Metric) -> Family:
    labels = ["cluster", *metric.labels]
    if metric.kind is Kind.COUNTER:
        return CounterMetricFamily(metric.name, metric.help, labels=labels)
    return GaugeMetricFamily(metric.name, metric.help, labels=labels)
