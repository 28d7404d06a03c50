"""Runs where a command is to run, and becomes it: python3 -c THIS MARKER TOOL ARGUMENT..."""

import os
import sys

NOT_FOUND = 127


def main() -> None:
    """Say the marker, and become the tool with its standard error in its standard output."""
    marker, tool = sys.argv[1], sys.argv[2]
    os.dup2(1, 2)  # the tools talk on stderr; in one stream their lines arrive in order
    os.write(1, f"{marker}\n".encode())
    try:
        os.execvp(tool, sys.argv[2:])  # noqa: S606 - the tool is what dbha's own data names
    except OSError as error:
        os.write(2, f"{tool}: {error.strerror}\n".encode())
        sys.exit(NOT_FOUND)


if __name__ == "__main__":
    main()
