"""Write the reference from the program itself: `make docs`. `tests/unit/test_docs.py` fails when it is stale."""

import inspect
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from dbha import errors
from dbha.cli.main import cli
from dbha.config import Configuration
from dbha.errors import DbhaError
from dbha.health.metrics import METRICS

DIRECTORY = Path(__file__).parent / "reference"
_NOTE = "<!-- Written by docs/generate.py; changes made here are lost. -->"

# What no error class says, since nothing went wrong or nobody raised it.
_OTHER_EXITS = {
    0: "Done, or healthy.",
    130: "Interrupted by SIGINT (Ctrl-C). The first signal lets the step in progress finish, then everything is put"
    " back; the second stops at once, and the run is to be resumed.",
    143: "The same, by SIGTERM.",
}
_BUG = (
    "A bug: one line on stderr names the file with the traceback. Also an error that has no code of its own, such"
    " as a statement that a server refused; then the message says what it was."
)


def verbs(group: click.Group, prefix: str = "dbha") -> Iterator[tuple[str, click.Command]]:
    """Yield every command below `group` with its full name, groups before what is in them."""
    for name, command in sorted(group.commands.items()):
        yield f"{prefix} {name}", command
        if isinstance(command, click.Group):
            yield from verbs(command, f"{prefix} {name}")


def configuration_keys() -> dict[str, Mapping[str, Any]]:
    """Return every key of `dbha.yml` by its dotted path, with its JSON schema; NAME stands for a name of yours."""
    schema = Configuration.model_json_schema()
    return dict(_keys(schema, schema, ""))


def cli_page() -> str:
    """Return the page about the command line."""
    parts = [
        _NOTE,
        "# Command line",
        "Data goes to stdout, talk to stderr. Exit codes: [exit-codes.md](exit-codes.md)."
        " `dbha VERB --help` shows the same text.",
        "## `dbha`",
        _help_of(cli),
        _options_of(cli),
    ]
    for name, command in verbs(cli):
        depth = "##" if isinstance(command, click.Group) or name.count(" ") == 1 else "###"
        parts += [f"{depth} `{name}`", _help_of(command)]
        if not isinstance(command, click.Group):
            parts += [f"    {_usage(name, command)}", _options_of(command)]
    return "\n\n".join(part for part in parts if part) + "\n"


def configuration_page() -> str:
    """Return the page about `dbha.yml`."""
    schema = Configuration.model_json_schema()
    parts = [
        _NOTE,
        "# Configuration",
        "The keys of `dbha.yml`. What they are for, with an example:"
        " [../how-to/configure.md](../how-to/configure.md). An unknown key is a mistake (exit 3). NAME stands for a"
        " name of yours. Relative paths are relative to the file.",
        _section("`dbha.yml`", schema),
    ]
    parts += [_section(f"`{name}`", definition) for name, definition in sorted(schema["$defs"].items())]
    parts += ["## All keys", "\n".join(f"- `{key}`" for key in configuration_keys())]
    return "\n\n".join(parts) + "\n"


def exit_codes_page() -> str:
    """Return the page about exit codes, from the error classes."""
    rows = dict(_OTHER_EXITS)
    for error in sorted(_error_classes(), key=lambda found: found.exit_code):
        sentence = " ".join(inspect.cleandoc(error.__doc__ or "").split())
        if error.unchanged:
            sentence += f" *{error.unchanged[0].upper()}{error.unchanged[1:]}.*"
        earlier = rows.get(error.exit_code)
        rows[error.exit_code] = f"{earlier}<br>{sentence}" if earlier else sentence
    rows[DbhaError.exit_code] = _BUG
    lines = [f"| {code} | {text} |" for code, text in sorted(rows.items())]
    parts = [
        _NOTE,
        "# Exit codes",
        "What every verb exits with. In italics: what the command says of what stayed unchanged. How to use them in"
        " scripts: [../how-to/scripts-and-monitoring.md](../how-to/scripts-and-monitoring.md).",
        "\n".join(["| exit | when |", "|---|---|", *lines]),
    ]
    return "\n\n".join(parts) + "\n"


def metrics_page() -> str:
    """Return the page about metrics, from their declarations."""
    rows = [
        f"| `{each.name}` | {each.kind} | {', '.join(f'`{label}`' for label in each.labels) or '-'} | {each.help} |"
        for each in METRICS
    ]
    parts = [
        _NOTE,
        "# Metrics",
        "What `dbha metrics` prints. Every one has the label `cluster` as well. What is not known has no sample."
        " Those that say *whether* are 0 or 1. How to scrape them, and what is left to other exporters:"
        " [../how-to/monitor-with-prometheus.md](../how-to/monitor-with-prometheus.md).",
        "\n".join(["| metric | type | labels | meaning |", "|---|---|---|---|", *rows]),
    ]
    return "\n\n".join(parts) + "\n"


