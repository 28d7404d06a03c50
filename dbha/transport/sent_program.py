"""Programs of dbha that run on a node's host, where dbha is not: their source is sent to the host's own Python.

A program is a module that imports nothing of dbha but modules that are sent along with it.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from importlib import resources

from dbha.transport.base import RunningCommand, Transport

# A module that is there already is taken by `import` as it is, whatever packages its name is in.
_LOADER = """
import json, sys, types
*along, (_, program) = json.loads(sys.stdin.buffer.read({size_bytes}))
for name, source in along:
    module = sys.modules[name] = types.ModuleType(name)
    exec(source, module.__dict__)
exec(program)
"""


@dataclass(frozen=True)
class SentProgram:
    """One such program, by the full names of its modules: first what it imports, last the one that is run."""

    modules: tuple[str, ...]

    @cached_property
    def source(self) -> bytes:
        """What goes to standard input first; the program finds what comes after it there."""
        return json.dumps([(name, _source_of(name)) for name in self.modules]).encode()

    @property
    def argv(self) -> tuple[str, ...]:
        """The command that reads the source from its standard input and becomes the program."""
        # The host's own Python: what PATH has first may be anybody's.
        return ("/usr/bin/python3", "-I", "-S", "-c", _LOADER.format(size_bytes=len(self.source)))

    @contextmanager
    def started(self, transport: Transport) -> Iterator[RunningCommand]:
        """Start the program on a host, to wait there for its request; end it when the block ends."""
        with transport.open(self.argv) as command:
            with suppress(BrokenPipeError):  # it ended early; who reads its answer will find out why
                command.write(self.source)
            yield command


def _source_of(module: str) -> str:
    package, _, name = module.rpartition(".")
    return resources.files(package).joinpath(f"{name}.py").read_text(encoding="utf-8")
