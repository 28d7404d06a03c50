"""Commands and files on this host or another one, through one interface: `Transport`."""

from dbha.transport.base import (
    CommandFailedError,
    CommandTimeoutError,
    Completed,
    HostKeyError,
    RunningCommand,
    Transport,
    TransportError,
)
from dbha.transport.deadline import deadline
from dbha.transport.endpoint import SshEndpoint
from dbha.transport.local import LocalTransport
from dbha.transport.ssh import SshTransport

__all__ = [
    "CommandFailedError",
    "CommandTimeoutError",
    "Completed",
    "HostKeyError",
    "LocalTransport",
    "RunningCommand",
    "SshEndpoint",
    "SshTransport",
    "Transport",
    "TransportError",
    "deadline",
]
