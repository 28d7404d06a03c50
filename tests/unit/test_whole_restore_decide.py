"""May a whole cluster be restored? A table of what hosts said against what is decided."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from dbha.backup.manifest import Scope
from dbha.backup.node_host import HostState, parse_host
from dbha.cluster.state import NodeState, silent_state
from dbha.errors import DbhaError, UnreachableError, UnsafeError, UsageError
from dbha.inventory import Node
from dbha.upgrade.whole_restore_decide import decide
from tests.unit.test_backup_manifest import MANIFEST

NODES = tuple(Node(f"node{number}", f"10.0.0.{number}", 3306, "/var/lib/mysql") for number in (1, 2, 3))
VERSION = "10.11.19-MariaDB"
HEALTHY = ("node1", "node2", "node3")
HISTORY = "c45553ad-e6f7-11f1-b78a-8b00356db182"
NOW = datetime(2026, 11, 23, tzinfo=UTC)
GIB = 1 << 30


def host(name: str, **changes: object) -> HostState:
    found = HostState(name, "", f"{name}:1", 100 * GIB, VERSION, VERSION)
    return replace(found, **changes)  # type: ignore[arg-type]


def hosts(*others: HostState) -> dict[str, HostState]:
    return {name: host(name) for name in HEALTHY} | {other.node: other for other in others}


def states(*serving: str, refusing: str = "") -> tuple[NodeState, ...]:
    """Return what three nodes said, of which these are one healthy cluster and the others say nothing."""
    return tuple(
        NodeState(
            name, "10.0.0.1", 3306, True, NOW, cluster_status="Primary", local_state=4, local_state_comment="Synced",
            ready=True, connected=True, cluster_state_uuid=HISTORY, conf_id=3, cluster_size=len(serving),
            last_committed=9, receive_queue=0, version=VERSION,
        )
        if name in serving
        else silent_state(
            NODES[number], "refused" if name == refusing else "silent", observed_at=NOW, is_refusing=name == refusing
        )
        for number, name in enumerate(HEALTHY)
    )  # fmt: skip


def test_all_nodes_take_part_in_a_new_history() -> None:
    spec = decide(MANIFEST, NODES, hosts(), states(*HEALTHY), accept_missing=())
    assert (spec.nodes, spec.missing, spec.served) == (HEALTHY, (), HEALTHY)
    assert set(spec.view) == set(HEALTHY)
    assert spec.heads == {"nova_api": ("d",), "nova": ("a", "b")}
    again = decide(MANIFEST, NODES, hosts(), states(*HEALTHY), accept_missing=())
    assert again.history != spec.history


def test_a_backup_of_some_services_is_not_enough() -> None:
    part = MANIFEST.model_copy(update={"scope": Scope.SERVICES})
    with pytest.raises(UnsafeError, match="holds only nova") as caught:
        decide(part, NODES, hosts(), states(*HEALTHY), accept_missing=())
    assert caught.value.hint == f"dbha restore {MANIFEST.id} --service nova"


def test_a_cluster_that_is_down_is_restored_as_well() -> None:
    assert decide(MANIFEST, NODES, hosts(), states(), accept_missing=()).served == ()


def test_a_node_that_cannot_be_reached_is_left_out_by_name_only() -> None:
    lost = hosts(host("node2", problem="its host cannot be reached"))
    with pytest.raises(UnreachableError, match="node2: its host cannot be reached") as caught:
        decide(MANIFEST, NODES, lost, states("node1", "node3"), accept_missing=())
    assert caught.value.hint.endswith(f"dbha restore {MANIFEST.id} --accept-missing node2")
    spec = decide(MANIFEST, NODES, lost, states("node1", "node3"), accept_missing=("node2",))
    assert (spec.nodes, spec.missing) == (("node1", "node3"), ("node2",))
    assert set(spec.view) == {"node1", "node3"}


@pytest.mark.parametrize("others", [(), ("node2", "node3")])
def test_a_cluster_that_refuses_the_administrator_is_not_one_that_is_down(others: tuple[str, ...]) -> None:
    with pytest.raises(UnreachableError, match="refused") as caught:
        decide(MANIFEST, NODES, hosts(), states(*others, refusing="node1"), accept_missing=())
    assert "password" in caught.value.hint


@pytest.mark.parametrize(
    ("changed", "accepted", "error", "words"),
    [
        (host("node3", is_mount_point=True), (), UnsafeError, "node3: its data directory is a mount point"),
        (host("node3", tool_version="11.4.2-MariaDB"), (), UnsafeError, "only 10.11 can prepare this backup"),
        (host("node3", server_version=""), (), UnsafeError, "mariadbd of an unknown version"),
        (host("node3", free_bytes=1000), (), UnsafeError, "too little room: node node3"),
        (host("node3"), ("node9",), UsageError, "no node is called node9; there are node1, node2, node3"),
        (host("node3"), ("node3",), UnsafeError, "node3 is accepted as missing, and serves"),
        (host("node3"), HEALTHY, UsageError, "there is nothing to restore to"),
    ],
)
def test_what_speaks_against_it_is_said_before_anything_is_touched(
    changed: HostState, accepted: tuple[str, ...], error: type[DbhaError], words: str
) -> None:
    with pytest.raises(error) as caught:
        decide(MANIFEST, NODES, hosts(changed), states(*HEALTHY), accept_missing=accepted)
    assert words in str(caught.value)
    assert caught.value.unchanged == "nothing was changed"


def test_an_unsafe_cluster_is_to_be_stopped_by_hand() -> None:
    parted = tuple(
        replace(state, cluster_size=1, conf_id=number) for number, state in enumerate(states(*HEALTHY))
    )
    with pytest.raises(UnsafeError, match="the cluster is unsafe") as caught:
        decide(MANIFEST, NODES, hosts(), parted, accept_missing=())
    assert "systemctl stop mariadb" in caught.value.hint
    assert "docs/runbooks/cluster-unsafe.md" in caught.value.hint


def test_nodes_on_one_file_system_share_its_room() -> None:
    manifest = MANIFEST.model_copy(update={"stream": MANIFEST.stream.model_copy(update={"raw_bytes": GIB})})
    together = {name: host(name, filesystem="here:1", free_bytes=3 * GIB) for name in HEALTHY}
    with pytest.raises(UnsafeError, match="node node1 and node node2 and node node3"):
        decide(manifest, NODES, together, states(*HEALTHY), accept_missing=())


def test_what_a_host_says_is_read() -> None:
    said = [
        "2049", "2050", "  123456",
        "mariadbd  Ver 10.11.19-MariaDB-0+deb12u1 for debian-linux-gnu on x86_64 (Debian 12)",
        "mariadb-backup based on MariaDB server 10.11.19-MariaDB debian-linux-gnu (x86_64)",
    ]  # fmt: skip
    assert parse_host("node1", "db1", said) == HostState(
        "node1", "", "db1:2049", 123456, "10.11.19-MariaDB-0+deb12u1", "10.11.19-MariaDB", is_mount_point=True
    )
