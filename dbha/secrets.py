"""A value that never shows itself by accident."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Secret:
    """A password or key. `str`, `repr` and formatting show `***`; only `reveal` gives the value."""

    value: str

    def reveal(self) -> str:
        """Return the value; call it only where it goes straight to the server or a file of mode 0600."""
        return self.value

    def __repr__(self) -> str:
        return "***"

    def __str__(self) -> str:
        return "***"

    def __format__(self, spec: str) -> str:
        return "***"
