"""The synthetic cloud on a real cluster, in copies of the services' tables, so that nothing else is disturbed."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import groupby

import pytest

from dbha.cluster.handle import Cluster
from dbha.database import Session
from dbha.errors import UnsafeError
from dbha.sandbox.cloud import load_cloud
from dbha.sandbox.cloud.rules import DATABASES, read_rules

pytest_plugins = ("tests.real.cloud_fixtures",)
pytestmark = [pytest.mark.real, pytest.mark.releases]

Names = dict[str, str]
MakeCopies = Callable[[str], Names]

# Rows that must not be there: what each other service says of nova's servers, and nova of its own hosts.
CONTRADICTIONS = {
    "server without mapping": """SELECT COUNT(*) FROM {nova}.instances AS server
        LEFT JOIN {nova_api}.instance_mappings AS mapping ON mapping.instance_uuid = server.uuid
        AND mapping.project_id = server.project_id AND mapping.user_id = server.user_id
        WHERE mapping.id IS NULL""",
    "server without request": """SELECT COUNT(*) FROM {nova}.instances AS server
        LEFT JOIN {nova_api}.request_specs AS request ON request.instance_uuid = server.uuid
        WHERE request.id IS NULL OR NOT JSON_VALID(spec)""",
    "live server that consumes nothing, or a deleted one that does": """SELECT COUNT(*)
        FROM {nova}.instances AS server LEFT JOIN {placement}.consumers AS consumer
        ON consumer.uuid = server.uuid WHERE (consumer.id IS NULL) = (server.deleted = 0)""",
    "owner without a role in the project": """SELECT COUNT(*) FROM {nova}.instances AS server
        LEFT JOIN {keystone}.assignment AS assignment ON assignment.actor_id = server.user_id
        AND assignment.target_id = server.project_id WHERE assignment.role_id IS NULL""",
    "server of no image": """SELECT COUNT(*) FROM {nova}.instances AS server
        LEFT JOIN {glance}.images AS image ON image.id = server.image_ref
        WHERE image.id IS NULL AND server.image_ref <> ''""",
    "server on no host": """SELECT COUNT(*) FROM {nova}.instances AS server
        LEFT JOIN {nova}.compute_nodes AS host ON host.host = server.host
        AND host.hypervisor_hostname = server.node WHERE host.id IS NULL""",
    "host that placement does not know": """SELECT COUNT(*) FROM {nova}.compute_nodes AS host
        LEFT JOIN {placement}.resource_providers AS provider ON provider.uuid = host.uuid
        AND provider.name = host.hypervisor_hostname WHERE provider.id IS NULL""",
    "host whose processors nova and placement count differently": """SELECT COUNT(*)
        FROM {nova}.compute_nodes AS host JOIN (SELECT uuid, SUM(used) AS used FROM {placement}.allocations
        JOIN {placement}.resource_providers AS provider ON provider.id = resource_provider_id
        WHERE resource_class_id = 0 GROUP BY uuid) AS known ON known.uuid = host.uuid
        WHERE host.vcpus_used <> known.used""",
    "JSON that is none": """SELECT COUNT(*) FROM {nova}.instance_extra WHERE NOT JSON_VALID(flavor)
        OR NOT JSON_VALID(vcpu_model) OR NOT JSON_VALID(keypairs)
        OR NOT JSON_VALID(COALESCE(numa_topology, '{{}}'))
        OR NOT JSON_VALID(COALESCE(device_metadata, '{{}}'))""",
    "network information that is none": """SELECT COUNT(*) FROM {nova}.instance_info_caches
        WHERE NOT JSON_VALID(network_info)""",
}


@pytest.fixture
def make_copies(synced: Cluster) -> Iterator[MakeCopies]:
    """Return a function that copies the tables, empty but for nova's cells, into databases with a prefix."""
    made: list[str] = []

    def make(prefix: str) -> Names:
        names = {name: f"{prefix}_{name}" for name in DATABASES}
        made.extend(names.values())
        with synced.session(synced.nodes[0]) as session:
            _copy_tables(session, names)
        return names

    yield make
    with synced.session(synced.nodes[0]) as session:
        for name in made:
            session.execute(f"DROP DATABASE IF EXISTS {name}")


@pytest.fixture
def session(synced: Cluster) -> Iterator[Session]:
    with synced.session(synced.nodes[0]) as session:
        yield session


def test_a_second_load_changes_nothing_and_a_larger_one_adds(
    session: Session, make_copies: MakeCopies
) -> None:
    grown, at_once = make_copies("grown"), make_copies("atonce")
    first = load_cloud(session, instances=700, on_progress=_ignore, databases=grown)
    assert (first.instances, first.added, first.hosts) == (700, 700, 40)
    before = _checksums(session, grown)
    heard: list[tuple[int, int]] = []
    again = load_cloud(session, instances=700, on_progress=lambda *said: heard.append(said), databases=grown)
    assert (again.added, again.rows, heard) == (0, {}, [(700, 700)])
    assert _checksums(session, grown) == before

    load_cloud(session, instances=1600, on_progress=_ignore, databases=grown)
    load_cloud(session, instances=1600, on_progress=_ignore, databases=at_once, batch_servers=2000)
    assert _checksums(session, grown) == _checksums(session, at_once)


