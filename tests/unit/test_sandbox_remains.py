"""Which nodes of a stopped sandbox start first."""

import pytest

from dbha.cluster.evidence import Member
from dbha.errors import UnsafeError
from dbha.sandbox.remains import Beginning, choose_beginning
from tests.unit.any_member import alone, empty, half_copied, killed, seen, serving, stopped, view

LATER = view("a", "b", sequence=19)


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        pytest.param(
            [serving("a", size=1), stopped("b"), stopped("c")], Beginning(), id="one runs: the others join it"
        ),
        pytest.param(
            [alone("a"), killed("b"), killed("c")],
            Beginning(),
            id="one runs without quorum: the others bring it",
        ),
        pytest.param([killed(name) for name in "abc"], Beginning(("a", "b", "c")), id="all killed at once"),
        pytest.param(
            [killed("a", view=LATER), killed("b", view=LATER), killed("c")],
            Beginning(("a", "b")),
            id="one was killed before: it must not be waited for",
        ),
        pytest.param(
            [stopped("a", 1), stopped("b", 2, last=True), stopped("c", 1)],
            Beginning(("b",), "b"),
            id="the last",
        ),
        pytest.param(
            [stopped("a", 8), stopped("b", 9, last=True), killed("c", 7)],
            Beginning(("b",), "b"),
            id="one killed, the others stopped after it",
        ),
        pytest.param(
            [stopped("a", 8), killed("b", 9, view=view("b", sequence=30)), empty("c")],
            Beginning(("b",), "b"),
            id="one was killed that was alone",
        ),
    ],
)
def test_who_begins(members: list[Member], expected: Beginning) -> None:
    assert choose_beginning(seen(*members)) == expected


@pytest.mark.parametrize(
    "members",
    [
        pytest.param([stopped("a"), stopped("b"), stopped("c")], id="nobody was the last"),
        pytest.param([stopped("a", last=True), stopped("b", last=True)], id="two claim to be the last"),
        pytest.param(
            [stopped("a"), killed("b"), killed("c")], id="a member of the last view has been stopped since"
        ),
        pytest.param([empty("a"), half_copied("b"), empty("c")], id="nobody has anything"),
    ],
)
def test_nobody_is_guessed(members: list[Member]) -> None:
    with pytest.raises(UnsafeError):
        choose_beginning(seen(*members))
