"""The store that a part of the configuration describes."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from dbha.backup.directory_store import DirectoryStore
from dbha.backup.objects import PatientObjects
from dbha.backup.remote_store import RemoteStore
from dbha.backup.sftp_objects import SftpObjects
from dbha.backup.store import Store
from dbha.config.model import DirectoryStore as DirectoryPolicy
from dbha.config.model import S3Store, SftpStore, StorePolicy
from dbha.secrets import Secret
from dbha.transport import SshEndpoint

if TYPE_CHECKING:
    from dbha.backup.s3_objects import S3Objects


def make_store(name: str, policy: StorePolicy, secret: Callable[[str], Secret]) -> Store:
    """Return the store of this name; nothing is asked of it yet. `secret` raises ConfigurationError for none."""
    match policy:
        case DirectoryPolicy():
            return DirectoryStore(policy.directory, immutable_days=policy.immutable_days)
        case SftpStore():
            where = f"store `{name}` (sftp, {policy.host}:{policy.directory})"
            objects = SftpObjects(_endpoint(policy), policy.directory, where)
            return RemoteStore(PatientObjects(objects, policy.patience_s))
        case S3Store():
            days = policy.object_lock.days if policy.object_lock else 0
            objects_there = PatientObjects(_bucket(name, policy, secret), policy.patience_s)
            return RemoteStore(objects_there, locked_days=days)


def _endpoint(policy: SftpStore) -> SshEndpoint:
    return SshEndpoint(
        host=policy.host,
        port=policy.port,
        user=policy.user,
        private_key_file=policy.private_key_file,
        known_hosts_file=policy.known_hosts_file,
    )


def _bucket(name: str, policy: S3Store, secret: Callable[[str], Secret]) -> "S3Objects":
    from dbha.backup.s3_objects import S3Objects, S3Place  # noqa: PLC0415  (0.2 s, for those who use S3 only)

    word = name.replace("-", "_")  # as the names of environment variables want it
    place = S3Place(
        endpoint=policy.endpoint,
        region=policy.region,
        bucket=policy.bucket,
        prefix=f"{policy.prefix.strip('/')}/" if policy.prefix.strip("/") else "",
        access_key=secret(f"{word}_access_key"),
        secret_key=secret(f"{word}_secret_key"),
        ca_file=policy.ca_file,
        timeout_s=policy.timeout_s,
        lock=policy.object_lock,
    )
    return S3Objects(place, f"store `{name}` (s3, {policy.endpoint}, bucket {policy.bucket})")
