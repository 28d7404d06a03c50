"""`dbha sandbox up | down | load | kill | start`: a real cluster on this machine, to try everything on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from dbha.cli.app import App
from dbha.cli.options import Command, confirm, json_option, yes_option
from dbha.cluster.plans import settle_in
from dbha.config.load import SANDBOX_CONFIGURATION
from dbha.console import in_seconds
from dbha.releases.catalogue import get_release
from dbha.sandbox import down as take_down
from dbha.sandbox import kill_node, start_node
from dbha.sandbox import up as bring_up
from dbha.sandbox.cloud.load import load_cloud


@click.group("sandbox")
def command() -> None:
    """A real cluster of processes on this machine; no root, no containers."""


def _directory_option(function: Command) -> Command:
    option: Callable[[Any], Any] = click.option(
        "--directory", type=click.Path(path_type=Path, file_okay=False), default=SANDBOX_CONFIGURATION.parent,
        show_default=True, help="Where the sandbox is.",
    )  # fmt: skip
    decorated: Command = option(function)
    return decorated


@command.command("up")
@click.option("--nodes", type=click.IntRange(1, 9), help="How many nodes a new sandbox has.  [default: 3]")
@click.option("--release", help="The release its services begin with.  [default: 2025.1]")
@_directory_option
@json_option
@click.pass_obj
def up(app: App, nodes: int | None, release: str | None, directory: Path, as_json: bool) -> None:
    """Make a sandbox, or start what does not run of the one there is; a second run changes nothing."""
    if release is not None:
        get_release(release)
    result = bring_up(
        directory, nodes=nodes, release=release, environment=app.environment,
        on_line=lambda line: app.console.say(f"    {line}", style="dim"),
    )  # fmt: skip
    settle_in(result.sandbox.cluster(app.environment), "sandbox up")
    if as_json:
        app.console.json(
            {
                "directory": str(directory), "created": result.created, "seconds": round(result.seconds, 1),
                "nodes": [{"name": node.name, "port": node.port} for node in result.sandbox.nodes],
            }
        )  # fmt: skip
        return
    names = ", ".join(f"{node.name} (port {node.port})" for node in result.sandbox.nodes)
    app.console.line(f"{names}: all Synced after {in_seconds(result.seconds)}")
    app.console.say(
        "next: dbha status     dbha database create     dbha sync     dbha sandbox load --instances 1000"
    )


@command.command("down")
@_directory_option
@yes_option
@click.pass_obj
def down(app: App, directory: Path, yes: bool) -> None:
    """Stop every process of the sandbox and remove it with its data."""
    confirm(app.console, f"the sandbox in {directory} is removed, with its data and its backups", yes=yes)
    ended = take_down(directory)
    app.console.line(f"{ended} servers stopped, {directory} removed")


@command.command("load")
@click.option(
    "--instances", type=click.IntRange(1), required=True, help="How many servers the cloud is to have."
)
@json_option
@click.pass_obj
def load(app: App, instances: int, as_json: bool) -> None:
    """Fill the services' databases with a synthetic cloud; adds only what is missing."""
    site = app.site
    with app.console.counter("load servers") as count, site.cluster.session(site.writer()) as session:
        counts = load_cloud(session, instances=instances, on_progress=count)
    if as_json:
        app.console.json({"instances": counts.instances, "added": counts.added, "rows": dict(counts.rows)})
        return
    app.console.line(
        f"{counts.instances} instances ({counts.added} added) on {counts.hosts} hosts,"
        f" {counts.projects} projects, {counts.users} users, {counts.images} images"
    )
    for database, rows in counts.rows.items():
        app.console.line(f"  {database}: {rows} rows added")


@command.command("kill")
@click.argument("node")
@_directory_option
@click.pass_obj
def kill(app: App, node: str, directory: Path) -> None:
    """Kill a node's server as a crash would (SIGKILL)."""
    app.console.line(f"{node} (process {kill_node(directory, node)}) was killed")


@command.command("start")
@click.argument("node")
@_directory_option
@click.pass_obj
def start(app: App, node: str, directory: Path) -> None:
    """Start a node that does not run, and wait until it is Synced."""
    start_node(
        directory, node, environment=app.environment,
        on_line=lambda line: app.console.say(f"    {line}", style="dim"),
    )  # fmt: skip
    app.console.line(f"{node} is Synced")
