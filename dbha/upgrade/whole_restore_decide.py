"""May the whole cluster be restored from this backup now? All that can be looked at is, before anything stops."""

import uuid
from collections.abc import Mapping, Sequence

from dbha.backup.estimate import GROWTH, MARGIN_BYTES, REPLAY_GROWTH, Room, check_room
from dbha.backup.manifest import Manifest
from dbha.backup.node_host import HostState
from dbha.backup.prepare import unpacked_bytes
from dbha.backup.tool_files import series_of
from dbha.cluster.assess import assess
from dbha.cluster.bootstrap import first_view
from dbha.cluster.state import NodeState
from dbha.errors import UnreachableError, UnsafeError, UsageError
from dbha.inventory import Node
from dbha.upgrade.restore_plan import ServiceToRestore
from dbha.upgrade.whole_restore_plan import WholeRestoreSpec


def require_admitted(states: Sequence[NodeState]) -> None:
    """Raise UnreachableError when a node answers and refuses the administrator: the cluster may well serve."""
    if refusing := [state.error for state in states if state.is_refusing]:
        raise UnreachableError(
            "; ".join(refusing),
            hint="set the password of the administrator that the servers have now, then try again",
        )


def decide(
    manifest: Manifest,
    nodes: Sequence[Node],
    hosts: Mapping[str, HostState],
    states: Sequence[NodeState],
    *,
    accept_missing: Sequence[str],
    bases: Sequence[Manifest] = (),
    replay_bytes: int = 0,
) -> WholeRestoreSpec:
    """Return what will be done; `bases` are the backups that this one is based on.

    `replay_bytes` of logs are replayed. A cluster that is all down may be restored, too. Raises UsageError,
    UnreachableError or UnsafeError with every reason against it.
    """
    if manifest.part:
        raise UnsafeError(
            f"backup {manifest.id} holds only {manifest.part}: the whole cluster cannot be restored from it",
            hint=f"dbha restore {manifest.id} {' '.join(f'--service {name}' for name in sorted(manifest.services))}",
        )
    require_admitted(states)
    verdict = assess(states, expected=len(nodes))
    if verdict.level == "unsafe":
        raise UnsafeError(
            f"the cluster is unsafe: {'; '.join(verdict.reasons)}. A restore would end all of it, and what was"
            " written to each part with it: whether that may be is for a human to say",
            hint="stop the server on every node by hand (`systemctl stop mariadb` there; in a sandbox `dbha sandbox"
            f" kill NODE`), then: dbha restore {manifest.id}     it takes a cluster that is all down\n"
            "docs/runbooks/cluster-unsafe.md     how to save what only one part has",
        )
    if unknown := sorted(set(accept_missing) - {node.name for node in nodes}):
        raise UsageError(f"no node is called {', '.join(unknown)}; there are {', '.join(map(str, nodes))}")
    silent = {name: host.problem for name, host in hosts.items() if host.problem}
    if needed := {name: why for name, why in silent.items() if name not in accept_missing}:
        flags = " ".join(f"--accept-missing {name}" for name in needed)
        raise UnreachableError(
            "; ".join(f"{name}: {why}" for name, why in needed.items()),
            hint=f"bring them back, or restore without them: dbha restore {manifest.id} {flags}",
        )
    taking_part = [node for node in nodes if node.name not in accept_missing]
    if not taking_part:
        raise UsageError("all nodes are accepted as missing: there is nothing to restore to")
    if reasons := [reason for node in taking_part for reason in _against(manifest, hosts[node.name])]:
        raise UnsafeError("; ".join(reasons), hint=f"dbha backup show {manifest.id}")
    if running := [node.name for node in verdict.nodes if node.serves and node.name in accept_missing]:
        raise UnsafeError(f"{', '.join(running)} is accepted as missing, and serves", hint="dbha status")
    check_room(_rooms((*bases, manifest), taking_part, hosts, replay_bytes))
    return WholeRestoreSpec(
        backup_id=manifest.id,
        nodes=tuple(node.name for node in taking_part),
        missing=tuple(node.name for node in nodes if node.name in accept_missing),
        served=tuple(node.name for node in verdict.nodes if node.serves),
        history=str(uuid.uuid1()),
        view=first_view(taking_part),
        services=tuple(
            ServiceToRestore(service=name, release=state.release, heads=state.heads)
            for name, state in manifest.services.items()
        ),
    )


def _against(manifest: Manifest, host: HostState) -> list[str]:
    reasons = []
    series = series_of(manifest.tool_version)
    if host.is_mount_point:
        reasons.append(
            f"{host.node}: its data directory is a mount point, which cannot be exchanged; either move the data into"
            " a directory below it, one node after the other (docs/how-to/restore-the-cluster.md), or restore the"
            f" services, which exchanges no directory: dbha restore {manifest.id} --service NAME"
        )
    if series_of(host.tool_version) != series:
        reasons.append(
            f"{host.node}: has mariadb-backup {host.tool_version or 'of an unknown version'}, and only {series} can"
            " prepare this backup"
        )
    if series_of(host.server_version) != series_of(manifest.server_version):
        reasons.append(
            f"{host.node}: has mariadbd {host.server_version or 'of an unknown version'}, and the backup is of"
            f" {manifest.server_version}"
        )
    return reasons


def _rooms(
    chain: Sequence[Manifest], nodes: Sequence[Node], hosts: Mapping[str, HostState], replay_bytes: int
) -> list[Room]:
    needed = round(unpacked_bytes(chain) * GROWTH) + MARGIN_BYTES + REPLAY_GROWTH * replay_bytes
    return [
        Room(f"node {node}", hosts[node.name].filesystem, needed, hosts[node.name].free_bytes)
        for node in nodes
    ]