def test_an_interrupted_load_goes_on(session: Session, make_copies: MakeCopies) -> None:
    names = make_copies("broken")

    def interrupt(done: int, _wanted: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load_cloud(session, instances=900, on_progress=interrupt, databases=names, batch_servers=400)
    counts = load_cloud(session, instances=900, on_progress=_ignore, databases=names, batch_servers=400)
    assert counts.added == 500
    assert session.value(f"SELECT COUNT(*) FROM {names['nova']}.instances") == 900


def test_a_service_that_was_restored_to_an_earlier_time_is_completed(
    session: Session, make_copies: MakeCopies
) -> None:
    names = make_copies("restored")
    load_cloud(session, instances=1200, on_progress=_ignore, databases=names)
    before = _checksums(session, names)
    session.execute(f"DELETE FROM {names['glance']}.images ORDER BY created_at DESC LIMIT 50")
    load_cloud(session, instances=1, on_progress=_ignore, databases=names)
    assert _checksums(session, names) == before


def test_the_services_agree_on_every_node(
    synced: Cluster,
    session: Session,
    make_copies: MakeCopies,
) -> None:
    names = make_copies("agreeing")
    load_cloud(session, instances=1300, on_progress=_ignore, databases=names)
    assert {
        what: session.value(sql.format(**names)) for what, sql in CONTRADICTIONS.items()
    } == dict.fromkeys(CONTRADICTIONS, 0)
    assert _orphans(session, names) == []
    with ExitStack() as stack:
        sessions = [stack.enter_context(synced.session(node)) for node in synced.nodes]
        checksums = [_checksums(other, names) for other in sessions]
    assert all(found == checksums[0] for found in checksums)


def test_refuses_when_schemas_are_missing(session: Session) -> None:
    with pytest.raises(UnsafeError, match="keystone, glance, placement and 3 more are missing") as caught:
        load_cloud(
            session,
            instances=1,
            on_progress=_ignore,
            databases={name: f"absent_{name}" for name in DATABASES},
        )
    assert caught.value.hint == "dbha sync"


def test_refuses_servers_of_another_origin(session: Session, make_copies: MakeCopies) -> None:
    names = make_copies("foreign")
    session.execute(f"INSERT INTO {names['nova']}.instances (uuid, deleted) VALUES ('someones', 0)")
    with pytest.raises(UnsafeError, match="not all of them"):
        load_cloud(session, instances=10, on_progress=_ignore, databases=names)
    assert session.value(f"SELECT COUNT(*) FROM {names['keystone']}.project") == 0


def _ignore(_done: int, _wanted: int) -> None:
    pass


def _copy_tables(session: Session, names: Names) -> None:
    for name in names.values():
        session.execute(f"DROP DATABASE IF EXISTS {name}")
        session.execute(f"CREATE DATABASE {name} CHARACTER SET utf8mb3")
    for database, table in _tables() | {("nova_api", "cell_mappings")}:
        session.execute(f"CREATE TABLE {names[database]}.`{table}` LIKE {database}.`{table}`")
    session.execute(
        f"INSERT INTO {names['nova_api']}.cell_mappings (id, uuid, name, database_connection) VALUES"
        f" (1, '00000000-0000-0000-0000-000000000000', 'cell0', 'a://b/{names['nova_cell0']}'),"
        f" (4, UUID(), 'cell1', 'a://b/{names['nova']}?c=d')"
    )


def _tables() -> set[tuple[str, str]]:
    return {(table.database, table.name) for table in read_rules().tables}


def _checksums(session: Session, names: Names) -> dict[str, int]:
    """The checksum of every table that a load fills, but where rows have automatic ids."""
    session.execute("SET SESSION wsrep_sync_wait = 1")
    tables = sorted(_tables() - {("placement", "traits"), ("placement", "consumer_types")})
    listed = ", ".join(f"{names[database]}.`{table}`" for database, table in tables)
    rows = session.rows(f"CHECKSUM TABLE {listed} EXTENDED")
    return {row["Table"].partition("_")[2]: row["Checksum"] for row in rows}


def _orphans(session: Session, names: Names) -> list[str]:
    """The foreign keys that the original tables have and a row of the copies breaks."""
    keys = session.rows(
        "SELECT table_schema AS db, constraint_name AS name, table_name AS tab, column_name AS col,"
        " referenced_table_name AS parent, referenced_column_name AS parent_col"
        " FROM information_schema.key_column_usage WHERE referenced_table_name IS NOT NULL"
        " AND table_schema IN %s ORDER BY 1, 2, ordinal_position",
        [DATABASES],
    )
    tables = _tables()
    broken = []
    for (database, name), parts in groupby(keys, key=lambda row: (row["db"], row["name"])):
        columns = list(parts)
        child, parent = columns[0]["tab"], columns[0]["parent"]
        if not {(database, child), (database, parent)} <= tables:
            continue
        same = " AND ".join(f"child.`{row['col']}` = parent.`{row['parent_col']}`" for row in columns)
        known = " AND ".join(f"child.`{row['col']}` IS NOT NULL" for row in columns)
        alone = session.value(
            f"SELECT COUNT(*) FROM {names[database]}.`{child}` AS child LEFT JOIN"
            f" {names[database]}.`{parent}` AS parent ON {same}"
            f" WHERE {known} AND parent.`{columns[0]['parent_col']}` IS NULL"
        )
        if alone and name != "project_domain_id_fkey":  # the root domain's row is not in the copy
            broken.append(f"{database}.{child}: {name}: {alone}")
    return broken
