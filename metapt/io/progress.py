"""A progress bar with an ETA, on stderr; silent with `--quiet`, plain lines when stderr is no terminal."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class Bar:
    """`advance(steps)` after work, `label(text)` when the kind of work changes."""

    def __init__(self, progress: Progress, total: int, done: int):
        self._progress = progress
        self._task = progress.add_task("", total=total, completed=done)
        self._label, self._next_line = "", time.monotonic() + 10.0
        self._live = progress.console.is_terminal

    def label(self, text: str) -> None:
        self._label = text
        self._progress.update(self._task, description=text)

    def advance(self, steps: int) -> None:
        self._progress.advance(self._task, steps)
        if not self._live and not self._progress.disable and time.monotonic() > self._next_line:
            task = self._progress.tasks[0]
            left = f"{task.time_remaining:.0f} s left" if task.time_remaining is not None else "estimating"
            print(f"{self._label}: {task.completed:.0f}/{task.total:.0f} steps, {left}", file=sys.stderr, flush=True)
            self._next_line = time.monotonic() + 10.0


@contextmanager
def progress_bar(total: int, done: int, quiet: bool) -> Iterator[Bar]:
    """A bar of `total` steps, `done` of them before it begins."""
    columns = (
        TextColumn("{task.description:<22}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("outer steps, elapsed"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), disable=quiet, speed_estimate_period=60) as progress:
        yield Bar(progress, total, done)
