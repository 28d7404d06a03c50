"""Beside the data of each member: which timelines it came through. For the time when no server can be asked."""

from collections.abc import Iterable, Sequence

from dbha.cluster.evidence import ask
from dbha.cluster.handle import Cluster, side_by_side
from dbha.inventory import Node


def note_timeline(cluster: Cluster, nodes: Iterable[Node], chain: Sequence[str]) -> None:
    """Write the timelines, the oldest first, into the nodes' data directories.

    A full transfer to a node removes the file with all that is there: then nothing is known, which is true.
    """
    text = "".join(f"{identity}\n" for identity in chain)
    side_by_side(lambda node: ask(cluster, node, "note_timeline", timeline=text), nodes)
