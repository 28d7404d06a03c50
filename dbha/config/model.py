"""The shape of `dbha.yml`. Unknown keys are mistakes; relative paths are relative to the file."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    StringConstraints,
    Tag,
    model_validator,
)

Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,31}$")]
ReleaseName = Annotated[str, StringConstraints(pattern=r"^20\d\d\.[12]$")]
HopName = Annotated[str, StringConstraints(pattern=r"^20\d\d\.[12] -> 20\d\d\.[12]$")]

DesyncPolicy = Literal["never", "auto", "always"]


LZ4_LEVELS = 12
RECIPIENT = r"^age1[02-9ac-hj-np-z]{58}$"
Recipient = Annotated[str, StringConstraints(pattern=RECIPIENT)]


class Compression(StrEnum):
    """What compresses the stream of a backup; these words are in manifests."""

    ZSTD = "zstd"
    LZ4 = "lz4"  # takes more room, and gives it back sooner
    NONE = "none"


class Section(BaseModel):
    """A part of the configuration that refuses keys it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class EnvironmentRunner(Section):
    """Native commands run from an environment that `dbha release install` made."""

    kind: Literal["environment"] = "environment"


class PrefixRunner(Section):
    """Native commands run behind a prefix, for example `[docker, exec, -i, nova_api]`."""

    kind: Literal["prefix"]
    command: tuple[str, ...] = Field(min_length=1)


class HostRunner(Section):
    """Native commands run on another host over SSH; `command` is put in front of each."""

    kind: Literal["host"]
    host: str
    user: str | None = None
    port: PositiveInt = 22
    private_key_file: Path | None = None
    command: tuple[str, ...] = ()


RunnerPolicy = Annotated[EnvironmentRunner | PrefixRunner | HostRunner, Field(discriminator="kind")]


class ServicePolicy(Section):
    """A service that dbha looks after, and the release it ran when dbha took it over."""

    release: ReleaseName
    sync_method: Literal["offline", "phases"] = "offline"
    extra_cells: tuple[Name, ...] = ()
    runner: RunnerPolicy = EnvironmentRunner()


class ReleasePolicy(Section):
    """Where release environments live; None means the user's cache directory."""

    directory: Path | None = None


class DirectoryStore(Section):
    """A backup store that is a directory on the controller."""

    kind: Literal["directory"] = "directory"
    directory: Path
    immutable_days: NonNegativeInt = 0


class SftpStore(Section):
    """A backup store that is a directory on another host, reached over SFTP; relative to the account's home."""

    kind: Literal["sftp"]
    host: str
    directory: str
    user: str | None = None
    port: PositiveInt = 22
    private_key_file: Path | None = None
    known_hosts_file: Path | None = None
    patience_s: PositiveFloat = 120


class ObjectLock(Section):
    """What an S3 server with Object Lock is told of every object of a backup: nobody deletes it for so many days."""

    mode: Literal["governance", "compliance"]
    days: PositiveInt


class S3Store(Section):
    """A backup store in a bucket of an S3-compatible server; its keys are secrets."""

    kind: Literal["s3"]
    endpoint: Annotated[str, StringConstraints(pattern=r"^https?://")]
    bucket: str
    prefix: str = ""
    region: str = "us-east-1"
    ca_file: Path | None = None
    object_lock: ObjectLock | None = None
    timeout_s: PositiveFloat = 60
    patience_s: PositiveFloat = 120


def _kind_of(value: Any) -> Any:
    """Return the kind of a store: one that does not say is a directory."""
    return value.get("kind", "directory") if isinstance(value, dict) else getattr(value, "kind", None)


StorePolicy = Annotated[
    Annotated[DirectoryStore, Tag("directory")]
    | Annotated[SftpStore, Tag("sftp")]
    | Annotated[S3Store, Tag("s3")],
    Discriminator(_kind_of),
]


class RetentionPolicy(Section):
    """Which backups `dbha backup prune` keeps: those that any of these rules wants. 0 is no rule."""

    last: NonNegativeInt = 0
    days: NonNegativeInt = 0
    hourly: NonNegativeInt = 0
    daily: NonNegativeInt = 0
    weekly: NonNegativeInt = 0
    monthly: NonNegativeInt = 0
    yearly: NonNegativeInt = 0
    failed_days: NonNegativeInt = 14

    @model_validator(mode="after")
    def _has_a_rule(self) -> Self:
        if not any((self.last, self.days, self.hourly, self.daily, self.weekly, self.monthly, self.yearly)):
            raise ValueError("at least one of last, days, hourly, daily, weekly, monthly, yearly is needed")
        return self


