"""A real S3 server for tests: OpenStack Swift with its S3 API, on loopback, its disks a directory.

`python -m tests.real.swift DIRECTORY PORT` is the server: account, container, object and proxy server of one node in
one process, as Swift's own functional tests run it. It ends with the process that started it.
"""

import contextlib
import logging
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.real.sshd import free_port

ACCESS_KEY, SECRET_KEY, BUCKET = "dbha:backup", "sEcret/of+the=bucket", "backups"
START_TIMEOUT_S = 60.0
STORAGE = ("account", "container", "object")
HASH = "[swift-hash]\nswift_hash_path_suffix = of-a-test\n"
STORAGE_SERVER = """
[DEFAULT]
swift_dir = {directory}
devices = {directory}/devices
mount_check = false
[pipeline:main]
pipeline = {kind}-server
[app:{kind}-server]
use = egg:swift#{kind}
"""
PROXY_SERVER = """
[DEFAULT]
swift_dir = {directory}
[pipeline:main]
pipeline = catch_errors gatekeeper listing_formats s3api tempauth slo dlo proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:gatekeeper]
use = egg:swift#gatekeeper
[filter:listing_formats]
use = egg:swift#listing_formats
[filter:s3api]
use = egg:swift#s3api
location = us-east-1
[filter:tempauth]
use = egg:swift#tempauth
user_dbha_backup = {secret} .admin
[filter:slo]
use = egg:swift#slo
[filter:dlo]
use = egg:swift#dlo
"""


@dataclass
class Swift:
    """A server that may be stopped and started again; what it stores stays."""

    directory: Path
    port: int = field(default_factory=free_port)
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start the server and return when it answers."""
        argv = ["setpriv", "--pdeathsig", "KILL", sys.executable, "-m", "tests.real.swift"]
        with (self.directory / "swift.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*argv, str(self.directory), str(self.port)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=Path(__file__).parents[2],
            )
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline_s and self.process.poll() is None:
            with (
                contextlib.suppress(OSError),
                socket.create_connection(("127.0.0.1", self.port), timeout=5) as probe,
            ):
                probe.sendall(b"GET / HTTP/1.0\r\n\r\n")
                if probe.recv(5) == b"HTTP/":
                    return
            time.sleep(0.05)
        self.stop()
        raise RuntimeError(f"Swift did not start:\n{(self.directory / 'swift.log').read_text()}")

    def stop(self) -> None:
        """End the server as a crash would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def pause(self) -> None:
        """Let it accept connections, and answer nothing."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def files_of(self, part: str) -> list[Path]:
        """Return the files on disk that hold objects whose name contains `part`."""
        import xattr  # noqa: PLC0415  (comes with Swift; the server's process alone needs the rest of it)

        return [
            path
            for path in (self.directory / "devices").rglob("*.data")
            if part.encode() in xattr.getxattr(str(path), "user.swift.metadata")
        ]


@contextlib.contextmanager
def running_swift(directory: Path) -> Iterator[Swift]:
    """Run a server with its files in `directory`."""
    server = Swift(directory)
    server.start()
    try:
        yield server
    finally:
        server.stop()
        shutil.rmtree(directory / "devices", ignore_errors=True)


def serve(directory: Path, port: int) -> None:
    """Be the server."""
    import eventlet  # noqa: PLC0415  (changes the whole process, which then must not be that of the tests)

    eventlet.monkey_patch()
    from eventlet import wsgi  # noqa: PLC0415
    from swift.common.utils import set_swift_dir  # noqa: PLC0415

    logging.basicConfig(level=logging.WARNING)
    (directory / "swift.conf").write_text(HASH, encoding="ascii")
    (directory / "devices" / "disk").mkdir(parents=True, exist_ok=True)
    set_swift_dir(str(directory))
    sockets = {kind: eventlet.listen(("127.0.0.1", 0)) for kind in STORAGE}
    for kind, listening in sockets.items():
        _write_ring(directory, kind, listening.getsockname()[1])
        text = STORAGE_SERVER.format(directory=directory, kind=kind)
        eventlet.spawn(wsgi.server, listening, _load(directory, kind, text), log_output=False)
    text = PROXY_SERVER.format(directory=directory, secret=SECRET_KEY)
    listening = eventlet.listen(("127.0.0.1", port))
    wsgi.server(listening, _load(directory, "proxy", text), log_output=False)


def _load(directory: Path, kind: str, text: str) -> Any:
    from swift.common.wsgi import loadapp  # noqa: PLC0415

    file = directory / f"{kind}-server.conf"
    file.write_text(text, encoding="ascii")
    return loadapp(str(file))


def _write_ring(directory: Path, kind: str, port: int) -> None:
    from swift.common.ring import RingBuilder  # noqa: PLC0415

    builder = RingBuilder(1, 1, 0)  # two partitions, one replica
    builder.add_dev(
        {"id": 0, "region": 1, "zone": 1, "weight": 1, "ip": "127.0.0.1", "port": port, "device": "disk"}
    )
    builder.rebalance()
    builder.get_ring().save(str(directory / f"{kind}.ring.gz"))


if __name__ == "__main__":
    serve(Path(sys.argv[1]), int(sys.argv[2]))
