"""How a number is said: the same words in the terminal and on the page.

Knows: rounding, intervals, units. Does not know: terminals or HTML.
"""

from dataclasses import dataclass
from typing import Any, Literal

from holdfast.core.statistics import Interval, describe_difference

INTERVALS = (
    "[ ] 95 % over seeds and prompts (one seed: over prompts); dots are seeds with their range, "
    "and three seeds carry little"
)
Kind = Literal["rate", "number", "seconds"]
Entry = dict[str, Any] | None


@dataclass(frozen=True)
class Column:
    """One column of the table: key in a summary row, heading on the page and in the terminal, kind of number."""

    key: str
    heading: str
    short: str
    kind: Kind


COLUMNS = (
    Column("refusal", "refusals on held-out requests", "refusals", "rate"),
    Column("over_refusal", "over-refusal", "over-\nrefusal", "rate"),
    Column("unclear", "unclear", "unclear", "rate"),
    Column("task_score", "task score", "task\nscore", "rate"),
    Column("task_loss_nats", "task loss, nats a token", "loss\nnats/tok", "number"),
    Column("drift_kl_nats", "drift, nats a sequence", "drift\nnats/seq", "number"),
    Column("seconds", "seconds", "sec.", "seconds"),
)


def value(entry: Entry, kind: Kind) -> str:
    """The point value."""
    if not entry or entry.get("value") is None:
        return "-"
    if kind == "rate":
        return f"{100 * entry['value']:.0f} %"
    return f"{entry['value']:.1f}" if kind == "seconds" else f"{entry['value']:.3f}"


def interval(entry: Entry, kind: Kind) -> str:
    """The interval over seeds and prompts, if there is one."""
    if not entry or entry.get("low") is None or entry.get("high") is None:
        return ""
    return f"[{_end(entry['low'], kind)}, {_end(entry['high'], kind)}]"


def _end(number: float, kind: Kind) -> str:
    if kind == "rate":
        return f"{100 * number:.0f}"
    if kind == "seconds":
        return f"{number:.1f}"
    return f"{number:.2f}" if abs(number) < 10 else f"{number:.1f}"


def seeds(entry: Entry, kind: Kind) -> str:
    """The seeds as dots and their range, beside the interval: three values carry little."""
    values = [number for number in (entry or {}).get("per_seed") or [] if number is not None]
    if len(values) < 2 or kind == "seconds":
        return ""
    low, high = min(values), max(values)
    span = [f"{100 * v:.0f}" if kind == "rate" else f"{v:.2f}" if high < 10 else f"{v:.0f}" for v in (low, high)]
    return f"{'•' * len(values)} {'-'.join(dict.fromkeys(span))}"


def difference_sentence(difference: dict[str, Any]) -> str:
    """A paired difference in one line, with what it allows to be said."""
    if any(difference[key] is None for key in ("value", "low", "high")):
        return f"{difference['name']}: not measured"
    value, low, high, n = (difference[key] for key in ("value", "low", "high", "n"))
    said = describe_difference(Interval(value, low, high, n, ""), difference.get("noise_floor"))
    return f"{difference['name']}: {said}"
