"""`dbha check`: is everything there that the other verbs need?"""

import os
import shutil
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click

from dbha.backup.encryption import recipients_of
from dbha.backup.node_host import missing_tools
from dbha.cli.app import App
from dbha.cli.options import json_option
from dbha.cluster.desync import left_behind
from dbha.cluster.lock import is_free
from dbha.errors import ConfigurationError, DbhaError

_CERTIFICATES_WARNING = timedelta(days=30)
_TOOLS = ("mariadb", "mariadb-dump", "mariadbd", "ansible-playbook")


@click.command("check")
@json_option
@click.pass_obj
def command(app: App, as_json: bool) -> int:
    """Check configuration, inventory, secrets, tools, nodes and stores. Exits 0 when all is well, 1 or 3 when not."""
    results: list[tuple[str, str]] = []

    def probe(name: str, look: Callable[[], str]) -> None:
        try:
            results.append((name, look()))
        except ConfigurationError:
            raise
        except DbhaError as error:
            results.append((name, f"FAILED: {error}"))

    probe("configuration", lambda: f"ok ({app.configuration_path})")
    probe("secrets", lambda: "ok" if app.secrets.get("admin_password") else "FAILED")
    probe("inventory", lambda: f"ok ({len(app.site.cluster.nodes)} nodes)")
    for tool in (*app.site.backup_tools, *_TOOLS):
        results.append((f"tool {tool}", "ok" if _found(tool) else "FAILED: not installed"))
    probe("encryption", lambda: _encryption(app))
    for node in app.site.cluster.nodes:
        probe(f"host of {node.name}", lambda node=node: _host(app, node.name))  # type: ignore[misc]
    probe("cluster", lambda: _cluster(app))
    probe("desync", lambda: _desync(app))
    if app.site.certificates is not None:
        probe("certificates", lambda: _certificates(app))
    for name in app.site.services:
        probe(f"release of {name}", lambda name=name: _release(app, name))  # type: ignore[misc]
    for name in app.configuration.backup.stores:
        probe(f"store {name}", lambda name=name: _store(app, name))  # type: ignore[misc]
    failed = [name for name, result in results if result.startswith("FAILED")]
    if as_json:
        app.console.json({"ok": not failed, "checks": [{"name": n, "result": r} for n, r in results]})
    else:
        for name, result in results:
            app.console.line(f"{name}: {result}")
    return 1 if failed else 0


def _found(tool: str) -> bool:
    beside = Path(sys.executable).parent  # where dbha itself looks for Ansible: few have it on their path
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin", str(beside)))
    return shutil.which(tool, path=path) is not None


def _host(app: App, name: str) -> str:
    transport = app.site.cluster.transport(app.site.cluster.node(name))
    transport.run(["true"], timeout_s=10).check()
    if missing := missing_tools(app.site.cluster, app.site.cluster.node(name), app.site.backup_tools):
        return f"FAILED: no backup can be taken there: it has no {', '.join(missing)}"
    return f"ok ({transport.host})"


def _encryption(app: App) -> str:
    recipients = recipients_of(app.configuration.backup.encryption)
    if not recipients:
        return "ok (backups are not encrypted)"
    if app.site.identities.open(recipients):
        return f"ok ({len(recipients)} recipients, and new backups can be opened here)"
    return (
        f"ok ({len(recipients)} recipients; no identity here opens new backups: they can be taken, not verified or"
        " restored, and no upgrade begins)"
    )


def _cluster(app: App) -> str:
    verdict = app.site.verdict()
    if verdict.level != "healthy":
        return f"FAILED: {verdict.level}: {'; '.join(verdict.reasons)}"
    return "ok (healthy)"


def _desync(app: App) -> str:
    """Say which nodes a dead run of dbha left out of flow control; those that somebody else desynced are theirs."""
    running = not is_free(app.lock_path)
    left = left_behind(app.site.cluster, lambda run_id: not running and app.journal.knows(run_id))
    if left:
        words = ", ".join(f"{each.node} by run {each.run_id}" for each in left)
        return f"FAILED: {words}: the next command that changes the cluster undoes it"
    return "ok (none left by a run that is gone)"


def _certificates(app: App) -> str:
    """Say which certificate ends first; all that is encrypted ends with it."""
    assert app.site.certificates is not None
    name, end = app.site.certificates.first_end(app.site.cluster.nodes)
    left = end - datetime.now(UTC)
    word = "ok" if left > _CERTIFICATES_WARNING else "FAILED"
    return f"{word} ({name} ends first, on {end:%Y-%m-%d})"


def _release(app: App, name: str) -> str:
    release = app.site.releases_now(app.site.writer())[name]
    app.site.runner(name, release)
    return f"ok ({release})"


def _store(app: App, name: str) -> str:
    store = app.site.store_of(name)
    found, locks = len(store.list()), store.locks()
    return f"ok ({found} backups in {store.where}{f'; new ones are locked for {locks}' if locks else ''})"
