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
    """The largest of 1, 0.95, ..., 0.05 at which the work ends within ``limit`` seconds.

    Where none does, the largest at which it takes no longer than at the smallest: what saves no time is not cut.
    """
    reached = max(limit, seconds_at(SHARES[-1]))
    return next(share for share in SHARES if seconds_at(share) <= reached)


def estimate_words(what: str, seconds: float, memory_bytes: float) -> str | None:
    """One sentence for work of over a minute; None for less."""
    if seconds < SAID_FROM_SECONDS:
        return None
    return f"{what}: about {seconds / 60:.1f} min and {memory_bytes / 2**30:.1f} GiB, by a timed first batch"


def fit_words(
    what: str,
    minutes: float,
    seconds_at: Callable[[float], float],
    share: float,
    memory_bytes: float,
    cuts: dict[str, tuple[object, object]],
) -> list[str]:
    """The estimate, what was cut to fit, "64 prompts to 20", the estimate after it; no word under a minute."""
    told = [f"{before} {name} to {after}" for name, (before, after) in cuts.items() if before != after]
    late = seconds_at(share) > 60 * minutes
    fit = f"as far as it goes, which is more than {minutes:g} min" if late else f"to fit {minutes:g} min"
    sentences = [estimate_words(f"{what} at the sizes asked for", seconds_at(1.0), memory_bytes)]
    if share < 1 and told:
        sentences.append(f"{what}: cut {fit} (--minutes): {', '.join(told)}")
        sentences.append(estimate_words(f"{what} now", seconds_at(share), memory_bytes))
    elif late:
        sentences.append(
            f"{what}: more than {minutes:g} min (--minutes), and cutting its sizes would not shorten it"
        )
    return [sentence for sentence in sentences if sentence is not None]
