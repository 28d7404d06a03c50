"""The writer's process; see dbha.sandbox.ledger.process for what goes in and out."""

import json
import os
import signal
import sys
import threading

from dbha.sandbox.ledger.process import READY, decode_settings
from dbha.sandbox.ledger.writer import Writer


def main() -> int:
    """Write until standard input ends or SIGTERM comes, then report on standard output."""
    writer = Writer(decode_settings(sys.stdin.readline()))
    signal.signal(signal.SIGTERM, lambda _number, _frame: writer.stop())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; the starter decides
    threading.Thread(target=_stop_at_end_of_input, args=(writer,), daemon=True).start()
    sys.stdout.write(READY + "\n")
    sys.stdout.flush()
    writer.write_until_stopped()
    json.dump(writer.report().to_json(), sys.stdout)
    sys.stdout.flush()
    return 0


def _stop_at_end_of_input(writer: Writer) -> None:
    while os.read(sys.stdin.fileno(), 1):  # not sys.stdin.read: its lock would hold the interpreter's end up
        pass
    writer.stop()


if __name__ == "__main__":
    sys.exit(main())
