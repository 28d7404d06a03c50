"""A real sshd on a free loopback port, with host keys, accounts and files of its own."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from dbha.transport import SshEndpoint

START_TIMEOUT_S = 20.0
CONFIGURATION = """
ListenAddress 127.0.0.1
Port {port}
HostKey {directory}/host_key
AuthorizedKeysFile {directory}/authorized_keys
PidFile none
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
StrictModes no
PermitRootLogin prohibit-password
MaxStartups 100
LogLevel VERBOSE
{extra}
"""


def free_port() -> int:
    """Return a port of loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class Sshd:
    """A server for one account, the one that runs the tests."""

    directory: Path
    extra: str = ""
    port: int = field(default_factory=free_port)
    process: "subprocess.Popen[bytes] | None" = None

    def __post_init__(self) -> None:
        self.make_key("host_key")
        self.make_key("user_key")
        shutil.copy(self.directory / "user_key.pub", self.directory / "authorized_keys")
        self.write_known_hosts("host_key")

    @property
    def endpoint(self) -> SshEndpoint:
        return SshEndpoint(
            "127.0.0.1",
            port=self.port,
            private_key_file=self.directory / "user_key",
            known_hosts_file=self.directory / "known_hosts",
            use_agent=False,
        )

    def make_key(self, name: str) -> Path:
        path = self.directory / name
        path.unlink(missing_ok=True)
        _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "dbha-test", "-f", str(path))
        return path

    def write_known_hosts(self, key: str) -> None:
        public = (self.directory / f"{key}.pub").read_text(encoding="ascii")
        line = f"[127.0.0.1]:{self.port} {public}"
        (self.directory / "known_hosts").write_text(line, encoding="ascii")

    def start(self) -> None:
        """Start the server and return when it answers."""
        if os.geteuid() == 0:
            # Compiled into sshd as root; Debian's service makes it in the same way. Others may use it: it stays.
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        file = self.directory / "sshd_config"
        text = CONFIGURATION.format(port=self.port, directory=self.directory, extra=self.extra)
        file.write_text(text, encoding="ascii")
        with (self.directory / "sshd.log").open("ab") as log:
            # It ends with the process of the tests, even if that one is killed.
            argv = ["setpriv", "--pdeathsig", "KILL", _sshd(), "-D", "-e", "-f", str(file)]
            self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stderr=log)
        self._await_banner()

    def sessions(self) -> list[int]:
        """Return the ids of the processes that serve connections, without what runs in them."""
        return [number for number in self._descendants() if command_name(number).startswith("sshd")]

    def commands(self, name: str) -> list[int]:
        """Return the ids of the programs called `name` that run in connections, the oldest first."""
        return sorted(number for number in self._descendants() if command_name(number) == name)

    def kill_sessions(self) -> None:
        """Break every connection as a crash would; what runs in them goes on."""
        for number in self.sessions():
            _kill(number)

    def stop(self) -> None:
        """End the server, its connections and everything that was started over them."""
        if self.process is None:
            return
        left = self._descendants()
        self.process.kill()
        self.process.wait()
        for number in left:
            _kill(number)
        self.process = None

    def log(self) -> str:
        return (self.directory / "sshd.log").read_text(encoding="utf-8", errors="replace")

    def _descendants(self) -> list[int]:
        assert self.process is not None
        children = _children()
        found = list(children.get(self.process.pid, ()))
        for number in found:
            found += children.get(number, ())
        return found

    def _await_banner(self) -> None:
        assert self.process is not None
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline_s and self.process.poll() is None:
            with (
                contextlib.suppress(OSError),
                socket.create_connection(("127.0.0.1", self.port), timeout=5) as probe,
            ):
                if probe.recv(4) == b"SSH-":
                    return
            time.sleep(0.05)
        log = self.log()
        self.stop()
        raise RuntimeError(f"sshd did not start:\n{log}")


@contextlib.contextmanager
def running_sshd(directory: Path, *, extra: str = "") -> Iterator[Sshd]:
    """Run a server with its files in `directory`, and `extra` lines of configuration."""
    server = Sshd(directory, extra)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def is_running(process_id: int) -> bool:
    """Return whether a process exists and is more than a zombie."""
    try:
        status = Path(f"/proc/{process_id}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] not in "ZX"


def command_name(process_id: int) -> str:
    """Return the name of a process's program, or an empty string when it has ended."""
    try:
        return Path(f"/proc/{process_id}/comm").read_text(encoding="utf-8", errors="replace").strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _children() -> dict[int, list[int]]:
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                status = (entry / "stat").read_text(encoding="utf-8", errors="replace")
                children.setdefault(int(status.rpartition(")")[2].split()[1]), []).append(int(entry.name))
    return children


def _kill(process_id: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process_id, signal.SIGKILL)


def _sshd() -> str:
    # sshd starts itself anew for each connection and wants its absolute path for that.
    found = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if found is None:
        raise RuntimeError("these tests need OpenSSH's server: apt-get install openssh-server")
    return found


def _run(*argv: str) -> None:
    subprocess.run(argv, check=True, capture_output=True, timeout=60)
