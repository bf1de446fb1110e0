"""A progress bar on standard error that appears only when something takes over two seconds.

Knows: rich. Does not know: what is being done.
"""

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")

APPEARS_AFTER_SECONDS = 2.0
QUIET_VARIABLE = "HOLDFAST_QUIET"  # set by --quiet and --json; inherited by worker processes


@contextlib.contextmanager
def bar(description: str, total: float | None, enabled: bool = True) -> Iterator[Callable[[float], None]]:
    """Yield ``advance(steps)``. The bar shows elapsed time and an estimate of the time left."""
    if not enabled or os.environ.get(QUIET_VARIABLE) or not sys.stderr.isatty():
        yield lambda _steps=1.0: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    task = progress.add_task(description, total=total)
    started, shown = time.monotonic(), False

    def advance(steps: float = 1.0) -> None:
        nonlocal shown
        progress.advance(task, steps)
        if not shown and time.monotonic() - started > APPEARS_AFTER_SECONDS:
            progress.start()
            shown = True

    try:
        yield advance
    finally:
        if shown:
            progress.stop()


def track(items: Iterable[T], description: str, total: float | None = None, enabled: bool = True) -> Iterator[T]:
    """Iterate with a bar."""
    if total is None and isinstance(items, Sequence):
        total = len(items)
    with bar(description, total, enabled) as advance:
        for item in items:
            yield item
            advance(1.0)
