"""Talk to the operator: live bars on a terminal, plain lines elsewhere, always on stderr; data goes to stdout."""

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console as RichConsole
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table
from rich.text import Text

from dbha.journal import Facts
from dbha.workflow.plan import Step

_MEASURE_INTERVAL_S = 10.0
JSON_SCHEMA = 1


class Console:
    """Where everything that is said goes. NO_COLOR and a missing terminal are obeyed (rich does both)."""

    def __init__(self) -> None:
        self.talk = RichConsole(stderr=True, highlight=False, soft_wrap=True)
        self.data = RichConsole(highlight=False, soft_wrap=True)

    def say(self, text: str, *, style: str = "") -> None:
        """Say a line, or several, on stderr."""
        self.talk.print(escape(text), style=style or None)

    def json(self, value: Mapping[str, Any] | Sequence[Any]) -> None:
        """Print JSON on stdout; an object gets its `"schema"` number."""
        body = {"schema": JSON_SCHEMA, **value} if isinstance(value, Mapping) else value
        sys.stdout.write(json.dumps(body, indent=2, default=str) + "\n")

    def line(self, text: str = "") -> None:
        """Print a line of data on stdout."""
        self.data.print(escape(text))

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print a table on stdout; without a terminal it is as wide as it needs to be."""
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in columns:
            table.add_column(column, no_wrap=True)
        for row in rows:
            table.add_row(*(escape(cell) for cell in row))
        if not self.data.is_terminal:
            self.data.width = 400
        self.data.print(table)

    @contextmanager
    def counter(self, title: str) -> Iterator[Callable[[int, int], None]]:
        """Yield a function that is told (done, wanted) as something is counted up."""
        if not self.talk.is_terminal:
            yield lambda done, wanted: None
            return
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, TimeElapsedColumn(), console=self.talk, transient=True) as progress:
            task = progress.add_task(escape(title), total=None)
            yield lambda done, wanted: progress.update(task, completed=done, total=wanted)

    @contextmanager
    def amount(self, title: str, total: int) -> Iterator[Callable[[int], None]]:
        """Yield a function that is told the bytes done so far, of about `total`."""
        if not self.talk.is_terminal:
            yield _PlainAmount(self, title, total).tell
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            _AmountColumn(),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=self.talk, transient=True) as progress:
            task = progress.add_task(escape(title), total=total)
            yield lambda done: progress.update(task, completed=done)

    @contextmanager
    def steps(self, total: int) -> Iterator["StepReporter"]:
        """Yield an observer for a run of so many steps."""
        if not self.talk.is_terminal:
            yield StepReporter(self, None, total)
            return
        with self._bars() as progress:
            yield StepReporter(self, progress, total)

    @contextmanager
    def task(self, title: str) -> Iterator["TaskReporter"]:
        """Yield what is told how far one piece of work is that is no run."""
        if not self.talk.is_terminal:
            yield TaskReporter(self, title, None)
            return
        with self._bars() as progress:
            yield TaskReporter(self, title, progress)

    def _bars(self) -> Progress:
        columns = (
            SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=20), _AmountColumn(),
            TimeElapsedColumn(),
        )  # fmt: skip
        return Progress(*columns, console=self.talk, transient=True)


class _AmountColumn(ProgressColumn):
    """Bytes done, of how many, and how fast, or things counted; nothing for a step that has none to tell."""

    def render(self, task: Task) -> Text:
        """Return the text for one bar."""
        if not task.completed:
            return Text("")
        if what := task.fields.get("what"):
            return Text(in_number(what, int(task.completed), int(task.total or 0)), style="progress.download")
        amount = in_bytes(int(task.completed))
        if task.total:
            amount += f" of about {in_bytes(int(task.total))}"
        speed = task.finished_speed or task.speed
        return Text(f"{amount}, {in_bytes(int(speed))}/s" if speed else amount, style="progress.download")


class _PlainAmount:
    """Bytes done as a line now and then, for where there is no terminal."""

    def __init__(self, console: Console, title: str, total: int) -> None:
        self._console, self._title, self._total = console, title, total
        self._began_s = self._said_s = time.monotonic()

    def tell(self, done: int) -> None:
        now_s = time.monotonic()
        if now_s - self._said_s < _MEASURE_INTERVAL_S:
            return
        self._said_s = now_s
        rate = in_bytes(int(done / (now_s - self._began_s)))
        self._console.say(f"{self._title}: {in_bytes(done)} of {in_bytes(self._total)}, {rate}/s")


class StepReporter:
    """Shows the steps of a run as they begin, move on and end. Called from several threads."""

    def __init__(self, console: Console, progress: Progress | None, total: int) -> None:
        self._console = console
        self._progress = progress
        self._total = total
        self._ended = 0
        self._bars: dict[str, TaskID] = {}
        self._last_measure: dict[str, float] = {}
        self._lock = threading.Lock()

    def step_started(self, step: Step, *, undoing: bool) -> None:
        with self._lock:
            if undoing:
                self._total = max(self._total, self._ended + 1)
            if self._progress is not None:
                self._bars[step.name] = self._progress.add_task(escape(step.title), total=None)

    def step_said(self, step: Step, text: str) -> None:
        if self._progress is None or not step.name.startswith("sync:"):
            self._console.say(f"        {text}", style="dim")

    def step_measured(self, step: Step, done: int, total: int | None) -> None:
        self._show(step, f"{in_bytes(done)} of {in_bytes(total or done)}", done, total, "")

    def step_counted(self, step: Step, what: str, done: int, total: int) -> None:
        self._show(step, in_number(what, done, total), done, total, what)

    def _show(self, step: Step, text: str, done: int, total: int | None, what: str) -> None:
        with self._lock:
            if self._progress is not None and step.name in self._bars:
                self._progress.update(self._bars[step.name], completed=done, total=total, what=what)
                return
            now = time.monotonic()
            if now - self._last_measure.setdefault(step.name, now) >= _MEASURE_INTERVAL_S:
                self._last_measure[step.name] = now
                self._console.say(f"        {step.title}: {text}")

    def step_done(self, step: Step, facts: Facts, seconds: float) -> None:
        note = f", {facts['note']}" if "note" in facts else ""
        self._end(step, f"ok ({in_seconds(seconds)}{note})", "green")

    def step_failed(self, step: Step, error: BaseException, seconds: float) -> None:
        self._end(step, f"FAILED ({in_seconds(seconds)})", "bold red")
        self._console.say(f"        {error}", style="red")

    def going_back(self, error: BaseException, steps: int) -> None:
        with self._lock:
            self._ended, self._total = 0, steps
        self._console.say("putting everything back:", style="bold yellow")

    def _end(self, step: Step, outcome: str, style: str) -> None:
        with self._lock:
            self._ended += 1
            self._total = max(self._total, self._ended)
            if self._progress is not None and step.name in self._bars:
                self._progress.remove_task(self._bars.pop(step.name))
            number = f"[{self._ended}/{self._total}]"
        self._console.talk.print(f"{escape(number):>7} {escape(step.title)} ... [{style}]{outcome}[/{style}]")


class TaskReporter:
    """Shows how far one piece of work is. Called from several threads."""

    def __init__(self, console: Console, title: str, progress: Progress | None) -> None:
        self._console = console
        self._title = title
        self._progress = progress
        self._bar = progress.add_task(escape(title), total=None) if progress else None
        self._last_line = time.monotonic()
        self._lock = threading.Lock()

    def measure(self, done: int, total: int) -> None:
        """Tell how many bytes are done, of how many."""
        self._show(f"{in_bytes(done)} of {in_bytes(total)}", done, total, "")

    def count(self, what: str, done: int, total: int) -> None:
        """Tell how many `files`, or whatever is counted, are done, of how many."""
        self._show(in_number(what, done, total), done, total, what)

    def _show(self, text: str, done: int, total: int, what: str) -> None:
        with self._lock:
            if self._progress is not None and self._bar is not None:
                self._progress.update(self._bar, completed=done, total=total, what=what)
            elif time.monotonic() - self._last_line >= _MEASURE_INTERVAL_S:
                self._last_line = time.monotonic()
                self._console.say(f"{self._title}: {text}", style="dim")


def in_number(what: str, done: int, total: int) -> str:
    """Return how many are done for people: `12 of 312 tables`."""
    return f"{done} of {total} {what}"


def in_bytes(count: int) -> str:
    """Return a size for people: `4.1 GiB`."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def in_seconds(seconds: float) -> str:
    """Return a duration for people: `0.4 s`, `3 min 20 s`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{int(seconds) // 60} min {int(seconds) % 60} s"
