"""Check every page of a prepared tree: what mariadb-backup --prepare, and copying files back, never look at."""

import re
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dbha.backup.bad_backup import BadBackupError
from dbha.backup.children import start
from dbha.backup.levels import Level
from dbha.errors import UnsafeError

OnFiles = Callable[[int, int], None]  # files done, files in all

_SYSTEM = "ibdata1"
_SYSTEM_FILES = (_SYSTEM, "undo[0-9]*")
_SHOWN = 3
_DAMAGED = re.compile(r"Fail: page::(\d+) invalid")
_PAGE_SIZE = re.compile(r"^\s*innodb_page_size\s*=\s*(\d+)\s*$", re.MULTILINE)
_USUAL_PAGE_BYTES = 16384
_TRX_SYS_PAGE = 5
_DOUBLEWRITE = struct.Struct(">10xIII")  # a file segment's header, magic, first pages of the two blocks
_DOUBLEWRITE_FROM_END = 200
_DOUBLEWRITE_MAGIC = 536853855
_EXTENT_BYTES = 1 << 20
_LEAST_EXTENT_PAGES = 64


def check_pages(tree: Path, on_files: OnFiles, *, side_by_side: int) -> int:
    """Read every page of every tablespace, so many files at a time; return how many files there are.

    Raises BadBackupError that names the first of the damaged files; UnsafeError when the tool was ended.
    """
    files = tablespace_files(tree)
    done, counting = 0, threading.Lock()

    def check(file: Path) -> str:
        nonlocal done
        problem = _check(tree, file)
        with counting:
            done += 1
            on_files(done, len(files))
        return problem

    with ThreadPoolExecutor(max_workers=side_by_side) as pool:
        problems = [problem for problem in pool.map(check, files) if problem]
    if problems:
        more = f", and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise BadBackupError(
            f"{len(problems)} damaged tablespace(s): {'; '.join(problems[:_SHOWN])}{more}", Level.PAGES
        )
    return len(files)


def tablespace_files(tree: Path) -> list[Path]:
    """Return the tablespaces of a tree, the largest first: they take longest, so nobody waits for one at the end."""
    return sorted(_found(tree), key=lambda file: (-file.stat().st_size, file))


def innochecksum_argv(file: Path, scratch_pages: int = 0) -> tuple[str, ...]:
    """Return the command that reads every page in use. What was freed may be torn: the server never reads it.

    It goes on after as many damaged pages as may be scratch, so that the next one is among what it says.
    """
    return ("innochecksum", "--skip-freed-pages", f"--allow-mismatches={scratch_pages}", str(file))


def problem_of(status: int, output: str, scratch: frozenset[int] = frozenset()) -> str:
    """Return why a tablespace is damaged, in the tool's own words; empty when all its pages but `scratch` are good.

    The tool says nothing of a good file, so whatever else it says counts even with exit status 0.
    """
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    damaged = {line: int(found[1]) for line in lines if (found := _DAMAGED.fullmatch(line))}
    words = [line for line in lines if line not in damaged or damaged[line] not in scratch]
    if words or status == 0:
        return words[0] if words else ""
    return f"innochecksum ended with exit status {status}"


def doublewrite_pages(file: Path, page_bytes: int) -> frozenset[int]:
    """Return which pages of the system tablespace are its doublewrite buffer; none when it has no buffer.

    They are scratch: copies of pages of other files, with their numbers and in their format, which the tool takes
    for damaged ones. The transaction system's page says where they are (InnoDB: TRX_SYS_DOUBLEWRITE).
    """
    with file.open("rb") as data:
        data.seek(_TRX_SYS_PAGE * page_bytes + page_bytes - _DOUBLEWRITE_FROM_END)
        content = data.read(_DOUBLEWRITE.size)
    if len(content) < _DOUBLEWRITE.size:
        return frozenset()
    magic, first, second = _DOUBLEWRITE.unpack(content)
    if magic != _DOUBLEWRITE_MAGIC:
        return frozenset()
    extent_pages = max(_EXTENT_BYTES // page_bytes, _LEAST_EXTENT_PAGES)
    return frozenset((*range(first, first + extent_pages), *range(second, second + extent_pages)))


def page_bytes_of(donors_options: str) -> int:
    """Return the size of a page by the `backup-my.cnf` of a backup."""
    found = _PAGE_SIZE.search(donors_options)
    return int(found[1]) if found else _USUAL_PAGE_BYTES


def _found(tree: Path) -> Iterator[Path]:
    yield from tree.rglob("*.ibd")
    for pattern in _SYSTEM_FILES:
        yield from tree.glob(pattern)


def _check(tree: Path, file: Path) -> str:
    scratch = frozenset[int]()
    if file.name == _SYSTEM:
        options = tree / "backup-my.cnf"
        scratch = doublewrite_pages(file, page_bytes_of(options.read_text() if options.is_file() else ""))
    with start(
        innochecksum_argv(file, len(scratch)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as tool:
        try:
            output, _ = tool.communicate()
        except BaseException:  # a signal, too, must not leave the tool running
            tool.kill()
            raise
    if tool.returncode < 0:
        raise UnsafeError(f"innochecksum was ended by signal {-tool.returncode}")
    problem = problem_of(tool.returncode, output.decode("utf-8", "replace"), scratch)
    return f"{file.relative_to(tree)} ({problem})" if problem else ""
