"""Bring a whole cluster back from one backup: every node unpacks it for itself, and no node transfers from another.

All that can be proven is proven on every node while the old servers still run. Then the data directories are
exchanged, and the nodes begin a history of their own: one that was left out, or forgotten, and still has the old
data can come back only by a full state transfer, and never merge its past into it.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from dbha.backup.bad_backup import BadBackupError
from dbha.backup.binlog.gtid import Gtid
from dbha.backup.binlog.replay import replay
from dbha.backup.binlog.replay_plan import ReplayPlan
from dbha.backup.encryption import NO_IDENTITIES, Identities, OpenedStream, PlainStream, opening
from dbha.backup.first_start import Counted, FirstStart
from dbha.backup.manifest import Manifest
from dbha.backup.node_place import NodePlace, NodePlaceError
from dbha.backup.prepare import chain_in, in_all
from dbha.backup.proof import (
    NotProvenError,
    checksums_everywhere,
    forget_probe,
    prove_replication,
    prove_structure,
    require_equal,
    require_one_count,
    structure_of,
)
from dbha.backup.store import Store
from dbha.backup.stored_bytes import StoredBytes, definitions_of, opened
from dbha.cluster.bootstrap import be_ready_to_restart, start_nodes, stop_nodes, wait_until_synced
from dbha.cluster.handle import Cluster, side_by_side
from dbha.cluster.saved_state import SavedState, furthest, view_text
from dbha.errors import DbhaError, FoundWrongError, RestoreFailedError
from dbha.heads import Heads
from dbha.inventory import Node

_SYNCED_WITHIN_S = 300.0
_LEAST_MEMORY_BYTES, _MOST_MEMORY_BYTES = 64 << 20, 2 << 30
_MOST_POOL_BYTES = 256 << 20  # of a server that reads each page once

OnLine = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Playbooks:
    """Where Ansible finds the hosts, and keeps its records."""

    inventory: Path
    run_directory: Path


@dataclass(frozen=True, slots=True)
class Directories:
    """The data directories that run `run_id` made and kept on the nodes of `cluster`, and the servers on them."""

    cluster: Cluster
    playbooks: Playbooks
    run_id: str

    def place(self, node: Node) -> NodePlace:
        """Return where the node's data directories of this run are."""
        return NodePlace(self.cluster, node, self.run_id)

    def be_ready_to_restart(self) -> None:
        """Have Ansible at hand, so that the time between the stop and the next start is short."""
        be_ready_to_restart(self.cluster.nodes, **self._playbooks())

    def stop(self, say: OnLine) -> None:
        """Stop the servers of all nodes, whichever data they run on."""
        stop_nodes(self.cluster.nodes, at_once=True, on_line=say, **self._playbooks())

    def first_of(self, served: Collection[str]) -> str:
        """Return which of the stopped nodes that served together holds everything; empty where none served.

        Raises RestoreFailedError when that is not certain.
        """
        states = {node.name: self.place(node).state() for node in self.cluster.nodes if node.name in served}
        first = furthest(states.items())
        if states and first is None:
            raise RestoreFailedError(
                "the data is in its place, but it is not certain which node holds all of it: "
                + ", ".join(f"{name}: {state or 'nothing'}" for name, state in states.items()),
                hint="docs/runbooks/cluster-down.md",
            )
        return first or ""

    def start(self, first: str, say: OnLine) -> None:
        """Start the cluster of the data that is in place, beginning with the node that holds everything.

        Does nothing where `first` is empty. Can be repeated after it was cut off anywhere.
        """
        if not first:
            return
        node = self.cluster.node(first)
        state = self.place(node).state()
        if state is not None and state.is_clean:  # else it was started already
            self.place(node).allow_bootstrap(state)
        start_nodes([node], new_cluster_node=node, on_line=say, **self._playbooks())
        wait_until_synced(self.cluster, [node], _SYNCED_WITHIN_S)
        if others := [each for each in self.cluster.nodes if each is not node]:
            start_nodes(others, on_line=say, **self._playbooks())
        wait_until_synced(self.cluster, self.cluster.nodes, _SYNCED_WITHIN_S)

    def _playbooks(self) -> dict[str, Any]:
        return {"inventory": self.playbooks.inventory, "run_directory": self.playbooks.run_directory}


