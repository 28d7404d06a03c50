"""What a writer has to say in the end."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """A row that the server said it has: when, by the controller's clock, and how long the writer had waited."""

    number: int
    at: float  # seconds since 1970
    wait_s: float  # from the first try, over all refusals and reconnections


@dataclass(frozen=True, slots=True)
class LedgerReport:
    """The rows of one writer by their outcome, and what went wrong on the way.

    A row is unknown when the connection was lost before the answer, or the answer leaves it open; it may be
    there or not. `errors` counts each failed try to write or to connect, by what the server or client said.
    """

    service: str
    run: str
    acknowledgements: tuple[Acknowledgement, ...]
    refused: tuple[int, ...]
    unknown: tuple[int, ...]
    errors: Mapping[str, int]
    unfinished_wait_s: float = 0.0  # of the write that was still being tried when the writer was told to stop

    @property
    def acknowledged(self) -> tuple[int, ...]:
        """The numbers of the acknowledged rows."""
        return tuple(entry.number for entry in self.acknowledgements)

    @property
    def error_count(self) -> int:
        """How many tries failed."""
        return sum(self.errors.values())

    @property
    def longest_wait_s(self) -> float:
        """The longest that one write took, in seconds; 0.0 when nothing was tried."""
        return max([self.unfinished_wait_s, *(entry.wait_s for entry in self.acknowledgements)])

    @property
    def longest_wait_at(self) -> float | None:
        """When the longest wait ended, in seconds since 1970; None when it had not, or nothing was written."""
        longest = max(self.acknowledgements, key=lambda entry: entry.wait_s, default=None)
        return longest.at if longest and longest.wait_s >= self.unfinished_wait_s else None

    @property
    def ninety_ninth_percentile_s(self) -> float:
        """The wait that 99 of 100 writes did not exceed, in seconds; 0.0 when nothing was written."""
        return percentile([entry.wait_s for entry in self.acknowledgements], 0.99)

    def to_json(self) -> dict[str, Any]:
        """Return the report as values that JSON has."""
        return {**asdict(self), "acknowledgements": [list(_tuple(entry)) for entry in self.acknowledgements]}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> "LedgerReport":
        """Return the report that `to_json` made `found` of."""
        rows = tuple(Acknowledgement(*entry) for entry in found["acknowledgements"])
        numbers = {name: tuple(found[name]) for name in ("refused", "unknown")}
        return cls(**{**found, **numbers, "acknowledgements": rows})


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest of `values` that `share` of them do not exceed; 0.0 when there are none."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)] if values else 0.0


def _tuple(entry: Acknowledgement) -> tuple[int, float, float]:
    return entry.number, round(entry.at, 3), round(entry.wait_s, 6)
