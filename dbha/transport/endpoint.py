"""Where an SSH connection goes, and the errors that say what to type when it does not get there."""

import getpass
import shlex
from dataclasses import dataclass
from pathlib import Path

from dbha.transport.base import HostKeyError, TransportError

SSH_PORT = 22
SYSTEM_KNOWN_HOSTS_FILE = Path("/etc/ssh/ssh_known_hosts")


@dataclass(frozen=True, slots=True)
class SshEndpoint:
    """Where and as whom to connect.

    `user` None is the user of this process. Keys are `private_key_file` alone, else those in `~/.ssh`, and
    those of the agent. Known hosts are `known_hosts_file` alone, else the user's and the system's.
    """

    host: str
    port: int = SSH_PORT
    user: str | None = None
    private_key_file: Path | None = None
    known_hosts_file: Path | None = None
    connect_timeout_s: float = 10
    keepalive_s: float = 5
    use_agent: bool = True

    @property
    def account(self) -> str:
        """The user to log in as."""
        return self.user or getpass.getuser()

    @property
    def known_hosts_name(self) -> str:
        """The host's name as known_hosts files have it."""
        return self.host if self.port == SSH_PORT else f"[{self.host}]:{self.port}"

    @property
    def known_hosts_files(self) -> tuple[Path, ...]:
        """The files to look the host's key up in; the first is the one to add to."""
        if self.known_hosts_file is not None:
            return (self.known_hosts_file,)
        return (Path.home() / ".ssh/known_hosts", SYSTEM_KNOWN_HOSTS_FILE)

    def ssh_line(self, *command: str) -> str:
        """Return the `ssh` line that connects in the same way, to be typed by hand."""
        argv = ["ssh", "-p", str(self.port)]
        if self.private_key_file is not None:
            argv += ["-i", str(self.private_key_file)]
        if self.known_hosts_file is not None:
            argv += ["-o", f"UserKnownHostsFile={self.known_hosts_file}"]
        return shlex.join([*argv, f"{self.account}@{self.host}", *command])


def connect_error(endpoint: SshEndpoint, reason: str) -> TransportError:
    """Return the error for a host that does not answer, or not as sshd would."""
    return TransportError(
        f"cannot connect to {endpoint.host} port {endpoint.port}: {reason}",
        hint=f"check that the host is up, sshd runs and no firewall is between: {endpoint.ssh_line('true')}",
    )


def login_error(endpoint: SshEndpoint, reason: str) -> TransportError:
    """Return the error for a host that does not let the account in."""
    keys = str(endpoint.private_key_file or "the keys in ~/.ssh")
    tried = f"{keys} and the agent" if endpoint.use_agent else keys
    return TransportError(
        f"{endpoint.host} does not let {endpoint.account} in with {tried}: {reason}",
        hint=f"compare the public key with ~{endpoint.account}/.ssh/authorized_keys there, then try:"
        f" {endpoint.ssh_line('true')}",
    )


def unknown_key_error(endpoint: SshEndpoint, key_type: str, fingerprint: str) -> HostKeyError:
    """Return the error for a host that no known_hosts file names."""
    files = " and ".join(str(path) for path in endpoint.known_hosts_files)
    return HostKeyError(
        f"the SSH host key of {endpoint.host} is not known: the host presented {key_type} {fingerprint},"
        f" and {files} has no entry for {endpoint.known_hosts_name}",
        hint=f"compare the fingerprint on the host's own console, for f in /etc/ssh/ssh_host_*_key.pub; do"
        f" ssh-keygen -lf $f; done, and if it is the same: {_keyscan_line(endpoint, key_type)}",
    )


def changed_key_error(
    endpoint: SshEndpoint, key_type: str, fingerprint: str, expected_fingerprint: str
) -> HostKeyError:
    """Return the error for a host whose key is not the one in known_hosts."""
    # The entry may be in either file; ssh-keygen says so when it finds none.
    file = next((path for path in endpoint.known_hosts_files if path.exists()), endpoint.known_hosts_files[0])
    forget = shlex.join(["ssh-keygen", "-R", endpoint.known_hosts_name, "-f", str(file)])
    return HostKeyError(
        f"the SSH host key of {endpoint.host} has CHANGED: known is {expected_fingerprint}, but the host"
        f" presented {key_type} {fingerprint}; it was reinstalled, or something answers in its place",
        hint=f"find out which, and only if the new key is right: {forget} && {_keyscan_line(endpoint, key_type)}",
    )


def _keyscan_line(endpoint: SshEndpoint, key_type: str) -> str:
    kind = key_type.removeprefix("ssh-").partition("-")[0]
    argv = ["ssh-keyscan", "-p", str(endpoint.port), "-t", kind, endpoint.host]
    return f"{shlex.join(argv)} >> {shlex.quote(str(endpoint.known_hosts_files[0]))}"