@dataclass(frozen=True, slots=True)
class WholeRestore(Directories):
    """The restore of one backup; `history` is the UUID of the history that begins with it."""

    store: Store
    manifest: Manifest
    history: str
    identities: Identities = NO_IDENTITIES

    @property
    def beginning(self) -> SavedState:
        """The position that every node starts from: of the new history, at the backup's transaction."""
        return SavedState(self.history, self.manifest.seqno)

    def stage(self, node: Node, on_bytes: Callable[[int, int], None]) -> None:
        """Make the new data directory beside the node's own, and prove it; servers go on meanwhile.

        Raises FoundWrongError when the backup is not what its manifest says, NodePlaceError when a tool failed.
        """
        place = self.place(node)
        directory, memory_bytes = "", self._prepare_memory_bytes(node)
        chain = chain_in(self.store, self.manifest.id)
        for manifest, on_these in zip(chain, in_all(chain, on_bytes), strict=True):
            unpacked = self._unpack(place, manifest, on_these)
            if directory:
                self._require_follows(place, directory, manifest)
                place.prepare(directory, memory_bytes, increment=unpacked)
            else:
                directory = unpacked
                place.prepare(directory, memory_bytes)
            self._require_position(place, directory, manifest)
        known = definitions_of(self.store, self.manifest, self.identities).databases.values()
        place.require_tables(directory, [stem for each in known for stem in each.tablespaces])
        place.publish(directory, self.beginning)

    def replay(
        self, node: Node, plan: ReplayPlan, on_bytes: Callable[[int, int], None], guard: Callable[[], None]
    ) -> Gtid:
        """Bring the new data directory to the plan's last transaction; servers go on meanwhile.

        Raises ReplayFailedError when it does not come to exactly there. Can be repeated after it was cut off.
        """
        place = self.place(node).to_come(self._prepare_memory_bytes(node))
        return replay(place, plan, on_bytes=on_bytes, guard=guard)

    def begin(
        self,
        began: datetime,
        last_gtid: int | None,
        databases: Sequence[str],
        on_tables: Callable[[int, int], None],
    ) -> int:
        """Start a server once on each new data directory, by itself; return how many tables are equal everywhere.

        `last_gtid` is the number of the data's last transaction. Raises NodePlaceError when the nodes end up at
        different positions, NotProvenError when a table differs.
        """
        first = FirstStart(self.beginning, self.cluster.account, began, tuple(databases), last_gtid)
        counted = Counted(on_tables)
        begun = side_by_side(
            lambda node: self.place(node).begin(
                first, min(self._prepare_memory_bytes(node), _MOST_POOL_BYTES), counted.of(node.name)
            ),
            self.cluster.nodes,
        )
        if len({each.seqno for each in begun.values()}) != 1:
            found = ", ".join(f"{name} at {each.seqno}" for name, each in begun.items())
            raise NodePlaceError(f"the nodes are at different positions: {found}")
        checksums = {name: each.checksums for name, each in begun.items()}
        expected = checksums[self.cluster.nodes[0].name]
        require_equal(expected, checksums)
        return len(expected)

    def form(self, view: Mapping[str, str], say: OnLine) -> None:
        """Form the cluster of all nodes at once; they hold the same data, so nothing is transferred."""
        nodes = self.cluster.nodes
        states = {node.name: self.place(node).state() for node in nodes}
        if strangers := [name for name, state in states.items() if not state or state.uuid != self.history]:
            raise NodePlaceError(f"not the restored data is in its place on {', '.join(strangers)}")
        if len(nodes) > 1 and all(state is not None and state.is_clean for state in states.values()):
            side_by_side(lambda node: self._expect(node, states[node.name], view), nodes)
        alone = nodes[0] if len(nodes) == 1 else None
        start_nodes(nodes, new_cluster_node=alone, on_line=say, **self._playbooks())
        wait_until_synced(self.cluster, nodes, _SYNCED_WITHIN_S)

    def _expect(self, node: Node, state: SavedState | None, view: Mapping[str, str]) -> None:
        assert state is not None
        place = self.place(node)
        place.write_state(state)
        place.write_view(view_text(view[node.name], view.values()))

    def prove(self, heads: Heads, last_gtid: int | None, *, replayed: bool = False) -> int:
        """Prove the nodes one cluster of the new history, with equal data, that replicates.

        Structure and heads are those of the backup, or after a replay equal on all nodes. `begin` compared the rows
        of what was beside the old data; here those are read that the cluster serves. Returns how many tables were
        compared. Raises NotProvenError that names what differs.
        """
        nodes, databases = self.cluster.nodes, tuple(heads)
        for state in wait_until_synced(self.cluster, nodes, _SYNCED_WITHIN_S):
            if (state.cluster_state_uuid, state.cluster_size) != (self.history, len(nodes)):
                raise NotProvenError(
                    f"{state.name} is one of {state.cluster_size} in history {state.cluster_state_uuid},"
                    f" instead of {len(nodes)} in {self.history}"
                )
        versioned = next((database for database, found in heads.items() if found), None)
        if versioned is not None:
            forget_probe(self.cluster, nodes[0], versioned)
        if replayed:
            heads, expected = structure_of(self.cluster, nodes[0], databases)
        else:
            expected = definitions_of(self.store, self.manifest, self.identities).fingerprint_of(databases)
        side_by_side(lambda node: prove_structure(self.cluster, node, heads, expected), nodes)
        require_one_count(self.cluster, nodes, last_gtid)
        found = checksums_everywhere(self.cluster, databases, nodes)
        require_equal(found[nodes[0].name], found)
        if versioned is not None:
            prove_replication(self.cluster, nodes[0], nodes, versioned)
        return len(found[nodes[0].name])

    def _prepare_memory_bytes(self, node: Node) -> int:
        """Return half of the memory that the node's host has to spare, shared by the nodes that are on it."""
        text = self.cluster.transport(node).get("/proc/meminfo").decode()
        available = next(line.split()[1] for line in text.splitlines() if line.startswith("MemAvailable:"))
        on_host = sum(each.ssh == node.ssh for each in self.cluster.nodes)
        return max(_LEAST_MEMORY_BYTES, min(int(available) * 1024 // 2 // on_host, _MOST_MEMORY_BYTES))

    def _unpack(self, place: NodePlace, manifest: Manifest, on_bytes: Callable[[int, int], None]) -> str:
        """Return where the backup was unpacked. What a tool says of a stream that was changed is not the cause."""
        seen = StoredBytes(manifest, on_bytes)
        try:
            with (
                opened(self.store, manifest) as stream,
                opening(stream, manifest, self.identities, seen.take) as plain,
            ):
                directory = place.stage(plain, manifest.stream.compression)
        except NodePlaceError:
            self._require_whole(seen, plain, manifest)
            raise
        self._require_whole(seen, plain, manifest)
        return directory

    def _require_whole(
        self, seen: StoredBytes, plain: PlainStream | OpenedStream, manifest: Manifest
    ) -> None:
        try:
            seen.require_whole()
            plain.require_opened()
        except BadBackupError as error:
            raise self._bad(manifest, str(error)) from error

    def _require_follows(self, place: NodePlace, directory: str, manifest: Manifest) -> None:
        """Raise FoundWrongError unless the tree ends where the increment begins: the tool would apply it twice."""
        ends = place.last_lsn(directory)
        if manifest.lsn is None or manifest.lsn.from_lsn != ends:
            raise self._bad(manifest, f"it does not go on at LSN {ends}, where what it is based on ends")

    def _require_position(self, place: NodePlace, directory: str, manifest: Manifest) -> None:
        found, wanted = place.position(directory), (manifest.cluster_state_uuid, manifest.seqno)
        if found != wanted:
            raise self._bad(manifest, f"it holds {found[0]}:{found[1]} instead of {wanted[0]}:{wanted[1]}")

    def _bad(self, manifest: Manifest, problem: str) -> DbhaError:
        whose = "" if manifest.id == self.manifest.id else f"its base {manifest.id}: "
        return FoundWrongError(
            f"backup {self.manifest.id} is not good: {whose}{problem}", hint="dbha backup list"
        )
