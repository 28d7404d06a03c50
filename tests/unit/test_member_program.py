"""What is done to stopped data on its host; without servers, which the tests on real ones have."""

import json
from pathlib import Path
from typing import Any

import pytest

from dbha.cluster import member_program as program
from dbha.cluster.saved_state import SavedState, parse_state, says_safe, state_text

ONE = SavedState("2e4abc7a-e789-11f1-84fa-02fc00000001", -1)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    directory = tmp_path / "data"
    directory.mkdir(mode=0o700)
    (directory / "ibdata1").write_bytes(b"rows")
    (directory / "grastate.dat").write_text(state_text(ONE, safe_to_bootstrap=False))
    (directory / "gvwstate.dat").write_text("my_uuid: x\n")
    return directory


def ask(action: str, data: Path, **request: object) -> dict[str, Any]:
    return dict(program.ACTIONS[action]({"datadir": str(data), "defaults_file": "/none", **request}))


@pytest.mark.parametrize("forms", [True, False])
def test_a_flag_is_set_and_nothing_else_is_changed(data: Path, forms: bool) -> None:
    for _ in range(2):  # cut off and repeated
        ask("arm", data, forms=forms)
        text = (data / "grastate.dat").read_text()
        assert (parse_state(text), says_safe(text)) == (ONE, forms)
        assert not (data / "gvwstate.dat").exists()


def test_nonsense_forms_no_cluster_and_is_left_as_it_is(data: Path) -> None:
    (data / "grastate.dat").write_bytes(b"\xff\x00 seqno: 5\n")
    with pytest.raises(program.MemberError, match="no line safe_to_bootstrap"):
        ask("arm", data, forms=True)
    ask("arm", data, forms=False)
    assert (data / "grastate.dat").read_bytes() == b"\xff\x00 seqno: 5\n"


def test_data_is_moved_aside_once_and_never_what_came_after(data: Path) -> None:
    first = ask("set_aside", data, run="run-1")["old"]
    assert Path(first, "ibdata1").read_bytes() == b"rows"
    assert list(data.iterdir()) == []
    (data / "ibdata1").write_bytes(b"from a donor")
    assert ask("set_aside", data, run="run-1")["old"] == first
    assert (data / "ibdata1").read_bytes() == b"from a donor"
    assert Path(first, "ibdata1").read_bytes() == b"rows"


def test_cut_off_between_two_moves_it_ends_the_same(data: Path) -> None:
    old = Path(f"{data}.dbha", "run-1", "old")
    old.parent.mkdir(parents=True)
    data.rename(old)
    assert ask("set_aside", data, run="run-1")["old"] == str(old)
    assert data.is_dir()


def test_nothing_is_kept_of_what_was_empty(data: Path) -> None:
    for path in data.iterdir():
        path.unlink()
    assert ask("set_aside", data, run="run-1")["old"] == ""


def test_one_claim_at_a_time(data: Path) -> None:
    own, other = json.dumps({"run": "1"}), json.dumps({"run": "2"})
    assert ask("claim", data, claim=own) == ask("claim", data, claim=own) == {}
    assert ask("claim", data, claim=other) == {"taken_by": own}
    ask("unclaim", data, claim=other)
    assert ask("claim", data, claim=other) == {"taken_by": own}
    ask("unclaim", data, claim=own)
    ask("unclaim", data, claim=own)
    assert ask("claim", data, claim=other) == {}


def test_a_note_of_the_timelines_is_replaced(data: Path) -> None:
    ask("note_timeline", data, timeline="one\n")
    ask("note_timeline", data, timeline="one\ntwo\n")
    assert (data / "dbha-timeline").read_text() == "one\ntwo\n"
    assert not list(data.glob(".*"))


def test_what_is_half_a_copy_is_not_even_started_to_be_asked(data: Path) -> None:
    (data / "sst_in_progress").touch()
    seen = ask("look", data, recover=True)
    assert (seen["markers"], seen["position"], seen["position_problem"]) == (["sst_in_progress"], "", "")
    assert (seen["has_data"], seen["pids"]) == (True, [])


def test_a_directory_that_is_not_there_is_seen(tmp_path: Path) -> None:
    seen = ask("look", tmp_path / "none", recover=True)
    assert (seen["has_directory"], seen["has_data"], seen["state"]) == (False, False, "")
