"""What a new configuration changes, and which of that a running process can take up."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from dbha.config import Configuration

# The socket is open, and journal and locks are in the state directory under the cluster's name.
FIXED = ("cluster", "state", "serve.address", "serve.port")


@dataclass(frozen=True, slots=True)
class Change:
    """One key of dbha.yml with another value; None where there is none."""

    key: str
    old: Any
    new: Any

    @property
    def needs_restart(self) -> bool:
        """Whether the running process goes on with the old value."""
        return self.key in FIXED

    def __str__(self) -> str:
        later = "; not before a restart of dbha serve" if self.needs_restart else ""
        return f"{self.key}: {self.old!r} -> {self.new!r}{later}"


def changes(old: Configuration, new: Configuration) -> tuple[Change, ...]:
    """Return every key whose value is another, in the order of the keys. No value of the configuration is secret."""
    before, after = dict(_flat(old.model_dump(mode="json"))), dict(_flat(new.model_dump(mode="json")))
    keys = sorted(before.keys() | after.keys())
    return tuple(
        Change(key, before.get(key), after.get(key)) for key in keys if before.get(key) != after.get(key)
    )


def taken_up(old: Configuration, new: Configuration) -> Configuration:
    """Return the new configuration as far as a running process can have it."""
    serve = new.serve.model_copy(update={"address": old.serve.address, "port": old.serve.port})
    return new.model_copy(update={"cluster": old.cluster, "state": old.state, "serve": serve})


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value
