"""Which nodes of a stopped sandbox start first."""

from pathlib import Path

import pytest

from dbha.errors import UnsafeError
from dbha.inventory import Node
from dbha.sandbox.remains import Beginning, Remains, View, choose_beginning, read_remains

ALL = View("a", 18, frozenset("abc"))
LATER = View("a", 19, frozenset("ab"))


def killed(name: str, view: View) -> Remains:
    return Remains(name, running=False, identity=name, view=view)


def stopped(name: str, *, last: bool = False) -> Remains:
    return Remains(name, running=False, safe_to_bootstrap=last)


@pytest.mark.parametrize(
    ("remains", "expected"),
    [
        pytest.param(
            [Remains("a", running=True), stopped("b", last=True)],
            Beginning(),
            id="one runs: the others join it",
        ),
        pytest.param(
            [killed(name, ALL) for name in "abc"], Beginning(("a", "b", "c")), id="all killed at once"
        ),
        pytest.param(
            [killed("a", LATER), killed("b", LATER), killed("c", ALL)],
            Beginning(("a", "b")),
            id="one was killed before: it must not be waited for",
        ),
        pytest.param(
            [stopped("a"), stopped("b", last=True), stopped("c")],
            Beginning(("b",), "b"),
            id="all stopped: the last",
        ),
        pytest.param(
            [stopped("a"), stopped("b", last=True), killed("c", ALL)],
            Beginning(("b",), "b"),
            id="one killed, the others stopped after it",
        ),
        pytest.param(
            [stopped("a", last=True), killed("b", View("b", 30, frozenset("b"))), stopped("c")],
            Beginning(("b",), "b"),
            id="a whole component was killed: what it committed is newer than the last clean stop",
        ),
    ],
)
def test_who_begins(remains: list[Remains], expected: Beginning) -> None:
    assert choose_beginning(remains) == expected


@pytest.mark.parametrize(
    "remains",
    [
        pytest.param([stopped("a"), stopped("b"), stopped("c")], id="nobody was the last"),
        pytest.param([stopped("a", last=True), stopped("b", last=True)], id="two claim to be the last"),
        pytest.param(
            [stopped("a"), killed("b", ALL), killed("c", ALL)], id="a member of the last view has no data"
        ),
    ],
)
def test_nobody_is_guessed(remains: list[Remains]) -> None:
    with pytest.raises(UnsafeError, match="no node is known to hold everything"):
        choose_beginning(remains)


def test_the_files_of_a_killed_node(tmp_path: Path) -> None:
    (tmp_path / "gvwstate.dat").write_text(
        "my_uuid: ea43c39e-e6ff-11f1-8005-701ec2823a74\n#vwbeg\n"
        "view_id: 3 ea43c286-e6ff-11f1-8003-9532d3d0b86c 19\nbootstrap: 0\n"
        "member: ea43c286-e6ff-11f1-8003-9532d3d0b86c 0\nmember: ea43c39e-e6ff-11f1-8004-701ec2823a74 0\n#vwend\n"
    )
    (tmp_path / "grastate.dat").write_text("seqno:   -1\nsafe_to_bootstrap: 0\n")
    remains = read_remains(Node("node2", "127.0.0.1", 3306, str(tmp_path)), running=False)
    assert remains.view is not None
    assert remains.identity in remains.view.members  # a start that failed counted the identity up
    assert remains.view.sequence == 19
    assert not remains.safe_to_bootstrap


def test_a_node_without_files(tmp_path: Path) -> None:
    (tmp_path / "gvwstate.dat").write_text("")
    node = Node("node2", "127.0.0.1", 3306, str(tmp_path))
    assert read_remains(node, running=False) == Remains("node2", running=False)
