"""`dbha metrics`: look once, and print what Prometheus reads."""

import contextlib
import os
import sys
import tempfile
from pathlib import Path

import click

from dbha.cli.app import App
from dbha.errors import UnreachableError, UsageError
from dbha.health.board import Pace, observe_once, parts_of
from dbha.health.exposition import Exposition
from dbha.health.looks import Looker, clock
from dbha.health.metrics import samples_of

_PATIENCE_S = 15.0  # for a store that is somewhere else; a scrape every minute or two has to end by then
_SUFFIX = ".prom"


@click.command("metrics")
@click.option(
    "--textfile",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write them into FILE, in one go, for node_exporter's textfile collector.",
)
@click.pass_obj
def command(app: App, textfile: Path | None) -> int:
    """Look at everything once, and print it as metrics for Prometheus. Exits 0 also when nothing is well.

    A node that does not answer is waited for no longer than `limits.observe_timeout_s`, and holds up nothing
    else. A backup store that does not answer is left out after 15 s.
    """
    if textfile and textfile.suffix != _SUFFIX:
        raise UsageError(f"{textfile}: node_exporter reads only files whose name ends in {_SUFFIX}")
    text = _exposition(app).text()
    if textfile:
        write_at_once(textfile, text)
    else:
        sys.stdout.write(text.decode())
    return 0


def _exposition(app: App) -> Exposition:
    cluster, timeout_s = app.site.cluster.name, app.configuration.limits.observe_timeout_s
    looker = Looker(app.site, app.journal, app.lock_path)
    pace = Pace(nodes_s=0, inside_s=0, stores_s=0, timeout_s=timeout_s)
    observation = observe_once(cluster, parts_of(looker, pace), patience_s=_PATIENCE_S)
    return Exposition(cluster, lambda: samples_of(observation, clock()))


def write_at_once(path: Path, content: bytes) -> None:
    """Put a file that everybody may read into its place: a reader finds the old one or the new one, never a part.

    Raises UnreachableError; then the old file is as it was.
    """
    partial = ""
    try:
        descriptor, partial = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            os.fchmod(file.fileno(), 0o644)  # node_exporter runs as somebody else; there are no secrets in it
        Path(partial).replace(path)
    except OSError as error:
        if partial:
            with contextlib.suppress(OSError):
                Path(partial).unlink()
        raise UnreachableError(
            f"{path} cannot be written: {error.strerror}", unchanged="the file is as it was"
        ) from error
