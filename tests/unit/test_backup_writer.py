"""Whether a process still writes a backup, told from the note it left."""

import pytest

from dbha.backup.writer import SILENT_S, Writer, is_at_work, this_kernel, this_process

ELSEWHERE = Writer(kernel="another boot", process=1, started=1)


@pytest.mark.parametrize(
    ("writer", "started", "age_s", "at_work"),
    [
        pytest.param(Writer(kernel="here", process=7, started=5), 5, 10**9, True, id="alive, however old"),
        pytest.param(Writer(kernel="here", process=7, started=5), None, 0, False, id="ended just now"),
        pytest.param(
            Writer(kernel="here", process=7, started=5), 6, 0, False, id="its number was used again"
        ),
        pytest.param(ELSEWHERE, 1, SILENT_S - 1, True, id="elsewhere, seen lately"),
        pytest.param(ELSEWHERE, 1, SILENT_S, False, id="elsewhere, silent"),
        pytest.param(ELSEWHERE, 1, -3600, True, id="a store whose clock was set back"),
        pytest.param(None, None, 0, True, id="unreadable, but new"),
        pytest.param(None, None, SILENT_S, False, id="unreadable and old"),
    ],
)
def test_who_is_at_work(writer: Writer | None, started: int | None, age_s: float, at_work: bool) -> None:
    assert is_at_work(writer, kernel="here", started=started, age_s=age_s) is at_work


def test_this_process_is_at_work() -> None:
    me = this_process()
    assert is_at_work(me, kernel=this_kernel(), started=me.started, age_s=SILENT_S)
