"""Galera's own files: what they say is read, and what is written is what Galera reads."""

import pytest

from dbha.cluster.saved_state import SavedState, furthest, parse_state, state_text, view_text

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
