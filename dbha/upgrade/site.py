"""One cluster with its services, releases and backups, as a configuration describes them."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

from dbha.backup.binlog.archive import Archive
from dbha.backup.donor import Candidate
from dbha.backup.encryption import Identities
from dbha.backup.estimate import room_at, size_in_scope
from dbha.backup.manifest import Scope, ServiceState
from dbha.backup.node_host import missing_tools
from dbha.backup.shelf import Shelf
from dbha.backup.store import Store
from dbha.backup.stores import make_store
from dbha.backup.tools_here import tools_for
from dbha.cluster.assess import Verdict, assess
from dbha.cluster.certificates import Certificates
from dbha.cluster.handle import Cluster, side_by_side
from dbha.cluster.home import recorded_releases
from dbha.cluster.observe import observe, observe_settled
from dbha.cluster.state import NodeState
from dbha.config import Configuration, SecretSource, ServicePolicy
from dbha.config.model import EnvironmentRunner, HostRunner, PrefixRunner
from dbha.database import Account
from dbha.errors import DbhaError, UnreachableError, UsageError
from dbha.heads import Heads, read_heads
from dbha.inventory import Node
from dbha.inventory_cache import load_inventory_cached
from dbha.releases.catalogue import get_release
from dbha.releases.environments import default_root, require
from dbha.releases.probe import probe
from dbha.releases.runner import Runner, host_runner, prefix_runner
from dbha.releases.tools import Tools
from dbha.schema.sync import SyncJob
from dbha.services import Service, SyncMethod, get_service
from dbha.transport import SshEndpoint, SshTransport

SERVICE_ORDER = ("placement", "keystone", "glance", "nova")  # placement has to be there before nova

_ROOM_STEP_BYTES = (
    1 << 30
)  # nodes that differ by less have the same room: the donor does not change all the time


class Site:
    """What every verb works with; parts are made when they are first asked for."""

    def __init__(
        self, configuration: Configuration, secrets: SecretSource, environment: Mapping[str, str]
    ) -> None:
        self.configuration = configuration
        self.secrets = secrets
        self._environment = environment
        self._runners: dict[tuple[str, str], Runner] = {}
        self._tools: dict[tuple[str, str], Tools] = {}
        self._stores: dict[str, Store] = {}

    @cached_property
    def cluster(self) -> Cluster:
        """The nodes of the inventory, and the administrator's account on them."""
        configuration = self.configuration
        return Cluster(
            configuration.cluster,
            load_inventory_cached(configuration.inventory, configuration.state / "inventory.json"),
            Account(configuration.admin_account, self.secrets.get("admin_password")),
            connect_timeout_s=configuration.limits.connect_timeout_s,
            tls_ca_file=self.certificates.ca_file if self.certificates else None,
        )

    @cached_property
    def certificates(self) -> Certificates | None:
        """The certificates of the nodes; None where connections are not encrypted."""
        policy = self.configuration.tls
        return None if policy is None else Certificates(policy.directory, policy.internal_ca)

    @cached_property
    def services(self) -> dict[str, Service]:
        """The services of the configuration, in the order an upgrade takes them."""
        policies = self.configuration.services
        return {
            name: get_service(name, cell_databases=_cells(policies[name]) if name == "nova" else ())
            for name in SERVICE_ORDER
            if name in policies
        }

    def chosen_services(self, names: tuple[str, ...]) -> dict[str, Service]:
        """Return the services of these names, all when none is named. Raises UsageError for an unknown one."""
        known = self.services
        if unknown := [name for name in names if name not in known]:
            raise UsageError(f"not in the configuration: {', '.join(unknown)}; there are {', '.join(known)}")
        return {name: service for name, service in known.items() if not names or name in names}

    def observe(self) -> tuple[NodeState, ...]:
        """Return what the nodes say now."""
        return observe(self.cluster, timeout_s=self.configuration.limits.observe_timeout_s)

    def observe_settled(self) -> tuple[NodeState, ...]:
        """Return what the nodes say once they have noticed what was lost a moment ago."""
        return observe_settled(self.cluster, timeout_s=self.configuration.limits.observe_timeout_s)

    def verdict(self) -> Verdict:
        """Return the judgement on what the nodes say now."""
        return self.verdict_of(self.observe())

    def verdict_of(self, states: tuple[NodeState, ...]) -> Verdict:
        """Return the judgement on what the nodes said."""
        return assess(states, expected=len(self.cluster.nodes))

    def writer(self) -> Node:
        """Return the node that takes the writes. Raises UnreachableError when no node can."""
        return self.writer_by(self.verdict())

    def writer_by(self, verdict: Verdict) -> Node:
        """Return the node that takes the writes by this verdict. Raises UnreachableError when no node can."""
        if verdict.writer is None:
            raise UnreachableError(
                f"no node can take writes: {'; '.join(verdict.reasons)}", hint="dbha status"
            )
        return self.cluster.node(verdict.writer)

    def releases_now(self, node: Node) -> dict[str, str]:
        """Return the release each service runs: as recorded in the cluster, else as configured."""
        with self.cluster.session(node) as session:
            recorded = recorded_releases(session)
        return {
            name: recorded.get(name, policy.release) for name, policy in self.configuration.services.items()
        }

    def heads_now(self, node: Node) -> dict[str, Heads]:
        """Return the schema heads of every service, as the node has them."""
        with self.cluster.session(node) as session:
            return {
                name: read_heads(session, service.database_names) for name, service in self.services.items()
            }

    @property
    def store(self) -> Store:
        """Where the backups are, unless another store is named. Asking it needs no node."""
        return self.store_of("")

    @property
    def shelf(self) -> Shelf:
        """The backups in that store, and all that can be done with them."""
        return self.shelf_of("")

    def shelf_of(self, name: str) -> Shelf:
        """Return the backups in a store; an empty name is that of the configuration's `backup.store`.

        Raises UsageError for a store that is not configured.
        """
        configuration = self.configuration
        return Shelf(
            self.cluster,
            self.store_of(name),
            configuration.state / "staging",
            configuration,
            self.service_states,
            self.identities,
        )

    @cached_property
    def identities(self) -> Identities:
        """The keys of encrypted backups that this controller holds, if any."""
        return Identities(self.secrets.backup_identities())

    def store_of(self, name: str) -> Store:
        """Return a store; an empty name is that of the configuration's `backup.store`.

        Raises UsageError for a store that is not configured.
        """
        policy = self.configuration.backup
        name = name or policy.store
        if name not in policy.stores:
            raise UsageError(f"there is no store `{name}` in dbha.yml; there are {', '.join(policy.stores)}")
        if name not in self._stores:
            self._stores[name] = make_store(name, policy.stores[name], self.secrets.get)
        return self._stores[name]

    @cached_property
    def archive(self) -> Archive:
        """The binary logs that are archived."""
        configuration = self.configuration
        return Archive(configuration.backup.archive.directory or configuration.state / "archive")

    def service_states(self, node: Node) -> dict[str, ServiceState]:
        """Return what a backup's manifest says of the services, those whose databases were made already."""
        releases, heads = self.releases_now(node), self.heads_now(node)
        with self.cluster.session(node) as session:
            there = set(session.column("SELECT schema_name FROM information_schema.schemata"))
        return {
            name: ServiceState(release=releases[name], databases=service.database_names, heads=heads[name])
            for name, service in self.services.items()
            if there.issuperset(service.database_names)
        }

    def candidates(self, states: tuple[NodeState, ...], verdict: Verdict) -> tuple[Candidate, ...]:
        """Return the nodes as candidates for the donor of a backup."""
        judged = {node.name: node for node in verdict.nodes}
        tools = self.backup_tools
        lacks = side_by_side(lambda node: missing_tools(self.cluster, node, tools), self.cluster.nodes)
        asked = [self.cluster.node(state.name) for state in states if judged[state.name].synced]
        rooms = side_by_side(self._room_of, asked)
        return tuple(
            Candidate(
                name=state.name,
                synced=judged[state.name].synced,
                view_agrees=judged[state.name].view_agrees,
                is_writer=state.name == verdict.writer,
                is_donor=state.desynced,
                receive_queue=state.receive_queue or 0,
                free_bytes=rooms[state.name][0] if state.name in rooms else 0,
                problem=rooms[state.name][1] if state.name in rooms else "",
                lacks=lacks[state.name],
            )
            for state in states
        )

    @property
    def backup_tools(self) -> tuple[str, ...]:
        """The tools that a new backup needs, on its donor and to be unpacked."""
        policy = self.configuration.backup
        return tools_for(policy.compression, encrypted=policy.encryption is not None)

    def _room_of(self, node: Node) -> tuple[int, str]:
        """Return the free bytes at the node's data, in whole GiB, and in words why its host does not tell."""
        try:
            room = room_at(f"node {node}", self.cluster.transport(node), node.datadir, 0)
        except DbhaError as error:
            return 0, f"has a host that cannot be used: {error}"
        return room.free_bytes - room.free_bytes % _ROOM_STEP_BYTES, ""

    def data_bytes(self, node: Node, services: tuple[str, ...] = ()) -> int:
        """Return how many bytes of tablespaces a backup of a node copies: of all, or of these services."""
        databases = [name for each in self.chosen_services(services).values() for name in each.database_names]
        with self.cluster.session(node) as session:
            return size_in_scope(session, databases, Scope.SERVICES if services else Scope.CLUSTER)

    @property
    def releases_directory(self) -> Path:
        """Where release environments are."""
        return self.configuration.releases.directory or default_root(self._environment)

    def runner(self, service: str, release: str) -> Runner:
        """Return where the service's native commands of a release run.

        Raises UnreachableError, naming what to type, when the release is not installed there.
        """
        if (service, release) not in self._runners:
            self._runners[service, release] = self._make_runner(service, release)
        return self._runners[service, release]

    def _make_runner(self, service: str, release: str) -> Runner:
        policy = self.configuration.services_policy(service).runner
        match policy:
            case EnvironmentRunner():
                return require(get_release(release), self.releases_directory).runner
            case PrefixRunner():
                return prefix_runner(policy.command)
            case HostRunner():
                endpoint = SshEndpoint(
                    host=policy.host,
                    port=policy.port,
                    user=policy.user,
                    private_key_file=policy.private_key_file,
                )
                return host_runner(SshTransport(endpoint), prefix=policy.command)

    def code_heads(self, service: str, release: str) -> Heads:
        """Return the heads that the code of a release has for a service, asked of the installed code itself."""
        policy = self.configuration.services_policy(service).runner
        names = self.services[service].database_names
        if isinstance(policy, EnvironmentRunner):  # was asked when it was installed
            environment = require(get_release(release), self.releases_directory)
            schemas = {each.name: each.schema.name for each in self.services[service].databases}
            return {name: environment.heads[schemas[name]] for name in names}
        answer = probe(self.runner(service, release), [self.services[service]])
        if answer.problems:
            raise UnreachableError(f"the code of {service} does not tell its schema: {answer.problems}")
        return {name: answer.heads[name] for name in names}

    def job(self, service: str, release: str, expected: Heads) -> SyncJob:
        """Return the sync of a service to a release."""
        return SyncJob(
            service=self.services[service],
            method=SyncMethod(self.configuration.services_policy(service).sync_method),
            tools=self._tools_of(service, release),
            expected=expected,
            timeout_s=self.configuration.limits.native_command_timeout_s,
            output_directory=self.configuration.state / "log" / "tools",
        )

    def _tools_of(self, service: str, release: str) -> Tools:
        runner = self.runner(service, release)
        return self._tools.setdefault((service, release), Tools(runner))

    def close(self) -> None:
        """Release connections, and end tools that wait for commands."""
        for tools in self._tools.values():
            tools.close()
        for store in self._stores.values():
            store.close()
        if "cluster" in self.__dict__:
            self.cluster.close()


def _cells(policy: ServicePolicy) -> tuple[str, ...]:
    return ("nova", *policy.extra_cells)