PAGES = {
    "cli.md": cli_page,
    "configuration.md": configuration_page,
    "exit-codes.md": exit_codes_page,
    "metrics.md": metrics_page,
}


def _help_of(command: click.Command) -> str:
    lines = inspect.cleandoc(command.help or "").splitlines()
    return "\n".join(line for line in lines if line != "\b")


def _usage(name: str, command: click.Command) -> str:
    arguments = [_argument(each) for each in command.params if isinstance(each, click.Argument)]
    return " ".join([name, "[OPTIONS]", *arguments])


def _argument(argument: click.Argument) -> str:
    shown = argument.metavar or (argument.name or "").upper()
    return shown if argument.required or shown.startswith("[") else f"[{shown}]"


def _options_of(command: click.Command) -> str:
    options = [each for each in command.params if isinstance(each, click.Option)]
    lines = [f"- `{_spelling(each)}`: {_meaning(each)}" for each in options]
    return "\n".join(sorted(lines))


def _spelling(option: click.Option) -> str:
    names = ", ".join(option.opts)
    return names if option.is_flag else f"{names} {option.metavar or option.type.name.upper()}"


def _meaning(option: click.Option) -> str:
    words = (option.help or "").replace("  [default", " [default")
    if option.required:
        words += " Required."
    if option.show_default is True and not option.is_flag:
        words += f" Default: `{option.default}`."
    return words


def _error_classes() -> list[type[DbhaError]]:
    found = [value for value in vars(errors).values() if inspect.isclass(value)]
    return [error for error in found if issubclass(error, DbhaError) and error is not DbhaError]


def _section(title: str, definition: Mapping[str, Any]) -> str:
    words = " ".join(str(definition.get("description", "")).split())
    required = definition.get("required", [])
    rows = [
        f"| `{key}` | {_type_of(value)} | {_default_of(key, value, required)} |"
        for key, value in definition.get("properties", {}).items()
    ]
    return "\n".join([f"## {title}", "", words, "", "| key | type | default |", "|---|---|---|", *rows])


def _type_of(value: Mapping[str, Any]) -> str:
    """Return a JSON schema as words for a table cell."""
    if "$ref" in value:
        name = value["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    for union in ("anyOf", "oneOf"):
        if union in value:
            return " or ".join(_type_of(each) for each in value[union] if each.get("type") != "null")
    if "const" in value or "enum" in value:
        return " or ".join(f"`{each}`" for each in value.get("enum", [value.get("const")]))
    if value.get("type") == "array":
        return f"list of {_type_of(value['items'])}"
    if value.get("type") == "object":
        names = value.get("propertyNames", {})
        of_names = f" of {_type_of(names)}" if "enum" in names else " of names"
        patterns = value.get("patternProperties", {}).values()  # names with a pattern of their own
        return f"mapping{of_names} to {_type_of(value.get('additionalProperties') or next(iter(patterns)))}"
    kind = {"string": "text", "integer": "whole number", "number": "number", "boolean": "yes or no"}[
        value["type"]
    ]
    kind = "path" if value.get("format") in ("path", "file-path", "directory-path") else kind
    return kind + _limits_of(value)


def _limits_of(value: Mapping[str, Any]) -> str:
    words = {
        "exclusiveMinimum": "greater than {}",
        "minimum": "at least {}",
        "maximum": "at most {}",
        "pattern": "like `{}`",
    }
    found = [text.format(str(value[key]).replace("|", "\\|")) for key, text in words.items() if key in value]
    return f", {', '.join(found)}" if found else ""


def _default_of(key: str, value: Mapping[str, Any], required: list[str]) -> str:
    if key in required:
        return "required"
    default = value.get("default")
    if default is None:
        return "none"
    if isinstance(default, dict):
        return f"`kind: {default['kind']}`" if "kind" in default else "its defaults"
    return "none" if default in ([], "") else f"`{default}`"


def _keys(
    root: Mapping[str, Any], value: Mapping[str, Any], prefix: str
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the dotted paths below a schema; a mapping's keys are NAME, a list is a leaf."""
    if "$ref" in value:
        value = root["$defs"][value["$ref"].rpartition("/")[2]]
    for each in [*value.get("anyOf", ()), *value.get("oneOf", ())]:
        yield from _keys(root, each, prefix)
    for key, inner in value.get("properties", {}).items():
        path = f"{prefix}.{key}" if prefix else key
        yield path, inner
        yield from _keys(root, inner, path)
    for inner in (value.get("additionalProperties"), *value.get("patternProperties", {}).values()):
        if isinstance(inner, dict):
            yield from _keys(root, inner, f"{prefix}.NAME")


def main() -> None:
    """Write the pages."""
    DIRECTORY.mkdir(exist_ok=True)
    for name, page in PAGES.items():
        (DIRECTORY / name).write_text(page(), encoding="utf-8")
        sys.stdout.write(f"docs/reference/{name}\n")


if __name__ == "__main__":
    main()
