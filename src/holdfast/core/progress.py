"""A progress bar on standard error that appears when something takes over two seconds, its first step included.

Knows: rich. Does not know: what is being done.
"""

import contextlib
import functools
import os
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, TextIO, TypeVar

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, ProgressColumn

T = TypeVar("T")

APPEARS_AFTER_SECONDS = 2.0
SPEED_OVER_SECONDS = 300.0  # long enough that a slow step leaves a speed, and so a time left, to go by
QUIET_VARIABLE = "HOLDFAST_QUIET"  # set by --quiet and --json; inherited by worker processes


class Advance:
    """What :func:`bar` yields: called with the steps that were made, and told what to say beside the bar."""

    def __init__(self, progress: "Progress | None" = None, task: int = 0) -> None:
        self._progress, self._task = progress, task
        self.shown, self._lock = False, threading.Lock()
        self._timer = threading.Timer(APPEARS_AFTER_SECONDS, self._show)  # a first step may take minutes
        self._timer.daemon = True
        if progress is not None and APPEARS_AFTER_SECONDS > 0:
            self._timer.start()
        else:
            self._show()

    def __call__(self, steps: float = 1.0) -> None:
        """Move the bar on."""
        if self._progress is not None:
            self._progress.advance(self._task, steps)  # type: ignore[arg-type]  # a task id is an int

    def note(self, text: str) -> None:
        """A few words to the right of the bar, such as "loss 1.23"; they stay until the next ones."""
        if self._progress is not None:
            self._progress.update(self._task, note=text)  # type: ignore[arg-type]

    def _show(self) -> None:
        with self._lock:
            if self._progress is not None and not self.shown:
                self._progress.start()
                self.shown = True

    def close(self) -> None:
        """Take the bar off the screen; it does not come again."""
        self._timer.cancel()
        with self._lock:
            if self._progress is not None and self.shown:
                self._progress.stop()
            self._progress = None


@contextlib.contextmanager
def bar(
    description: str, total: float | None, enabled: bool = True, unit: str | None = None, done: float = 0.0
) -> Iterator[Advance]:
    """Yield an :class:`Advance`: ``advance(steps)`` and ``advance.note("loss 1.23")``.

    The bar shows elapsed time and an estimate of the time left.

    Args:
        description: what is being done.
        total: steps in all, if known.
        enabled: False draws nothing.
        unit: name of a step; given, the bar also shows steps a second ("1,234 tokens/s").
        done: steps finished by an earlier run. They fill the bar but do not count towards the speed.
    """
    if not enabled or os.environ.get(QUIET_VARIABLE) or not sys.stderr.isatty():
        yield Advance()
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    progress = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        *([TextColumn("{task.percentage:>3.0f}%")] if total else []),
        TimeElapsedColumn(),
        *([TimeRemainingColumn()] if total else []),
        *([_rate_column(unit)] if unit else []),
        TextColumn("{task.fields[note]}", markup=False),
        speed_estimate_period=SPEED_OVER_SECONDS,
        console=_console(getattr(sys.stderr, "rich_proxied_file", sys.stderr)),  # a bar around this one wraps it
        transient=True,
    )
    task = progress.add_task(description, total=total, completed=done, note="")  # type: ignore[arg-type]  # floats do
    progress.advance(task, 0)  # rich counts speed from the first sample on; without this the first step is lost
    advance = Advance(progress, task)
    try:
        yield advance
    finally:
        advance.close()


@functools.lru_cache(maxsize=1)
def _console(stream: TextIO) -> "Console":
    """One for all bars of a screen: bars within bars are drawn below each other."""
    from rich.console import Console

    return Console(file=stream)


def _rate_column(unit: str) -> "ProgressColumn":
    from rich.progress import ProgressColumn, Task
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.speed:,.0f} {unit}/s" if task.speed else f"- {unit}/s")

    return Rate()


def track(items: Iterable[T], description: str, total: float | None = None, enabled: bool = True) -> Iterator[T]:
    """Iterate with a bar."""
    if total is None and isinstance(items, Sequence):
        total = len(items)
    with bar(description, total, enabled) as advance:
        for item in items:
            yield item
            advance(1.0)
