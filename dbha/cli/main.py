"""The `dbha` command: finds the verb, runs it, and turns what comes out into an exit code."""

import os
import sys
import tempfile
import traceback
from datetime import UTC, datetime
from pathlib import Path

import click

from dbha import __version__
from dbha.cli import (
    backup,
    check,
    cluster,
    database,
    metrics,
    release,
    restore,
    runs,
    sandbox,
    serve,
    sql,
    status,
    sync,
    upgrade,
)
from dbha.cli.app import App
from dbha.console import Console
from dbha.errors import ConfigurationError, DbhaError

EXIT_BUG = 70
EXIT_INTERRUPTED = 130


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="dbha")
@click.option(
    "-c", "--config", "config", type=click.Path(path_type=Path), metavar="FILE",
    help="Configuration; else $DBHA_CONFIG, ./dbha.yml, /etc/dbha/dbha.yml, or the sandbox of this folder.",
)  # fmt: skip
@click.pass_obj
def cli(app: App, config: Path | None) -> None:
    """High availability for the database cluster under an OpenStack control plane."""
    app.configuration_argument = config


for module in (
    check, status, metrics, serve, sandbox, cluster, database, release, sync, backup, restore, upgrade, runs, sql
):  # fmt: skip
    cli.add_command(module.command)


def main() -> None:
    """Run the command line and exit; the exit codes are those of design section 5."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code."""
    console = Console()
    app = App(console, os.environ)
    try:
        answer = cli.main(arguments, prog_name="dbha", standalone_mode=False, obj=app)
        return answer if isinstance(answer, int) else 0
    except click.ClickException as wrong:
        wrong.show()
        return wrong.exit_code
    except DbhaError as error:
        report(console, error)
        return error.exit_code
    except BrokenPipeError:  # the reader of our output went away; not our failure
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (click.exceptions.Abort, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    except Exception as error:  # noqa: BLE001 - the edge: whatever comes here is a bug, is kept and exits 70
        return report_bug(app, error)
    finally:
        app.close()


def report(console: Console, error: DbhaError) -> None:
    """Say what went wrong, what stayed unchanged, and what to type next."""
    console.say(f"error: {error}", style="bold red")
    if isinstance(error, ConfigurationError):
        for problem in error.problems:
            console.say(f"  {problem}")
    if error.unchanged:
        console.say(f"\n  {error.unchanged}")
    if error.hint:
        first, *more = error.hint.splitlines()
        console.say("\n".join((f"hint: {first}", *(f"      {line}" for line in more))))


def report_bug(app: App, error: Exception) -> int:
    """Keep the present traceback in a file of its own, say where, and return the exit code of a bug."""
    directory = app.log_directory() or Path(tempfile.mkdtemp(prefix="dbha-"))
    path = directory / f"bug-{datetime.now(UTC):%Y%m%dT%H%M%S}-{os.getpid()}.log"
    path.touch(mode=0o600)
    path.write_text(traceback.format_exc(), encoding="utf-8")
    app.console.say(f"error: a bug in dbha ({type(error).__name__}); the traceback is in {path}", style="red")
    return EXIT_BUG
