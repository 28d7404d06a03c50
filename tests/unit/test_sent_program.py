"""Programs that are sent to hosts: they arrive whole, and need nothing of dbha there but what is sent along."""

import ast
import subprocess
from importlib import resources

import pytest

from dbha.backup import first_start, lineage, pipeline
from dbha.backup.binlog import replay
from dbha.cluster import evidence
from dbha.transport.sent_program import SentProgram

SENT = {
    "backup": pipeline.PROGRAM,
    "first start": first_start.PROGRAM,
    "member": evidence.PROGRAM,
    "imported pages": lineage.PROGRAM,
    "replay": replay.PROGRAM,
}


def tree(module: str) -> ast.Module:
    package, _, name = module.rpartition(".")
    source = resources.files(package).joinpath(f"{name}.py").read_text(encoding="utf-8")
    return ast.parse(source, feature_version=(3, 8))  # the oldest Python that a host may have


@pytest.mark.parametrize("program", SENT.values(), ids=SENT)
def test_all_that_a_program_imports_of_dbha_is_sent_before_it(program: SentProgram) -> None:
    there: set[str] = set()
    for module in program.modules:
        nodes = list(ast.walk(tree(module)))
        needed = {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
        needed |= {name.name for node in nodes if isinstance(node, ast.Import) for name in node.names}
        assert {name for name in needed if name.startswith("dbha")} <= there
        there.add(module)


@pytest.mark.parametrize("program", SENT.values(), ids=SENT)
def test_a_host_without_dbha_can_load_it(program: SentProgram) -> None:
    """It is run as on a host, by Python without any packages, and stops at the request, which is not there."""
    done = subprocess.run(program.argv, input=program.source, capture_output=True, cwd="/", check=False)
    assert b"ImportError" not in done.stderr
    assert b"ModuleNotFoundError" not in done.stderr
    assert b"JSONDecodeError" in done.stderr or b"Expecting value" in done.stderr
