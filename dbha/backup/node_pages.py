"""The part of a look at imports that runs on the donor's own host. Sent over stdin, so it imports nothing of dbha.

stdin   this source; one line of JSON: a list of (name, path, bytes of a page) of tablespaces.
stdout  one line of JSON: the names of those that hold pages without an LSN.

IMPORT TABLESPACE leaves the LSN of every page at 0 until it is changed the next time, and nothing else does.
Python 3.8 is enough.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

_LSN = slice(16, 24)  # of a page of InnoDB
_NO_LSN = b"\0" * 8
_PAGES_AT_ONCE = 64


def main() -> None:
    """Answer the request of stdin."""
    request = json.loads(sys.stdin.buffer.readline())
    found = [name for name, path, page_bytes in request if has_imported_page(path, page_bytes)]
    sys.stdout.write(json.dumps(found) + "\n")


def has_imported_page(path: str, page_bytes: int) -> bool:
    """Tell whether a page of the file has content and no LSN; False for a file that is gone."""
    try:
        with Path(path).open("rb", buffering=0) as file:
            while block := file.read(page_bytes * _PAGES_AT_ONCE):
                for start in range(0, len(block), page_bytes):
                    page = block[start : start + page_bytes]
                    if page[_LSN] == _NO_LSN and any(page):
                        return True
    except FileNotFoundError:
        pass
    return False


if __name__ == "__main__":
    main()
