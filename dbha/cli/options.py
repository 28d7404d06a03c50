"""Options that several verbs share, and asking before something happens."""

import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

from dbha.console import Console
from dbha.errors import UsageError

Command = TypeVar("Command", bound=Callable[..., Any])


def json_option(command: Command) -> Command:
    """Add `--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")(command)


def store_option(command: Command) -> Command:
    """Add `--store`."""
    return click.option(
        "--store", default="", metavar="NAME", help="This backup store, instead of the one of `backup.store`."
    )(command)


def yes_option(command: Command) -> Command:
    """Add `--yes`."""
    return click.option("--yes", is_flag=True, help="Do not ask; needed where there is no terminal.")(command)


def at_a_terminal() -> bool:
    """Tell whether there is somebody to ask."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def confirm(console: Console, question: str, *, yes: bool) -> None:
    """Ask before going on. Without a terminal there is no question: raises UsageError unless `yes`."""
    if yes:
        return
    if not at_a_terminal():
        raise UsageError("this needs a yes, and there is no terminal to ask on", hint="add --yes")
    console.say(question)
    if not click.confirm("go on?", err=True):
        raise click.exceptions.Abort
