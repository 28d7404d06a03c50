"""What is told of a run that failed and put everything back."""

import pytest

from dbha.errors import DbhaError, UnsafeError, UpgradeRolledBackError
from dbha.upgrade.gone_back import gone_back

BACK, NOTHING = UpgradeRolledBackError.unchanged, UnsafeError.unchanged
AGAIN = "dbha runs show latest     what failed, step by step\ndbha restore ID     once the cause is gone"


class StoppedError(DbhaError):
    exit_code = 130


@pytest.mark.parametrize(
    ("failure", "noticed", "exit_code", "message", "unchanged", "hint"),
    [
        pytest.param(DbhaError("x"), True, 7, "the restore failed: x", BACK, AGAIN, id="somebody noticed"),
        pytest.param(DbhaError("x"), False, 1, "x", NOTHING, AGAIN, id="nobody could"),
        pytest.param(UnsafeError("x", hint="h"), False, 4, "x", NOTHING, "h", id="it knows what to do"),
        pytest.param(DbhaError("x", unchanged="u"), False, 1, "x", "u", AGAIN, id="it knows how things are"),
        pytest.param(StoppedError("x"), True, 130, "x", BACK, "", id="interrupted"),
        pytest.param(StoppedError("x"), False, 130, "x", NOTHING, "", id="interrupted before"),
    ],
)
def test_what_is_told(
    failure: DbhaError, noticed: bool, exit_code: int, message: str, unchanged: str, hint: str
) -> None:
    told = gone_back(failure, "the restore", "dbha restore ID", noticed=noticed)
    assert (told.exit_code, str(told), told.unchanged, told.hint) == (exit_code, message, unchanged, hint)


def test_who_was_fenced_out_for_a_while_is_told_so() -> None:
    told = gone_back(DbhaError("x"), "the upgrade", "dbha upgrade run", noticed=False, unnoticed=BACK)
    assert (told.exit_code, told.unchanged) == (1, BACK)
