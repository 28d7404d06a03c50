"""The documentation is held to the program: generated pages, verbs, keys, links, and what messages point to."""

import ast
import importlib.util
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType

import click
import pytest

from dbha.cli.main import cli

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
CONFIGURE = DOCS / "how-to" / "configure.md"
REFERENCE = DOCS / "reference"

# Part of the command line's contract, and not built yet. Pages and messages may name them as such.
NOT_YET = {
    "dbha cluster add",
    "dbha cluster configure",
    "dbha cluster remove",
    "dbha cluster replace",
    "dbha cluster restart",
    "dbha cluster start",
    "dbha cluster stop",
    "dbha schema",
    "dbha upgrade rehearse",
}

_LINK = re.compile(r"\[[^]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`[^`\n]+`|^ {4}.+$", re.MULTILINE)  # spans, and lines of indented blocks
_COMMAND = re.compile(r"(?:^ *|[`(] *|[$;|] |then: |do )dbha ([a-z]+)(?: ([a-z-]+))?", re.MULTILINE)
_NAMED_PAGE = re.compile(r"docs/[\w/.-]+\.md")


@cache
def generator() -> ModuleType:
    """Return docs/generate.py as a module."""
    spec = importlib.util.spec_from_file_location("docs_generate", DOCS / "generate.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def pages() -> dict[Path, str]:
    """Return the text of every page of the project."""
    own = [*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *(ROOT / "inventories").rglob("*.md")]
    return {path: path.read_text(encoding="utf-8") for path in sorted(own)}


def written_by_hand() -> str:
    """Return all pages that nobody generates, as one text."""
    return "\n".join(text for path, text in pages().items() if path.parent != REFERENCE)


@cache
def verbs() -> dict[str, click.Command]:
    """Return every command by its full name, groups included."""
    return dict(generator().verbs(cli))


def messages() -> Iterator[tuple[str, str]]:
    """Yield every string of the program with where it is."""
    for path in sorted((ROOT / "dbha").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield f"{path.relative_to(ROOT)}:{node.lineno}", node.value


def commands_in(text: str) -> set[str]:
    """Return the commands that a text tells to type, as far as groups and verbs go."""
    found = set()
    for group, verb in _COMMAND.findall(text):
        name = f"dbha {group}"
        is_group = isinstance(verbs().get(name), click.Group) or any(
            each.startswith(f"{name} ") for each in NOT_YET
        )
        found.add(f"{name} {verb}" if is_group and verb else name)
    return found


def anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings, as code hosts make them."""
    headings = _HEADING.findall(_FENCED.sub("", text))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", sorted(generator().PAGES))
def test_the_generated_page_is_fresh(name: str) -> None:
    assert (REFERENCE / name).read_text(encoding="utf-8") == generator().PAGES[name](), "type `make docs`"


def test_every_verb_says_what_it_does_and_is_used_in_a_page() -> None:
    text = written_by_hand()
    leaves = {name: verb for name, verb in verbs().items() if not isinstance(verb, click.Group)}
    assert not [name for name, verb in verbs().items() if not verb.help]
    assert not [name for name in leaves if name not in text]


def test_every_option_says_what_it_is_for() -> None:
    options = [
        (name, option.name)
        for name, verb in verbs().items()
        for option in verb.params
        if isinstance(option, click.Option) and not option.help
    ]
    assert not options


@pytest.mark.parametrize("key", generator().configuration_keys())
def test_every_key_of_the_configuration_is_explained(key: str) -> None:
    assert f"`{key}`" in CONFIGURE.read_text(encoding="utf-8")


def test_no_page_explains_a_key_that_is_not_there() -> None:
    _, _, table = CONFIGURE.read_text(encoding="utf-8").partition("## Every key")
    named = re.findall(r"^\| `([a-zA-Z_.]+)` \|", table.partition("## ")[0], re.MULTILINE)
    assert named
    assert not set(named) - generator().configuration_keys().keys()


@pytest.mark.parametrize("path", pages(), ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    broken = []
    for link in _LINK.findall(_FENCED.sub("", pages()[path])):
        place, _, anchor = link.partition("#")
        target = (path.parent / place).resolve() if place else path
        if "://" in link:
            continue
        known = (
            not anchor or anchor in anchors(target.read_text(encoding="utf-8")) if target.is_file() else False
        )
        if not (known or (target.is_dir() and not anchor)):
            broken.append(link)
    assert not broken


@pytest.mark.parametrize("path", pages(), ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_in_pages_exist(path: Path) -> None:
    code = "\n".join([*_CODE.findall(pages()[path]), *_FENCED.findall(pages()[path])])
    assert not commands_in(code) - verbs().keys() - NOT_YET


def test_commands_in_messages_exist() -> None:
    unknown = {
        f"{where}: {command}"
        for where, text in messages()
        for command in commands_in(text) - verbs().keys() - NOT_YET
    }
    assert not unknown


def test_what_is_said_not_to_exist_does_not() -> None:
    assert not NOT_YET & verbs().keys()


def test_pages_that_messages_point_to_exist() -> None:
    named = {(where, page) for where, text in messages() for page in _NAMED_PAGE.findall(text)}
    assert named, "the engine names a runbook"
    assert not {(where, page) for where, page in named if not (ROOT / page).is_file()}


def test_every_runbook_is_in_the_index() -> None:
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    own = [path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md") if path.name != "index.md"]
    assert not [name for name in own if f"({name})" not in index]
