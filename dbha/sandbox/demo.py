"""The main job as a story on this machine: `make demo`.

Everything is done by the `dbha` command as an operator would type it, and each command is shown before it runs.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from dbha.backup.proof import checksums_everywhere, compare
from dbha.cluster.handle import Cluster
from dbha.config.load import SANDBOX_CONFIGURATION
from dbha.console import Console, in_seconds
from dbha.errors import DbhaError
from dbha.sandbox.layout import read_sandbox
from dbha.sandbox.ledger import TABLES, LedgerReport, WriterProcess, WriterSettings, check, erase

FROM, TO = "2025.1", "2026.2"
INSTANCES = 20_000
NOVA = ("nova_api", "nova_cell0", "nova")
ROLLED_BACK = 7
LEFT_OVER_INDEX = "CREATE INDEX migrations_by_src_host_nodes_and_status_idx ON nova.migrations (uuid)"


class StoryError(DbhaError):
    """The demonstration did not show what it claims."""

    exit_code = 1


class Story:
    """Tells the story, one command after the other."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._dbha = Path(sys.executable).with_name("dbha")

    def chapter(self, text: str) -> None:
        """Begin a part of the story."""
        self._console.say(f"\n== {text}", style="bold cyan")

    def say(self, text: str) -> None:
        """Tell something."""
        self._console.say(text)

    def run(self, *arguments: str, expect: int = 0) -> float:
        """Run one `dbha` command in sight and return its seconds; any other exit code ends the story."""
        quoted = " ".join(f"'{word}'" if " " in word else word for word in arguments)
        self._console.say(f"$ dbha {quoted}", style="bold")
        started = time.monotonic()
        returncode = subprocess.run([self._dbha, *arguments], check=False).returncode
        if returncode != expect:
            raise StoryError(f"`dbha {quoted}` exited {returncode}, and {expect} was expected")
        if expect:
            self._console.say(f"(exit {returncode})")
        return time.monotonic() - started

    def read(self, *arguments: str) -> str:
        """Run one `dbha` command out of sight and return what it printed."""
        done = subprocess.run(
            [self._dbha, *arguments], check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        return done.stdout.decode()


def tell(story: Story) -> None:
    """Tell the whole story. Raises StoryError when anything is not as it must be."""
    started = time.monotonic()
    if SANDBOX_CONFIGURATION.exists():
        story.say("the sandbox of an earlier demonstration is removed first")
        story.run("sandbox", "down", "--yes")
    story.chapter("1. a real three-node MariaDB Galera cluster on this machine")
    story.run("sandbox", "up", "--nodes", "3", "--release", FROM)
    story.chapter(
        f"2. databases, accounts, the real schemas of OpenStack {FROM}, and a cloud of {INSTANCES} servers"
    )
    story.run("release", "install", FROM)
    story.run("release", "install", TO)
    story.run("database", "create")
    story.run("sync")
    story.run("sandbox", "load", "--instances", str(INSTANCES))
    story.chapter(f"3. the upgrade to {TO}")
    story.run("upgrade", "run", "--to", TO, "--yes")
    backup_id = story.read("backup", "list", "--json").split('"id": "')[-1].split('"')[0]
    story.say("\nto show a failure, nova goes back to its release of before, from that upgrade's backup:")
    story.run("restore", backup_id, "--service", "nova", "--yes")
    story.chapter("4. the same upgrade fails for a real reason, while others write")
    _fail(story, _sandbox_cluster())
    story.chapter("what next")
    story.say(
        "the cluster stays up to play with:\n"
        "  .venv/bin/dbha status              how it is\n"
        "  .venv/bin/dbha runs show           what the last run did, step by step\n"
        "  .venv/bin/dbha sandbox kill node2  what happens then?\n"
        "  .venv/bin/dbha sandbox down        removes all of it"
    )
    story.say(f"the whole story took {in_seconds(time.monotonic() - started)}")


def _fail(story: Story, cluster: Cluster) -> None:
    """Show an upgrade that fails and puts everything back, and prove it."""
    story.run("sql", "-e", LEFT_OVER_INDEX)
    story.say("an index with the name that nova's migration creates is left over now; nobody told dbha")
    before = checksums_everywhere(cluster, NOVA, cluster.nodes[:1])[cluster.nodes[0].name]
    with _writers(cluster) as reports:
        story.run("upgrade", "run", "--to", TO, "--yes", expect=ROLLED_BACK)
    story.chapter("5. the proof")
    differences = compare(before, checksums_everywhere(cluster, NOVA, cluster.nodes))
    if differences:
        raise StoryError(f"nova is not as before: {differences[0]}")
    story.say(
        f"nova: {len(before)} tables have the checksums from before on each of {len(cluster.nodes)} nodes"
    )
    for service, report in reports.items():
        _prove_ledger(story, cluster, service, report)


@contextmanager
def _writers(cluster: Cluster) -> Iterator[dict[str, LedgerReport]]:
    """Write to keystone and glance as their own accounts meanwhile; yield what the writers report in the end."""
    sandbox = read_sandbox(SANDBOX_CONFIGURATION.parent)
    reports: dict[str, LedgerReport] = {}
    with ExitStack() as stack:
        running = {
            service: stack.enter_context(
                WriterProcess(
                    WriterSettings(TABLES[service], cluster.nodes, sandbox.account(service, os.environ))
                )
            )
            for service in ("keystone", "glance")
        }
        yield reports
        for service, writer in running.items():
            reports[service] = writer.stop()


def _prove_ledger(story: Story, cluster: Cluster, service: str, report: LedgerReport) -> None:
    with ExitStack() as stack:
        sessions = [stack.enter_context(cluster.session(node)) for node in cluster.nodes]
        found = check(report, TABLES[service], sessions)
        if not found.is_intact:
            raise StoryError(f"rows of {service} are missing or double: {found}")
        erase(sessions[0], TABLES[service], report.run)
    story.say(
        f"{service}: all {len(report.acknowledged)} rows that were acknowledged are on every node;"
        f" {report.error_count} errors, longest wait {report.longest_wait_s * 1000:.0f} ms"
    )


def _sandbox_cluster() -> Cluster:
    return read_sandbox(SANDBOX_CONFIGURATION.parent).cluster(os.environ)


def main() -> int:
    """Tell the story and return the exit code."""
    console = Console()
    try:
        tell(Story(console))
    except DbhaError as error:
        console.say(f"error: {error}", style="bold red")
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
