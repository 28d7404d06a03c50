"""Fetch logs from a node with `mariadb-binlog`, byte for byte, into a directory."""

import os
import secrets
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dbha.backup.children import start
from dbha.backup.logical import client_options
from dbha.cluster.handle import Cluster
from dbha.inventory import Node

_ENDS_WITHIN_S = 10
_LAST_WORDS_BYTES = 400


def fetch_argv(options: str, directory: Path, first_log: str, *, forever: bool) -> tuple[str, ...]:
    """Return the command that fetches this log of a node and all after it. The option file must come first.

    A server ends the connection of whoever fetched with the same server id before, so each fetch takes its own.
    """
    return (
        "mariadb-binlog",
        options,
        "--read-from-remote-server",
        "--raw",
        "--stop-never" if forever else "--to-last-log",
        f"--stop-never-slave-server-id={2**31 + secrets.randbelow(2**30)}",
        f"--result-file={directory.absolute()}/",
        first_log,
    )


@dataclass(slots=True)
class Fetch:
    """A fetch in progress; `said` is what the tool said, known once it has ended."""

    process: "subprocess.Popen[bytes]"
    said: str = ""

    def wait(self, timeout_s: float) -> bool:
        """Wait for its end, so long at most; return whether it ended."""
        try:
            self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def problem(self) -> str:
        """Return why it ended, in words, after the block; empty when all went well."""
        if self.process.returncode == 0:
            return ""
        return f"mariadb-binlog ended with exit status {self.process.returncode}: {self.said or 'it said nothing'}"


@contextmanager
def fetching(
    cluster: Cluster, node: Node, directory: Path, first_log: str, *, forever: bool
) -> Iterator[Fetch]:
    """Fetch the logs of a node while the block runs; what is fetched is for its owner only."""
    environment = {"PATH": os.environ.get("PATH", os.defpath), "HOME": "/nonexistent", "LC_ALL": "C"}
    with client_options(cluster, node) as (option, descriptor), tempfile.TemporaryFile() as words:
        process = start(
            fetch_argv(option, directory, first_log, forever=forever),
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=words, pass_fds=(descriptor,),
            env=environment, umask=0o077,
        )  # fmt: skip
        fetch = Fetch(process)
        try:
            yield fetch
        finally:
            process.terminate()
            try:
                process.wait(_ENDS_WITHIN_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            words.seek(0)
            fetch.said = words.read().decode("utf-8", "replace").strip()[-_LAST_WORDS_BYTES:]
