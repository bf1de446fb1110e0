"""The evidence format: a claim with its interval and verdict, a rate in a table.

Knows: when a verdict is given. Does not know: runs.
"""

from collections.abc import Mapping
from typing import Any

from holdfast.core.statistics import Interval

SOURCE = "issue 11; notes-anchor.md"
FEWEST = 10  # cells (a task with a seed) below which no verdict is given


def claim_of(
    name: str, text: str, interval: Interval | None, holds: Any, fails: Any, cells: int
) -> dict[str, Any]:
    """``holds`` and ``fails`` judge the interval where there are cells enough."""
    verdict = "undecided"
    if interval is not None and cells >= FEWEST:
        verdict = "supported" if holds(interval) else "not supported" if fails(interval) else "undecided"
    return {"id": name, "claim": text, "source": SOURCE, "cells": cells, **numbers(interval), "verdict": verdict}


def numbers(interval: Interval | None) -> dict[str, Any]:
    """Of an interval, or of none."""
    return {key: getattr(interval, key, None) for key in ("value", "low", "high", "n")}


def percent(entry: Mapping[str, Any]) -> str:
    """A rate with its interval."""
    if entry["value"] is None:
        return "-"
    return f"{100 * entry['value']:.1f} % [{100 * entry['low']:.0f}, {100 * entry['high']:.0f}]"
