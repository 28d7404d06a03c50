"""What an upgrade was decided to be, before it began. It is the run's arguments in the journal, so that whoever
takes the run up builds the very same plan."""

from pydantic import BaseModel, ConfigDict


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ServiceUpgrade(_Frozen):
    """One service's part: from where to where. `before` and `expected` are heads by database."""

    service: str
    source: str
    target: str
    before: dict[str, tuple[str, ...]]
    expected: dict[str, tuple[str, ...]]

    @property
    def databases(self) -> tuple[str, ...]:
        """The databases of the service, in sync order."""
        return tuple(self.expected)


class UpgradeSpec(_Frozen):
    """A whole upgrade: its services, the node that gives the backup, the node that is written to."""

    target: str
    services: tuple[ServiceUpgrade, ...]
    donor: str
    writer: str
    backup_id: str
    backup_bytes: int  # estimate of what is to be read
    accepted: tuple[str, ...] = ()  # each exception that was accepted by name, in words

    @property
    def databases(self) -> tuple[str, ...]:
        """All databases that the upgrade touches."""
        return tuple(database for each in self.services for database in each.databases)
