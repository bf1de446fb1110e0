"""How well a proxy ranks the user's own samples: measured on some of them, in one line.

Knows: rank correlation with its interval, overlap of chosen sets. Does not know: which rule chooses (it is handed
in), how a proxy is computed.

Shapes: N samples.

Source: selection.md 3.6: every run with a proxy reports its rank agreement and its overlap of selected sets.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from holdfast.core.errors import UserError
from holdfast.core.ranks import spearman
from holdfast.core.results import Result
from holdfast.core.seeds import derive_seed
from holdfast.core.statistics import Interval
from holdfast.data import Example
from holdfast.gradients.ghost import Reduction
from holdfast.gradients.norms import gradient_norms
from holdfast.gradients.proxies import PROXIES
from holdfast.models import Subject

# Positions that a selection rule keeps: (loss_N, norm_N, tokens_N) to positions.
Choose = Callable[[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]], Sequence[int]]
SAMPLE = 256
TOP = 0.2


@dataclass(frozen=True)
class ProxyAgreement(Result):
    """A proxy against the full gradient norm, on some of the user's samples.

    Attributes:
        proxy: its name.
        spearman: rank correlation of the two columns, with a 95 % interval.
        selected_overlap: share of the samples that the selection rule picks by the norm which it also picks by
            the proxy. Losses are the same in both.
        top20_overlap: the same for the top fifth of each column.
        n: samples it was measured on.
    """

    proxy: str
    spearman: Interval
    selected_overlap: float
    top20_overlap: float
    n: int

    def __str__(self) -> str:
        return (
            f"proxy {self.proxy} against the full norm on {self.n} of these rows: Spearman {self.spearman}, "
            f"same selection {self.selected_overlap:.0%}, same top 20 % {self.top20_overlap:.0%}"
        )


def rank_agreement(
    subject: Subject,
    examples: Sequence[Example],
    proxy: str,
    choose: Choose,
    reduction: Reduction = "mean",
    sample: int = SAMPLE,
    seed: int = 0,
    progress: bool = True,
) -> ProxyAgreement:
    """Score at most ``sample`` of the user's samples both ways and compare.

    Args:
        subject: model and scope.
        examples: the user's data; those without completion tokens are not drawn.
        proxy: its name.
        choose: the selection rule that the scores are meant for.
        reduction: as :func:`gradient_norms`.
        sample: samples drawn, without replacement.
        seed: of the draw, and of proxies that draw something.
        progress: show a bar when it takes over two seconds.

    Raises:
        UserError: unknown proxy; fewer than two usable samples.
    """
    if proxy not in PROXIES:
        raise UserError(f"proxy '{proxy}': unknown; use one of {', '.join(PROXIES)}")
    usable = [k for k, example in enumerate(examples) if example.completion_tokens]
    rng = np.random.default_rng(derive_seed(seed, "rank agreement"))
    drawn = np.sort(rng.choice(len(usable), min(sample, len(usable)), replace=False)) if usable else []
    rows = [examples[usable[k]] for k in drawn]
    full = gradient_norms(subject, rows, reduction, progress=progress) if rows else None
    other = gradient_norms(subject, rows, reduction, progress=progress, proxy=proxy, seed=seed) if rows else None
    good = [] if full is None or other is None else np.isfinite(full.grad_norm + full.loss_nats + other.grad_norm)
    if full is None or other is None or np.sum(good) < 2:
        raise UserError(
            f"proxy '{proxy}': agreement needs two rows with a finite norm; there are {np.sum(good):.0f}"
        )
    loss_N, tokens_N = full.loss_nats[good], full.completion_tokens[good]
    norm_N, proxy_N = full.grad_norm[good], other.grad_norm[good]
    picked = choose(loss_N, norm_N, tokens_N), choose(loss_N, proxy_N, tokens_N)
    return ProxyAgreement(
        proxy,
        spearman_interval(norm_N, proxy_N),
        overlap(*picked),
        overlap(top(norm_N), top(proxy_N)),
        len(norm_N),
    )


def spearman_interval(a_N: NDArray[np.float64], b_N: NDArray[np.float64], level: float = 0.95) -> Interval:
    """Rank correlation with its interval."""
    return rank_interval(spearman(a_N.tolist(), b_N.tolist()), len(a_N), level)


def rank_interval(value: float, n: int, level: float = 0.95) -> Interval:
    """The interval of a rank correlation by Fisher's z and the variance of Bonett and Wright (2000).

    z = artanh ρ, standard error √((1 + ρ²/2) / (N - 3)). Without information (N below 4, or a constant column,
    where ρ is NaN) the interval is [-1, 1].
    """
    if n < 4 or not math.isfinite(value):
        return Interval(value, -1.0, 1.0, n, "fisher z")
    if abs(value) > 1 - 1e-12:  # the same order, or the reverse: the formula's limit
        value = math.copysign(1.0, value)
        return Interval(value, value, value, n, "fisher z")
    half = NormalDist().inv_cdf(0.5 + level / 2) * math.sqrt((1 + value**2 / 2) / (n - 3))
    centre = math.atanh(value)
    return Interval(value, math.tanh(centre - half), math.tanh(centre + half), n, "fisher z")


def top(value_N: NDArray[np.float64], share: float = TOP) -> list[int]:
    """Positions of the largest ``max(1, ⌊share · N⌋)`` values; ties by position."""
    count = max(1, math.floor(share * len(value_N) + 1e-9))
    return np.argsort(-value_N, kind="stable")[:count].tolist()


def overlap(a: Sequence[int], b: Sequence[int]) -> float:
    """Share of the larger set that is in both; NaN for two empty ones."""
    return len(set(a) & set(b)) / max(len(set(a)), len(set(b))) if len(a) or len(b) else float("nan")
