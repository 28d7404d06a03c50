"""`dbha backup archive`: archive binary logs, and say which points in time they reach."""

import shutil
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import click

from dbha.backup.binlog.archive import Archive, History, stored_bytes
from dbha.backup.binlog.archiver import Archiver
from dbha.backup.binlog.windows import Gap, Restorable, Window, gaps_of
from dbha.backup.store import StoredBackup, complete_ones
from dbha.cli.app import App
from dbha.cli.options import json_option
from dbha.console import in_bytes
from dbha.errors import UnreachableError, UsageError

_SIGNALS = {signal.SIGINT: 130, signal.SIGTERM: 143}


@click.command("archive")
@click.option("--once", is_flag=True, help="Fetch what there is now, and end.")
@click.option("--status", "only_status", is_flag=True, help="Fetch nothing; show windows and gaps.")
@json_option
@click.pass_obj
def command(app: App, once: bool, only_status: bool, as_json: bool) -> int:
    """Archive the binary logs of one node, of another when it goes away, until stopped by a signal.

    Changes nothing in the cluster. With --status, exits 1 when the newest complete backup cannot be brought
    further by the archive, or there is a gap in it after that backup.
    """
    if once and only_status:
        raise UsageError("--once and --status exclude each other")
    if only_status:
        return _show(app, as_json=as_json)
    _require_tools()
    site = app.site
    with _stopping() as stop:
        archiver = Archiver(
            site.cluster,
            site.archive,
            observe_timeout_s=app.configuration.limits.observe_timeout_s,
            on_line=app.console.say,
            stop=stop.event,
        )
        archiver.run_once() if once else archiver.run()
    _show(app, as_json=as_json)
    return stop.exit_code


def reach_of(archive: Archive, backups: Sequence[StoredBackup]) -> dict[str, Restorable]:
    """Return up to where each backup that has a manifest can be brought, by its id."""
    return archive.restorable([backup.manifest for backup in backups if backup.manifest])


class _Stop:
    def __init__(self) -> None:
        self.event = threading.Event()
        self.exit_code = 0

    def handle(self, number: int, _: object) -> None:
        self.exit_code = _SIGNALS[signal.Signals(number)]
        self.event.set()


@contextmanager
def _stopping() -> Iterator[_Stop]:
    """Yield what a signal sets; whatever is being fetched is sealed before the command ends."""
    stop = _Stop()
    before = {number: signal.signal(number, stop.handle) for number in _SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _require_tools() -> None:
    if shutil.which("mariadb-binlog") is None:
        raise UnreachableError(
            "the tool `mariadb-binlog` is not installed", hint="apt-get install mariadb-client"
        )


def _show(app: App, *, as_json: bool) -> int:
    """Print what is archived; return 1 when the newest complete backup needs what is not there."""
    archive, complete = app.site.archive, _complete(app)
    histories = [archive.history(timeline) for timeline in archive.timelines()]
    latest = complete[-1] if complete else None
    reach = reach_of(archive, complete[-1:]).get(latest.id) if latest else None
    if as_json:
        app.console.json(_as_json(archive, histories, latest, reach))
    else:
        _print(app, histories, latest, reach)
    return int(bool(reach and reach.reason))


def _complete(app: App) -> list[StoredBackup]:
    return complete_ones(app.site.shelf.store.list())


def _as_json(
    archive: Archive, histories: Sequence[History], latest: StoredBackup | None, reach: Restorable | None
) -> dict[str, Any]:
    return {
        "directory": str(archive.directory),
        "archiving": archive.is_busy(),
        "stored_bytes": stored_bytes(archive.directory),
        "timelines": [_timeline_as_json(history) for history in histories],
        "last_backup": latest.id if latest else None,
        "reaches_until": reach.as_json() if reach else None,
        "reason": reach.reason if reach else "",
    }


def _timeline_as_json(history: History) -> dict[str, Any]:
    return {
        "timeline": history.timeline,
        "logs": len(history.parts),
        "windows": [
            {
                "first": window.first,
                "last": window.last,
                "first_time": window.first_time.isoformat(),
                "time": window.time.isoformat(),
            }
            for window in history.windows
        ],
        "gaps": [
            {
                "first": gap.first if gap.missing else None,
                "last": gap.last if gap.missing else None,
                "missing": gap.missing,
                "after_time": gap.after_time.isoformat(),
                "before_time": gap.before_time.isoformat(),
                "reason": str(gap),
            }
            for gap in gaps_of(history.windows)
        ],
    }


def _print(
    app: App, histories: Sequence[History], latest: StoredBackup | None, reach: Restorable | None
) -> None:
    archive = app.site.archive
    state = "a process archives into it" if archive.is_busy() else "no process archives into it"
    app.console.line(f"{archive.directory}: {in_bytes(stored_bytes(archive.directory))}, {state}")
    for history in histories:
        app.console.line(f"timeline {history.timeline}: {len(history.parts)} log(s)")
        for line in _lines(history.windows, gaps_of(history.windows)):
            app.console.line(f"  {line}")
    if latest and reach:
        until = f"until {_utc(reach.time)}, {reach.gtid}" if reach.time else "to no later point in time"
        app.console.line(f"from backup {latest.id} the archive reaches {until}")
        if reach.reason:
            app.console.line(f"  {reach.reason}")


def _lines(windows: Sequence[Window], gaps: Sequence[Gap]) -> Iterator[str]:
    """Yield windows and the gaps between them, oldest first."""
    for number, window in enumerate(windows):
        yield f"{window.first} to {window.last}  {_utc(window.first_time)} to {_utc(window.time)}"
        if number < len(gaps):
            yield f"GAP: {gaps[number]}"


def _utc(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M:%S}Z"
