"""`dbha release list | install | show`: the OpenStack releases whose native commands can be run."""

from pathlib import Path

import click

from dbha.cli.app import App
from dbha.cli.options import json_option
from dbha.releases.catalogue import RELEASES, get_release
from dbha.releases.environments import default_root, load
from dbha.releases.hops import check_hop
from dbha.releases.install import install as install_release


@click.group("release")
def command() -> None:
    """OpenStack releases and the environments with their real commands."""


@command.command("list")
@json_option
@click.pass_obj
def list_releases(app: App, as_json: bool) -> None:
    """List the releases dbha knows, and which of them are installed."""
    root = _root(app)
    rows = [(release, load(release, root)) for release in RELEASES]
    if as_json:
        app.console.json(
            [
                {
                    "name": release.name,
                    "codename": release.codename,
                    "slurp": release.slurp,
                    "installed": bool(found),
                }
                for release, found in rows
            ]
        )
        return
    app.console.table(
        ("RELEASE", "NAME", "SLURP", "INSTALLED"),
        [
            (
                release.name,
                release.codename,
                "yes" if release.slurp else "",
                found.installed if found else "-",
            )
            for release, found in rows
        ],
    )


@command.command("install")
@click.argument("release")
@click.option(
    "--constraints", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="FILE",
    help="The release's own upper-constraints.txt, which then decides all versions.",
)  # fmt: skip
@click.pass_obj
def install(app: App, release: str, constraints: Path | None) -> None:
    """Install a release into an environment of its own; a second run changes nothing."""
    environment = install_release(
        get_release(release), _root(app), constraints=constraints,
        on_line=lambda line: app.console.say(f"    {line}", style="dim"),
    )  # fmt: skip
    app.console.line(f"{environment.release} is installed, {len(environment.packages)} packages")


@command.command("show")
@click.argument("release")
@json_option
@click.pass_obj
def show(app: App, release: str, as_json: bool) -> None:
    """Show a release: schema heads, what can be upgraded to it, what is installed."""
    known = get_release(release)
    environment = load(known, _root(app))
    sources = [each.name for each in RELEASES if each != known and check_hop(each, known).is_allowed]
    heads = {
        name: list(revisions)
        for name, revisions in (environment.heads if environment else known.heads).items()
    }
    if as_json:
        app.console.json(
            {
                "name": known.name, "codename": known.codename, "slurp": known.slurp, "heads": heads,
                "upgrades_from": sources, "installed": environment.installed if environment else None,
            }
        )  # fmt: skip
        return
    app.console.line(f"{known.name} {known.codename}{', SLURP' if known.slurp else ''}")
    app.console.line(f"upgrades from: {', '.join(sources) or 'none that dbha knows'}")
    for name, revisions in heads.items():
        app.console.line(f"  {name}: {'/'.join(revisions)}")
    app.console.line(
        f"installed: {environment.installed}" if environment else f"dbha release install {known.name}"
    )


def _root(app: App) -> Path:
    """Return where environments are: as configured, or where they are for everybody without a configuration."""
    configured = app.configuration.releases.directory if app.has_configuration() else None
    return configured or default_root(app.environment)
