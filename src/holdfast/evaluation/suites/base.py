"""What every suite is and gives: a name, a run on a model, measures with intervals, a value an item.

Knows: the shape of a suite and of its score. Does not know: any particular suite.
"""

from dataclasses import dataclass, field
from typing import Literal, Protocol

from holdfast.core.errors import UserError
from holdfast.core.results import Result
from holdfast.core.statistics import Interval, paired_bootstrap
from holdfast.models import Subject

Style = Literal["text", "chat"]


@dataclass(frozen=True)
class SuiteScore(Result):
    """One suite on one model.

    Attributes:
        name: of the suite.
        kind: "multiple_choice", "truthfulness", "perplexity" or "harness".
        source: where the items come from: "own" (the benchmark's own lists), "derived" (made by us from something
            else), "file", "organism" or "lm-evaluation-harness".
        measures: name -> value with interval.
        ids: of the items, in order.
        values: measure -> one number an item; what two models are compared on.
        notes: what a reader must know: truncated items, ties, derivations.
    """

    name: str
    kind: str
    source: str
    measures: dict[str, Interval]
    ids: tuple[str, ...] = field(default=(), repr=False)
    values: dict[str, tuple[float, ...]] = field(default_factory=dict, repr=False)
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        shown = ", ".join(f"{name} {interval}" for name, interval in self.measures.items())
        label = "" if self.source == "own" else f" ({self.source})"
        return f"{self.name}{label}: {shown}" + "".join(f"\n  {note}" for note in self.notes)


class Suite(Protocol):
    """Anything with a name that can score a model."""

    @property
    def name(self) -> str:
        """Used in files and tables."""
        ...

    def run(self, subject: Subject, seed: int = 0, batch_size: int = 16) -> SuiteScore:
        """Score ``subject``; leaves its modes and the random state alone."""
        ...


def same_items(a: SuiteScore, b: SuiteScore, measure: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The values of both, item by item.

    Raises:
        UserError: not measured item by item, or not on the same items.
    """
    for score in (a, b):
        if measure not in score.values:
            raise UserError(
                f"'{score.name}' has no '{measure}' an item; it has {', '.join(sorted(score.values)) or 'none'}"
            )
    if a.ids != b.ids:
        common = len(set(a.ids) & set(b.ids))
        raise UserError(
            f"'{a.name}' was not run on the same items ({len(a.ids)} and {len(b.ids)}, {common} in common); "
            "run both models on one list"
        )
    return a.values[measure], b.values[measure]


def compare_suites(a: SuiteScore, b: SuiteScore, measure: str, seed: int = 0) -> Interval:
    """Mean of ``a`` minus mean of ``b`` over the same items, paired bootstrap.

    Raises:
        UserError: as :func:`same_items`.
    """
    return paired_bootstrap(*same_items(a, b, measure), seed)


def unique_ids(ids: list[str], name: str) -> tuple[str, ...]:
    """The ids as given.

    Raises:
        UserError: two items share one.
    """
    if len(set(ids)) != len(ids):
        twice = next(i for i in ids if ids.count(i) > 1)
        raise UserError(f"suite '{name}': two items have the id '{twice}'; make ids unique, or leave them out")
    return tuple(ids)
