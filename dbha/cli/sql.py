"""`dbha sql`: the MariaDB client on a node, as administrator."""

import os
import shutil

import click

from dbha.backup.logical import client_options
from dbha.cli.app import App
from dbha.cli.private_copy import client_of
from dbha.errors import UnreachableError, UsageError


@click.command("sql", context_settings={"ignore_unknown_options": True})
@click.option(
    "--node", "node_name", metavar="NODE", help="The node to ask; else the one that takes the writes."
)
@click.option(
    "--restored",
    metavar="DIR|ID",
    help="Instead of a node: the private server that `dbha restore ID --restore-to DIR` made.",
)
@click.option("-e", "statement", metavar="SQL", help="Run this and leave.")
@click.argument("options", nargs=-1, type=click.UNPROCESSED, metavar="[-- CLIENT OPTIONS]")
@click.pass_obj
def command(
    app: App, node_name: str | None, restored: str | None, statement: str | None, options: tuple[str, ...]
) -> None:
    """Open the MariaDB client on a node as administrator; its exit code is this one's.

    The password reaches the client through a pipe: it is on no command line.
    """
    if shutil.which("mariadb") is None:
        raise UnreachableError("the client `mariadb` is not installed", hint="dbha check")
    more = [*options, *(() if statement is None else ("-e", statement))]
    if restored and node_name:
        raise UsageError("--restored is instead of --node")
    if restored:
        arguments = ["mariadb", *client_of(app, restored), *more]
        app.close()
        os.execvp("mariadb", arguments)  # noqa: S606 - no shell: this very client takes over
    site = app.site
    node = site.cluster.node(node_name) if node_name else site.writer()
    with client_options(site.cluster, node) as (option, descriptor):
        os.set_inheritable(descriptor, True)
        arguments = ["mariadb", option, *more]
        app.close()
        os.execvp("mariadb", arguments)  # noqa: S606 - no shell: this very client takes over
