"""`dbha serve`: metrics and endpoints, in the foreground until a signal ends it."""

import logging

import click

from dbha.cli.app import App
from dbha.config import Configuration, SecretSource, load_configuration
from dbha.serve.process import listen, serve
from dbha.serve.serving import Serving, require_usable
from dbha.upgrade.site import Site


@click.command("serve")
@click.pass_obj
def command(app: App) -> int:
    """Observe the cluster, and serve /metrics, /health, /live, /ready and /writer over HTTP.

    Runs in the foreground. SIGTERM and SIGINT end it, with exit 0; SIGHUP reads configuration and inventory anew,
    and a mistake in them leaves the old ones in use. It changes nothing in the cluster.
    """
    configuration = app.configuration
    _log_to_stderr()

    def make_site(changed: Configuration) -> Site:
        return Site(changed, SecretSource(changed.secrets, app.environment), app.environment)

    require_usable(app.site)
    serving = Serving(app.site, make_site, app.journal, app.lock_path)
    with listen(configuration) as listener:
        policy = configuration.serve
        app.console.say(f"serving cluster {configuration.cluster} on {policy.address}, port {policy.port}")
        serve(serving, lambda: load_configuration(app.configuration_path), listener, app.environment)
    return 0


def _log_to_stderr() -> None:
    """Say on stderr what the log file gets: there is no terminal, and a journal that keeps it."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    logging.getLogger().addHandler(handler)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
