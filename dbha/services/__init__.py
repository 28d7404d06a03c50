"""The OpenStack services dbha looks after. Adding one is adding a `Service` value and a line here."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from dbha.errors import UsageError
from dbha.services.glance import GLANCE
from dbha.services.keystone import KEYSTONE
from dbha.services.model import (
    CHARACTER_SET,
    COLLATION,
    Connection,
    Database,
    Meaning,
    NativeCommand,
    Outcome,
    Schema,
    Service,
    Stage,
    SyncMethod,
    failed,
)
from dbha.services.nova import NOVA, cell_mapping_commands, nova
from dbha.services.placement import PLACEMENT

__all__ = [
    "CHARACTER_SET",
    "COLLATION",
    "GLANCE",
    "KEYSTONE",
    "NOVA",
    "PLACEMENT",
    "SERVICES",
    "Connection",
    "Database",
    "Meaning",
    "NativeCommand",
    "Outcome",
    "Schema",
    "Service",
    "Stage",
    "SyncMethod",
    "cell_mapping_commands",
    "failed",
    "get_service",
    "nova",
]

# In the order an upgrade takes them: placement has to be there before nova.
SERVICES: Mapping[str, Service] = MappingProxyType(
    {service.name: service for service in (PLACEMENT, KEYSTONE, GLANCE, NOVA)}
)


def get_service(name: str, *, cell_databases: Sequence[str] = ()) -> Service:
    """Return the service of this name; `cell_databases` are nova's, where they are not just `nova`.

    Raises UsageError, which lists the names, for any other.
    """
    if name not in SERVICES:
        raise UsageError(f"there is no service {name!r}", hint=f"the services are {', '.join(SERVICES)}")
    return nova(cell_databases) if cell_databases and name == NOVA.name else SERVICES[name]
