"""What the tests of transports share: a command that says who it is, and how to wait for its end."""

from collections.abc import Callable

from tests.real import processes
from tests.real.sshd import is_running

PATIENCE_S = 60.0
MEBIBYTE = 1 << 20
SAY_ID_AND_SLEEP = ["sh", "-c", "echo $$; exec sleep 1000"]


def await_end(*process_ids: int) -> None:
    eventually(lambda: not any(is_running(number) for number in process_ids))


def eventually(happened: Callable[[], bool]) -> None:
    processes.eventually(lambda: happened() or None, "did not happen in time", within_s=PATIENCE_S)
