"""The exchange of a data directory as a whole: what came is there, what was is kept, and anything else is said."""

from pathlib import Path

import pytest

from dbha.backup.node_place import NodePlace, NodePlaceError
from dbha.cluster.handle import Cluster
from dbha.database import Account
from dbha.inventory import Node
from dbha.secrets import Secret


@pytest.fixture
def place(tmp_path: Path) -> NodePlace:
    """A node with data, and restored data beside it."""
    node = Node("node1", "127.0.0.1", 3306, str(tmp_path / "data"))
    made = NodePlace(Cluster("cloud", (node,), Account("dbha", Secret(""))), node, "run")
    for directory, content in ((node.datadir, "before"), (f"{made.path}/new", "restored")):
        Path(directory).mkdir(parents=True)
        Path(directory, "content").write_text(content)
    return made


def content(place: NodePlace, directory: str = "") -> str:
    return Path(f"{place.path}/{directory}" if directory else place.node.datadir, "content").read_text()


def test_an_exchange_can_be_repeated_and_turned_round(place: NodePlace) -> None:
    for _ in range(2):
        place.exchange()
        assert (content(place), content(place, "old")) == ("restored", "before")
    place.return_old()
    assert (content(place), content(place, "restored")) == ("before", "restored")
    place.take_back()
    assert content(place) == "restored"
    for _ in range(2):
        place.exchange_back()
        assert content(place) == "before"
    assert not Path(f"{place.node.datadir}.dbha").exists()


def test_an_exchange_cut_off_in_the_middle_goes_on(place: NodePlace) -> None:
    Path(place.node.datadir).rename(f"{place.path}/old")
    place.exchange()
    assert (content(place), content(place, "old")) == ("restored", "before")


def test_an_exchange_that_cannot_be_is_said(place: NodePlace) -> None:
    Path(f"{place.path}/old").touch()
    with pytest.raises(NodePlaceError, match="old is not what"):
        place.exchange()
    assert content(place) == "before"
    place.exchange_back()
    assert content(place) == "before"
