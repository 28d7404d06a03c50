"""`dbha status`: the verdict, the nodes, the services, the last backup, the run in progress."""

import time

import click

from dbha.cli.app import App
from dbha.cli.options import json_option
from dbha.cli.private_copy import copies_of, copy_as_json, in_words
from dbha.cluster.lock import is_free
from dbha.console import in_bytes
from dbha.health.status import ClusterStatus, cluster_status, status_as_json

_WATCH_INTERVAL_S = 1.0
_COLOURS = {"healthy": "green", "degraded": "yellow", "unsafe": "bold red", "down": "bold red"}


@click.command("status")
@click.option("--watch", is_flag=True, help="Show it again every second until interrupted.")
@json_option
@click.pass_obj
def command(app: App, watch: bool, as_json: bool) -> int:
    """Say how the cluster is, and why. Exits 0 when it is healthy, 1 when it is not."""
    while True:
        status = look(app)
        if watch and app.console.data.is_terminal:
            app.console.data.clear()
        show(app, status, as_json=as_json)
        if not watch:
            return 0 if status.verdict.level == "healthy" else 1
        time.sleep(_WATCH_INTERVAL_S)


def look(app: App) -> ClusterStatus:
    """Return the status now."""
    running = not is_free(app.lock_path)
    journal = app.journal
    return cluster_status(app.site, journal.unfinished(), running=running, knows=journal.knows)


def show(app: App, status: ClusterStatus, *, as_json: bool) -> None:
    """Print the status on stdout."""
    console = app.console
    if as_json:
        copies = [copy_as_json(copy) for copy in copies_of(app).list()]
        console.json({**status_as_json(status), "private_copies": copies})
        return
    colour = _COLOURS[status.verdict.level]
    console.data.print(f"cluster {status.cluster}: [{colour}]{status.verdict.level}[/{colour}]")
    for reason in status.verdict.reasons:
        console.line(f"  {reason}")
    if status.verdict.level == "down" and not status.active_run:
        console.line("next: dbha cluster recover --dry-run     what would bring it back")
    console.line(f"timeline {status.timeline or 'unknown'}")
    judged = {node.name: node for node in status.verdict.nodes}
    console.line()
    console.table(
        ("NODE", "ADDRESS", "STATE", "SERVES", ""),
        [
            (
                node.name, f"{node.address}:{node.port}", judged[node.name].state,
                "yes" if judged[node.name].serves else "no",
                "writer" if node.name == status.verdict.writer else judged[node.name].why,
            )
            for node in status.nodes
        ],
    )  # fmt: skip
    if status.services:
        console.line()
        console.table(
            ("SERVICE", "RELEASE", "SCHEMA", "FENCE"),
            [
                (
                    service.name, service.release,
                    ", ".join(f"{name} {'/'.join(heads) or 'empty'}" for name, heads in service.heads.items()),
                    "FENCED" if service.fenced else "-",
                )
                for service in status.services
            ],
        )  # fmt: skip
    console.line()
    _show_backup_and_runs(app, status)


def _show_backup_and_runs(app: App, status: ClusterStatus) -> None:
    if status.last_backup:
        backup = status.last_backup
        level = backup.verification.level if backup.verified and backup.verification else None
        verified = f"verified ({level})" if level else "not verified"
        app.console.line(f"last backup {backup.id}, {in_bytes(backup.stored_bytes)}, {verified}")
    elif status.store_problem:
        app.console.line(f"last backup unknown: {status.store_problem}")
    else:
        app.console.line("no backup yet     dbha backup create")
    for copy in copies_of(app).list():
        app.console.line(f"private copy of backup {copy.backup_id} in {copy.directory}: {in_words(copy)}")
    if status.active_run:
        app.console.line(f"run {status.active_run.id} ({status.active_run.workflow}) is in progress")
    for left in status.left_desynced:
        app.console.line(
            f"{left.node} is desynced by run {left.run_id}, which is gone: the next command that changes the cluster"
            " undoes it"
        )
    if status.interrupted_run:
        run = status.interrupted_run
        app.console.line(
            f"run {run.id} ({run.workflow}) did not come to an end     dbha runs resume {run.id}"
        )
