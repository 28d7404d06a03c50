"""What a metric is: declared once, with its help and labels; a sample is one of its values."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class Kind(StrEnum):
    """The types of Prometheus that dbha has; they are what `# TYPE` says."""

    GAUGE = "gauge"
    COUNTER = "counter"


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric as it is documented. Every one has the label `cluster` before its own."""

    name: str
    help: str
    labels: tuple[str, ...] = ()
    kind: Kind = Kind.GAUGE

    def of(self, value: float | datetime | None, *labels: str) -> "Iterator[Sample]":
        """Yield the sample with this value, a time as a Unix timestamp; nothing where the value is not known."""
        assert len(labels) == len(self.labels), (self.name, labels)
        if value is not None:
            number = value.timestamp() if isinstance(value, datetime) else float(value)
            yield Sample(self, number, labels)

    def each(self, states: Iterable[str], state: str, *labels: str) -> "Iterator[Sample]":
        """Yield a sample for each of the states, 1 for the present one and 0 for the others."""
        for name in states:
            yield from self.of(name == state, *labels, name)


@dataclass(frozen=True, slots=True)
class Sample:
    """One value of a metric."""

    metric: Metric
    value: float
    labels: tuple[str, ...]
