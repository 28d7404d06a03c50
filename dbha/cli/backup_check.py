"""`dbha backup check`: are the backups as they should be? Asks the store alone, never the cluster."""

from datetime import UTC, datetime

import click

from dbha.backup.checks import Result, check, known_of, nagios_line, worst
from dbha.cli.app import App
from dbha.cli.options import json_option, store_option
from dbha.errors import ConfigurationError, DbhaError, UnreachableError, UsageError

_NAGIOS_UNKNOWN = 3


@click.command("check")
@click.option(
    "--nagios", is_flag=True, help="Print one line with figures; exit 0, 1, 2 or 3 as a plugin does."
)
@store_option
@json_option
@click.pass_obj
def command(app: App, nagios: bool, store: str, as_json: bool) -> int:
    """Test the backups: age, size, failures, number, room. Exits 0 when all is well, 1 when not.

    The limits are in `backup.check` of the configuration. No node is asked, and none has to be up.
    """
    if nagios and as_json:
        raise UsageError("--nagios and --json are two forms of the answer; choose one")
    if nagios:
        return _as_plugin(app, store)
    results = _results(app, store)
    if as_json:
        app.console.json({"level": worst(results).name, "tests": [_as_json(result) for result in results]})
    else:
        for result in results:
            app.console.line(f"{result.name}: {result.level.name} ({result.detail})")
    return 1 if worst(results) else 0


def _as_plugin(app: App, store: str) -> int:
    """Print what Nagios reads; there an error is the state UNKNOWN, and its words belong on stdout."""
    try:
        results = _results(app, store)
    except DbhaError as error:
        problems = error.problems if isinstance(error, ConfigurationError) else ()
        app.console.line(f"BACKUP UNKNOWN - {'; '.join([str(error), *problems])}".replace("|", "/"))
        return _NAGIOS_UNKNOWN
    app.console.line(nagios_line(results))
    return int(worst(results))


def _results(app: App, store_name: str) -> tuple[Result, ...]:
    store, now = app.site.store_of(store_name), datetime.now(UTC)
    try:
        backups, free_bytes = store.list(), store.free_bytes()
    except OSError as error:
        raise UnreachableError(
            f"the backup store cannot be read: {error}", hint="dbha backup list"
        ) from error
    return check(known_of(backups, free_bytes, now), app.configuration.backup.check, now)


def _as_json(result: Result) -> dict[str, object]:
    return {
        "name": result.name,
        "level": result.level.name,
        "detail": result.detail,
        "value": result.figure.value if result.figure else None,
        "unit": result.figure.unit if result.figure else None,
    }
