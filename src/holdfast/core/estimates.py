"""How long something will take and how much memory, said before it starts, and what of it fits into a time.

Knows: seconds, bytes, shares of a size. Does not know: what takes the time.
"""

import time
from collections.abc import Callable

SAID_FROM_SECONDS = 60.0
SHARES = tuple(k / 20 for k in range(20, 0, -1))


def timed(work: Callable[[], object]) -> float:
    """Seconds that ``work`` takes."""
    started = time.monotonic()
    work()
    return time.monotonic() - started


def largest_share(seconds_at: Callable[[float], float], limit: float) -> float:
    """The largest of 1, 0.95, ..., 0.05 at which the work ends within ``limit`` seconds; 0.05 where none does."""
    return next((share for share in SHARES if seconds_at(share) <= limit), SHARES[-1])


def estimate_words(what: str, seconds: float, memory_bytes: float) -> str | None:
    """One sentence for work of over a minute; None for less."""
    if seconds < SAID_FROM_SECONDS:
        return None
    return f"{what}: about {seconds / 60:.1f} min and {memory_bytes / 2**30:.1f} GiB, by a timed first batch"


def cut_words(what: str, minutes: float, cuts: dict[str, tuple[object, object]], fits: bool = True) -> str | None:
    """What was cut to fit, "64 prompts to 20"; None if nothing was.

    Args:
        fits: whether it ends in time now; the smallest may not.
    """
    told = [f"{before} {name} to {after}" for name, (before, after) in cuts.items() if before != after]
    if not told:
        return None
    how = f"cut to fit {minutes:g} min" if fits else f"cut as far as it goes, which is not to {minutes:g} min"
    return f"{what}: {how} (--minutes): {', '.join(told)}"
