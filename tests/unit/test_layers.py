"""The house of design section 3, held: who may import whom, and who may print, exit or reach for a driver."""

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "dbha"
MAX_LINES = 400
READ = ("dbha", "tests", "benchmarks")  # tests are read as often as what they hold

# From top to bottom; a layer imports from those below it. Whatever is not named here is a base module: all of
# them stand beside each other at the bottom, and only `test_no_module_imports_itself_in_the_end` binds them.
LAYERS = ("cli", "sandbox", "serve", "health", "upgrade", "schema", "backup", "cluster")
BASE = len(LAYERS)

# Each is imported by one module, where its errors are translated.
ONE_PLACE = {
    "paramiko": "dbha.transport.",
    "ansible_runner": "dbha.ansible",
    "pymysql": "dbha.database",
    "botocore": "dbha.backup.s3_objects",
    "prometheus_client": "dbha.health.exposition",
    "starlette": "dbha.serve.web",
    "uvicorn": "dbha.serve.web",
}

# Programs: they are started, never called by other modules, and so may end their process.
PROGRAMS = {
    "dbha.backup.binlog.replay_program": "sent to where the data is that logs are replayed into",
    "dbha.sandbox.demo": "`make demo` runs it; it tells a story on the terminal and exits as the story ended",
    "dbha.sandbox.ledger.__main__": "`python -m dbha.sandbox.ledger`; a writer in a process of its own",
    "dbha.releases.launch_script": "sent to where a native command is to run, and becomes it",
    "dbha.releases.tool_script": "sent to where native commands are to run, and forks into them",
    "dbha.releases.probe_script": "sent to a service's own Python, and answers on its standard output",
    "dbha.cluster.member_program": "sent to a member's host, and answers on its standard output",
    "dbha.backup.node_pages": "sent to the donor's host, and answers on its standard output",
    "dbha.backup.begin_program": "sent to a node's host, and answers on its standard output",
    "dbha.backup.node_program": "sent to the donor's host, and reports on its standard error",
}

Edges = Mapping[str, frozenset[str]]


@cache
def sources() -> dict[str, Path]:
    """Return the file of every module, by the module's name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def tree(module: str) -> ast.Module:
    """Return the module's syntax tree."""
    return ast.parse(sources()[module].read_text(encoding="utf-8"))


def imported_names(module: str) -> Iterator[str]:
    """Yield what a module imports, anywhere in it, as dotted names; `from a import b` may be a module or not."""
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{module}: relative imports are not used here"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@cache
def edges() -> Edges:
    """Return for each module the modules of dbha that it imports by name."""
    return {
        module: frozenset(
            name if name in sources() else name.rpartition(".")[0]
            for name in imported_names(module)
            if name.partition(".")[0] == "dbha"
        )
        - {module}
        for module in sources()
    }


def layer_of(module: str) -> int:
    """Return how far down a module is; base modules are at the bottom."""
    part = module.split(".")[1] if "." in module else ""
    return LAYERS.index(part) if part in LAYERS else BASE


def find_cycle(graph: Edges) -> list[str]:
    """Return the modules of one cycle, the first of them again at the end; empty when there is none."""
    done: set[str] = set()

    def walk(module: str, path: tuple[str, ...]) -> list[str]:
        if module in path:
            return [*path[path.index(module) :], module]
        if module not in done:
            for other in sorted(graph.get(module, ())):
                if cycle := walk(other, (*path, module)):
                    return cycle
            done.add(module)
        return []

    return next((cycle for module in sorted(graph) if (cycle := walk(module, ()))), [])


def test_imports_point_down() -> None:
    wrong = [
        f"{module} must not import {other}"
        for module, others in edges().items()
        for other in sorted(others)
        if layer_of(other) < layer_of(module)
    ]
    assert not wrong, "\n".join(wrong)


def test_no_module_imports_itself_in_the_end() -> None:
    assert not (cycle := find_cycle(edges())), " -> ".join(cycle)


@pytest.mark.parametrize(
    ("graph", "cycle"),
    [
        pytest.param({"a": {"b"}, "b": {"c"}, "c": set()}, [], id="a chain"),
        pytest.param({"a": {"b", "c"}, "b": {"d"}, "c": {"d"}, "d": set()}, [], id="two ways to the same"),
        pytest.param({"a": {"b"}, "b": {"c"}, "c": {"b"}}, ["b", "c", "b"], id="two below a third"),
    ],
)
def test_a_cycle_is_found(graph: Mapping[str, set[str]], cycle: list[str]) -> None:
    assert find_cycle({name: frozenset(others) for name, others in graph.items()}) == cycle


@pytest.mark.parametrize(("library", "place"), ONE_PLACE.items())
def test_a_driver_is_imported_in_one_place(library: str, place: str) -> None:
    importers = [
        module
        for module in sources()
        if any(name.partition(".")[0] == library for name in imported_names(module))
    ]
    assert len(importers) == 1 and importers[0].startswith(place), f"{library} is imported by {importers}"


def test_nothing_below_the_command_line_prints_or_exits() -> None:
    wrong = [
        f"{module}:{node.lineno} {what}"
        for module in sources()
        if layer_of(module) > 0 and module not in PROGRAMS
        for node in ast.walk(tree(module))
        if isinstance(node, ast.expr) and (what := prints_or_exits(node))
    ]
    assert not wrong, "\n".join(wrong)


def prints_or_exits(node: ast.expr) -> str:
    """Return what the node is if it prints or ends the process; empty for any other."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return node.func.id if node.func.id in ("print", "exit", "quit") else ""
    if isinstance(node, ast.Name) and node.id == "SystemExit":
        return node.id
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        name = f"{node.value.id}.{node.attr}"
        return name if name in ("sys.exit", "os._exit", "os.abort") else ""
    return ""


def test_every_program_is_there() -> None:
    assert not PROGRAMS.keys() - sources().keys()


def test_every_module_can_be_read_in_a_sitting() -> None:
    lines = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for place in READ
        for path in (ROOT / place).rglob("*.py")
    }
    assert not {module: count for module, count in lines.items() if count > MAX_LINES}