class BackupCheckPolicy(Section):
    """When `dbha backup check` warns, and when it calls the state critical."""

    warning_age_h: PositiveFloat = 26
    critical_age_h: PositiveFloat = 50
    verified_warning_age_h: PositiveFloat = 26
    verified_critical_age_h: PositiveFloat = 8 * 24
    full_warning_age_h: PositiveFloat = 8 * 24
    full_critical_age_h: PositiveFloat = 15 * 24
    shrunk_percent: Annotated[PositiveFloat, Field(le=100)] = 30
    grown_percent: PositiveFloat = 100
    critical_failures: PositiveInt = 3
    minimum_good: PositiveInt = 1
    warning_room: PositiveInt = 3


class IncrementalPolicy(Section):
    """How far chains of incremental backups may go, and whether a full one is taken where none can be."""

    max_depth: Annotated[int, Field(ge=1, le=16)] = 1
    or_full: bool = False


class ArchivePolicy(Section):
    """Where binary logs are archived; None means `archive` in the state directory."""

    directory: Path | None = None


class EncryptionPolicy(Section):
    """For whom new backups are encrypted: age recipients, listed here or one a line in a file. They are public."""

    recipients: tuple[Recipient, ...] = ()
    recipients_file: Path | None = None

    @model_validator(mode="after")
    def _is_for_somebody(self) -> Self:
        if not self.recipients and self.recipients_file is None:
            raise ValueError("recipients or recipients_file is needed: nobody could open a backup")
        return self


class BackupPolicy(Section):
    """Where backups go and how they are made."""

    stores: dict[Name, StorePolicy] = Field(min_length=1)
    store: Name = "local"
    archive: ArchivePolicy = ArchivePolicy()
    compression: Compression = Compression.ZSTD
    compression_level: Annotated[int, Field(ge=1, le=19)] = 1
    compression_threads: PositiveInt = 2
    copy_threads: PositiveInt = 2
    throttle_mib_s: Annotated[float, Field(ge=1)] | None = None
    encryption: EncryptionPolicy | None = None
    incremental: IncrementalPolicy = IncrementalPolicy()
    retention: RetentionPolicy | None = None
    check: BackupCheckPolicy = BackupCheckPolicy()
    count_rows: bool = True
    desync: DesyncPolicy = "auto"

    @model_validator(mode="after")
    def _has_that_level(self) -> Self:
        if self.compression is Compression.LZ4 and self.compression_level > LZ4_LEVELS:
            raise ValueError(f"compression_level of lz4 is at most {LZ4_LEVELS}")
        return self


class UpgradePolicy(Section):
    """What an upgrade may do; `allow_hops` names jumps that OpenStack itself does not test."""

    allow_hops: tuple[HopName, ...] = ()


class TlsPolicy(Section):
    """Where the certificates of the nodes are: ca.crt, and NODE.crt and NODE.key for each.

    With `internal_ca` what is missing is made there, and ca.key kept.
    """

    directory: Path
    internal_ca: bool = True


class Limits(Section):
    """How long dbha waits, in seconds."""

    connect_timeout_s: PositiveFloat = 3
    observe_timeout_s: PositiveFloat = 3
    native_command_timeout_s: PositiveFloat = 3600
    backup_timeout_s: PositiveFloat = 6 * 3600
    lease_ttl_s: PositiveFloat = 30


class ServePolicy(Section):
    """Where `dbha serve` listens, and how often it looks at what."""

    address: str = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535)] = 9178
    nodes_interval_s: Annotated[float, Field(ge=0.1)] = 1
    cluster_interval_s: Annotated[float, Field(ge=0.1)] = 5
    backups_interval_s: Annotated[float, Field(ge=0.1)] = 120
    observe_timeout_s: PositiveFloat = 2
    stale_after_s: PositiveFloat = 10

    @model_validator(mode="after")
    def _leaves_time_to_look(self) -> Self:
        if self.stale_after_s <= self.nodes_interval_s + self.observe_timeout_s:
            raise ValueError(
                "stale_after_s must be more than nodes_interval_s and observe_timeout_s together"
            )
        return self


class SecretPolicy(Section):
    """The file that holds the passwords: YAML of mode 0600, plain or made by ansible-vault.

    `identity_file` has the age identities that open encrypted backups, as `age-keygen` writes them.
    """

    file: Path | None = None
    vault_password_file: Path | None = None
    identity_file: Path | None = None


class Configuration(Section):
    """The whole of `dbha.yml`; all paths are absolute once loaded."""

    cluster: Name
    inventory: Path
    state: Path = Path("/var/lib/dbha")
    admin_account: Name = "dbha"
    secrets: SecretPolicy = SecretPolicy()
    services: dict[Literal["placement", "keystone", "glance", "nova"], ServicePolicy]
    releases: ReleasePolicy = ReleasePolicy()
    backup: BackupPolicy
    upgrade: UpgradePolicy = UpgradePolicy()
    tls: TlsPolicy | None = None
    limits: Limits = Limits()
    serve: ServePolicy = ServePolicy()

    def services_policy(self, service: str) -> ServicePolicy:
        """Return the policy of a service by its name. Raises KeyError for one that is not configured."""
        return {str(name): policy for name, policy in self.services.items()}[service]
