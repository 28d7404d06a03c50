"""Galera's own files: what they say is read, and what is written is what Galera reads."""

import pytest

from dbha.cluster.saved_state import (
    SavedState,
    furthest,
    parse_identity,
    parse_position,
    parse_state,
    parse_view,
    says_safe,
    state_text,
    view_text,
)

ONE, OTHER = "2e4abc7a-e789-11f1-84fa-02fc00000001", "9d16c9aa-e6fc-11f1-8a70-123456789a00"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (state_text(SavedState(ONE, 73), safe_to_bootstrap=True), SavedState(ONE, 73)),
        (state_text(SavedState(ONE, -1), safe_to_bootstrap=False), SavedState(ONE, -1)),
        (f"# GALERA saved state\nversion: 2.1\nuuid:    {ONE}\n", None),
        ("version: 2.1\nuuid:    00000000-0000-0000-0000-000000000000\nseqno:   -1\n", None),
        ("", None),
        ("\0" * 100, None),
    ],
)
def test_a_state_file_says_a_position_or_nothing(text: str, expected: SavedState | None) -> None:
    assert parse_state(text) == expected


def test_a_state_file_is_as_galera_writes_it() -> None:
    assert state_text(SavedState(ONE, 73), safe_to_bootstrap=True) == (
        f"# GALERA saved state\nversion: 2.1\nuuid:    {ONE}\nseqno:   73\nsafe_to_bootstrap: 1\n"
    )


def test_a_view_names_its_members_in_the_order_of_their_uuids() -> None:
    assert view_text(OTHER, [OTHER, ONE]) == (
        f"my_uuid: {OTHER}\n#vwbeg\nview_id: 3 {ONE} 1\nbootstrap: 0\nmember: {ONE} 0\nmember: {OTHER} 0\n#vwend\n"
    )


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ({"a": SavedState(ONE, 7), "b": SavedState(ONE, 9), "c": SavedState(ONE, 8)}, "b"),
        ({"a": SavedState(ONE, 7)}, "a"),
        ({"a": SavedState(ONE, 7), "b": SavedState(OTHER, 9)}, None),
        ({"a": SavedState(ONE, 7), "b": SavedState(ONE, -1)}, None),
        ({"a": SavedState(ONE, 7), "b": None}, None),
        ({}, None),
    ],
)
def test_who_holds_everything_is_known_only_when_all_were_stopped_cleanly(
    states: dict[str, SavedState | None], expected: str | None
) -> None:
    assert furthest(states.items()) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"{ONE}:257", SavedState(ONE, 257)),
        (f"{ONE}:257,0-1-245", SavedState(ONE, 257)),  # with wsrep_gtid_mode
        (f"{ONE}:-1", None),
        ("00000000-0000-0000-0000-000000000000:-1", None),
        ("", None),
        (f"{ONE}:99 999", None),
    ],
)
def test_a_position_is_a_number_of_a_history_or_none(text: str, expected: SavedState | None) -> None:
    assert parse_position(text) == expected


def test_only_the_last_to_leave_is_safe() -> None:
    assert says_safe(state_text(SavedState(ONE, 7), safe_to_bootstrap=True))
    assert not says_safe(state_text(SavedState(ONE, 7), safe_to_bootstrap=False))
    assert not says_safe("safe_to_bootstrap: 11\nseqno: safe_to_bootstrap: 1")


FILE = (  # of a server that was killed; a start that failed counted its identity up
    "my_uuid: ea43c39e-e6ff-11f1-8005-701ec2823a74\n#vwbeg\n"
    "view_id: 3 ea43c286-e6ff-11f1-8003-9532d3d0b86c 19\nbootstrap: 0\n"
    "member: ea43c286-e6ff-11f1-8003-9532d3d0b86c 0\nmember: ea43c39e-e6ff-11f1-8004-701ec2823a74 0\n#vwend\n"
)


def test_the_view_of_a_killed_node() -> None:
    view = parse_view(FILE)
    assert view is not None
    assert parse_identity(FILE) in view.members
    assert (view.sequence, len(view.members)) == (19, 2)


@pytest.mark.parametrize("text", ["", "\0" * 40, FILE[:-8], FILE.replace("member", "nobody")])
def test_a_view_that_is_torn_says_nothing(text: str) -> None:
    assert parse_view(text) is None
