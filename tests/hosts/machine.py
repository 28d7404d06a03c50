"""One host of a lab: a Debian with systemd and sshd in a container, which can be treated as badly as a real one."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dbha.transport import SshEndpoint, SshTransport
from tests.hosts import network
from tests.hosts.cgroups import ControlGroup
from tests.hosts.ground import NoLabError, children_of, processes_with, run, tried
from tests.hosts.image import Image

BOOT_TIMEOUT_S = 90.0
GONE_TIMEOUT_S = 30.0
DISK = "1500M"  # in memory, and only as much as is used
_POLL_S = 0.05
_FILLER = "/var/lib/filler"


@dataclass(frozen=True)
class Machine:
    """A host; all that it is lies in `place`, and whether it runs is what the kernel says."""

    name: str
    address: str
    place: Path
    bridge: str
    keys: Path  # the lab's directory: the controller's key, and known_hosts
    machine_id: str

    @property
    def disk(self) -> Path:
        """The file system that holds all that the host writes."""
        return self.place / "disk"

    @property
    def root(self) -> Path:
        """The host's whole tree, seen from here; written only while it is off."""
        return self.place / "root"

    @property
    def _group(self) -> ControlGroup:
        return ControlGroup(f"dbha-lab-{self.machine_id}")

    @property
    def endpoint(self) -> SshEndpoint:
        """How to reach it as root."""
        return SshEndpoint(
            self.address, user="root", private_key_file=self.keys / "id_ed25519",
            known_hosts_file=self.keys / "known_hosts", use_agent=False,
        )  # fmt: skip

    # --- life ----------------------------------------------------------------------------------------------

    def make(self, image: Image, *, database: bool) -> None:
        """Make its disk; it is off."""
        for directory in (self.disk, self.root):
            directory.mkdir(parents=True)
        run("mount", "-t", "tmpfs", "-o", f"size={DISK},mode=755", "dbha-lab", str(self.disk))
        for name in ("upper", "work"):
            (self.disk / name).mkdir()
        layers = (
            f"lowerdir={image.layers(database=database)},upperdir={self.disk}/upper,workdir={self.disk}/work"
        )
        run("mount", "-t", "overlay", "-o", layers, "dbha-lab", str(self.root))
        etc = self.root / "etc"
        (etc / "systemd/network/10-host0.network").write_text(network.interface_file(self.address))
        (etc / "hostname").write_text(f"{self.name}\n")
        (etc / "hosts").write_text(f"127.0.0.1 localhost\n127.0.1.1 {self.name}\n")
        key = etc / "ssh/ssh_host_ed25519_key"
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", self.name, "-f", str(key))
        shutil.copy(self.keys / "id_ed25519.pub", self.root / "root/.ssh/authorized_keys")
        public = key.with_suffix(".pub").read_text(encoding="ascii")
        with (self.keys / "known_hosts").open("a", encoding="ascii") as known:
            known.write(f"{self.address} {public}")

    def start(self, *, dies_with_us: bool) -> None:
        """Switch it on; `wait_until_up` tells when it can be reached."""
        argv = [
            "systemd-nspawn", "--quiet", "-D", str(self.root), "--boot", "--register=no", "--keep-unit",
            f"--network-bridge={self.bridge}", f"--machine={self.machine_id}", f"--hostname={self.name}",
            "--resolv-conf=off", "--console=pipe", "--kill-signal=SIGRTMIN+3",
        ]  # fmt: skip
        if dies_with_us:
            argv = ["setpriv", "--pdeathsig", "KILL", "--", *argv]
        self._group.make()
        argv = self._group.entering(argv)
        with (self.place / "console").open("ab") as console:
            subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=console, stderr=console, start_new_session=True
            )

    def wait_until_up(self, timeout_s: float = BOOT_TIMEOUT_S) -> None:
        """Return when sshd answers. Raises NoLabError with the console's last words."""
        deadline = time.monotonic() + timeout_s
        while not self.answers():
            if time.monotonic() > deadline or not (self.is_on or self._is_starting()):
                raise NoLabError(f"{self.name} did not come up: {self.last_words()}")
            time.sleep(_POLL_S)

    def power_off(self) -> None:
        """Cut its power: every process is gone at once, nothing is said to anybody."""
        for leader in self._leaders():
            with contextlib.suppress(ProcessLookupError):
                os.kill(leader, signal.SIGKILL)
        deadline = time.monotonic() + GONE_TIMEOUT_S
        while self._monitors():
            if time.monotonic() > deadline - GONE_TIMEOUT_S / 2:
                for monitor in self._monitors():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(monitor, signal.SIGKILL)
            if time.monotonic() > deadline:
                raise NoLabError(f"{self.name} cannot be switched off")
            time.sleep(_POLL_S)
        self._group.remove()

    def remove(self) -> None:
        """Remove it, whatever state it is in."""
        self.power_off()
        for mounted in (self.root, self.disk):
            deadline = time.monotonic() + GONE_TIMEOUT_S
            while os.path.ismount(mounted) and not tried("umount", str(mounted)):
                if time.monotonic() > deadline:
                    run("umount", "--lazy", str(mounted))
                time.sleep(_POLL_S)
        shutil.rmtree(self.place, ignore_errors=True)

    @property
    def is_on(self) -> bool:
        """Whether its first process runs."""
        return bool(self._leaders())

    # --- trouble -------------------------------------------------------------------------------------------

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Stop all its processes while the block runs; its kernel still answers, as that of a host that hangs."""
        self.freeze()
        try:
            yield
        finally:
            self.thaw()

    def freeze(self) -> None:
        """Stop all its processes, also those that are being started."""
        stopped: set[int] = set()
        while new := set(self.processes()) - stopped:
            self._signal(new, signal.SIGSTOP)
            stopped |= new

    def thaw(self) -> None:
        """Let all go on, the first process last: it would see stopped children."""
        self._signal(sorted(self.processes(), reverse=True), signal.SIGCONT)

    def processes(self) -> list[int]:
        """Return its processes, by their ids on this machine."""
        if not (leaders := self._leaders()):
            return []
        space = _pid_space(leaders[0])
        pids = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal())
        return [pid for pid in pids if _pid_space(pid) == space]

    @contextmanager
    def cut_from(self, *others: "Machine") -> Iterator[None]:
        """Cut the links between it and others while the block runs, both ways."""
        self._links(network.cut, others)
        try:
            yield
        finally:
            self._links(network.mend, others)

    @contextmanager
    def full_disk(self) -> Iterator[None]:
        """Leave no room on its disk while the block runs."""
        with contextlib.closing(SshTransport(self.endpoint)) as transport:
            line = f"head -c 10G /dev/zero > {_FILLER} 2>/dev/null; true"
            transport.run(("sh", "-c", line), timeout_s=120)
            try:
                yield
            finally:
                transport.run(("rm", "-f", _FILLER))

    # --- commands ------------------------------------------------------------------------------------------

    def run(self, *argv: str, timeout_s: float = 120) -> str:
        """Run a command on it over SSH and return what it printed; fails with what it said."""
        with contextlib.closing(SshTransport(self.endpoint)) as transport:
            done = transport.run(argv, timeout_s=timeout_s)
        assert done.returncode == 0, (
            f"{self.name}: {' '.join(argv)}: {done.stderr.decode()} {done.stdout.decode()}"
        )
        return done.stdout.decode(errors="replace")

    def last_words(self) -> str:
        """Return the end of its console."""
        console = self.place / "console"
        return console.read_text(encoding="utf-8", errors="replace")[-500:] if console.exists() else "nothing"

    # --- parts ---------------------------------------------------------------------------------------------

    def _monitors(self) -> list[int]:
        return processes_with(f"--machine={self.machine_id}")

    def _is_starting(self) -> bool:
        return bool(self._monitors())

    def _leaders(self) -> list[int]:
        """Return its first process, seen from here: the one child of the monitor that is in a space of its own."""
        own = _pid_space(os.getpid())
        children = [child for monitor in self._monitors() for child in children_of(monitor)]
        return [child for child in children if _pid_space(child) not in (own, "")]

    def answers(self) -> bool:
        """Return whether its sshd greets."""
        with (
            contextlib.suppress(OSError),
            socket.create_connection((self.address, 22), timeout=1) as connection,
        ):
            connection.settimeout(2)
            return connection.recv(4) == b"SSH-"
        return False

    def _links(self, change: Callable[[str, int], None], others: "tuple[Machine, ...]") -> None:
        for other in others:
            change(other.address, self._leaders()[0])
            change(self.address, other._leaders()[0])

    @staticmethod
    def _signal(pids: Iterable[int], number: signal.Signals) -> None:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)


def _pid_space(pid: int) -> str:
    try:
        return str(Path(f"/proc/{pid}/ns/pid").readlink())
    except OSError:
        return ""
