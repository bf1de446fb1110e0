"""The statistics every room shares: intervals, paired differences, the noise floor, many comparisons at once.

Knows: numbers and resampling over *prompts* (never over tokens), and over seeds where there are several.
Does not know: what the numbers measure.

Shapes: S seeds, R re-runs, B batch sizes, P prompts.

A score is a mean over prompts, so every statement resamples prompts; training or sampling again gives other seeds,
so a statement about a method resamples those as well. What a re-run alone can move is the *noise floor*: a smaller
difference is none that was seen.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from holdfast.core.results import Result

NO_DIFFERENCE = "no difference seen"
TOO_FEW = "not enough items"
_BLOCK = 1000


@dataclass(frozen=True)
class Interval(Result):
    """An estimate with its interval; ``n`` is the number of resampled units (prompts, documents)."""

    value: float
    low: float
    high: float
    n: int
    method: str

    def excludes(self, number: float) -> bool:
        """Whether ``number`` lies outside the interval; an interval without ends (NaN) excludes nothing."""
        return number < self.low or number > self.high

    def said(self, form: str = ".3f", scale: float = 1.0, unit: str = "") -> str:
        """In words, the one way for every table: "0.083 [0.010, 0.350]"; what cannot be known is said, not NaN."""
        value, low, high = (scale * number for number in (self.value, self.low, self.high))
        if not np.isfinite(value):
            return "not measured"
        ends = f"{low:{form}}, {high:{form}}" if np.isfinite([low, high]).all() else TOO_FEW
        return f"{value:{form}}{unit} [{ends}]"

    @property
    def percent(self) -> str:
        """Of a rate: "8 % [1, 35]"."""
        return self.said(".0f", 100, " %")

    def __str__(self) -> str:
        return self.said()


def wilson(successes: float, n: int, level: float = 0.95) -> Interval:
    """Wilson score interval of a rate (Wilson 1927). With ``n = 0`` the interval is [0, 1], the value NaN.

    ``successes`` may be fractional: a rate averaged over seeds keeps the number of *prompts* as its ``n``.
    """
    if not 0 <= successes <= n + 1e-9:
        raise ValueError(f"{successes} successes of {n}")
    if n == 0:
        return Interval(float("nan"), 0.0, 1.0, 0, "wilson")
    z = NormalDist().inv_cdf(0.5 + level / 2)
    rate = successes / n
    centre = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z * ((rate * (1 - rate) + z * z / (4 * n)) / n) ** 0.5 / (1 + z * z / n)
    return Interval(rate, max(0.0, centre - half), min(1.0, centre + half), n, "wilson")


def bootstrap_mean(values: Sequence[float], seed: int = 0, draws: int = 10_000, level: float = 0.95) -> Interval:
    """Percentile bootstrap of the mean over units. Below two units there is nothing to resample: NaN ends."""
    data = np.asarray(values, dtype=np.float64)
    if data.size < 2:
        return Interval(float(data.sum()) if data.size else np.nan, np.nan, np.nan, int(data.size), "bootstrap")
    rng = np.random.default_rng(seed)
    means = np.concatenate(
        [
            data[rng.integers(0, data.size, (min(1000, draws - start), data.size))].mean(axis=1)
            for start in range(0, draws, 1000)
        ]
    )
    tail = (1 - level) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(float(data.mean()), float(low), float(high), int(data.size), "bootstrap")


def paired_bootstrap(
    a: Sequence[float], b: Sequence[float], seed: int = 0, draws: int = 10_000, level: float = 0.95
) -> Interval:
    """Percentile bootstrap of ``mean(a - b)`` over paired units: the same prompts under two conditions."""
    if len(a) != len(b):
        raise ValueError(f"pairs need equal lengths, got {len(a)} and {len(b)}")
    difference = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    interval = bootstrap_mean(difference.tolist(), seed, draws, level)
    return Interval(interval.value, interval.low, interval.high, interval.n, "paired bootstrap")


def _matrix(values: Sequence[Sequence[float]], rows: str) -> np.ndarray:
    lengths = {len(row) for row in values}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(f"{rows} need scores of the same prompts; got {sorted(lengths)} of them")
    data = np.asarray(values, dtype=np.float64)
    if not np.isfinite(data).all():
        raise ValueError(f"{rows}: a score is missing (NaN); leave that prompt out of all of them")
    return data


def _weights(rng: np.random.Generator, draws: int, units: int) -> np.ndarray:
    """Bootstrap weights that sum to one. Their spread is widened by sqrt(n / (n - 1)): with three seeds the plain
    bootstrap would find only two thirds of the variance between them."""
    if units == 1:
        return np.ones((draws, 1))
    counts = rng.multinomial(units, np.full(units, 1 / units), size=draws)
    return 1 / units + (counts / units - 1 / units) * np.sqrt(units / (units - 1))


def seeds_and_prompts(
    values_SP: Sequence[Sequence[float]], seed: int = 0, draws: int = 10_000, level: float = 0.95
) -> Interval:
    """The mean over seeds and prompts, with an interval that covers both.

    Every seed has the same prompts, so seeds and prompts are resampled independently of each other (the pigeonhole
    bootstrap, Owen 2007; a little wide by what seeds and prompts do together). With one seed only prompts vary,
    and ``method`` says so. Below five seeds the interval rests on very few draws of a seed: show the seeds too.
    One prompt says nothing about others: NaN ends.

    Returns:
        An interval whose ``n`` is the number of prompts.

    Raises:
        ValueError: seeds with different numbers of prompts; a missing score.
    """
    data_SP = _matrix(values_SP, "seeds")
    seeds, prompts = data_SP.shape
    rng = np.random.default_rng(seed)
    means = np.empty(draws)
    for start in range(0, draws, _BLOCK):
        block = min(_BLOCK, draws - start)
        over_seeds = _weights(rng, block, seeds) @ data_SP
        means[start : start + block] = (over_seeds * _weights(rng, block, prompts)).sum(1)
    tail = (1 - level) / 2
    # A mean lies within its data; the widened weights of very few seeds could leave that range.
    low, high = np.clip(np.quantile(means, [tail, 1 - tail]), data_SP.min(), data_SP.max())
    low, high = (low, high) if prompts > 1 else (float("nan"), float("nan"))
    method = f"bootstrap over {seeds} seeds and prompts" if seeds > 1 else "bootstrap over prompts, one seed"
    return Interval(float(data_SP.mean()), float(low), float(high), prompts, method)


def paired_seeds_and_prompts(
    a_SP: Sequence[Sequence[float]],
    b_SP: Sequence[Sequence[float]],
    seed: int = 0,
    draws: int = 10_000,
    level: float = 0.95,
) -> Interval:
    """The mean of ``a - b``, paired by seed and by prompt.

    Raises:
        ValueError: the two sides differ in seeds or prompts.
    """
    a, b = _matrix(a_SP, "seeds"), _matrix(b_SP, "seeds")
    if a.shape != b.shape:
        raise ValueError(f"pairs need the same seeds and prompts, got {a.shape} and {b.shape}")
    return seeds_and_prompts((a - b).tolist(), seed, draws, level)


@dataclass(frozen=True)
class NoiseFloor(Result):
    """How large a difference re-running the same thing makes.

    Attributes:
        floor: two re-runs of one condition differ by less than this with probability ``level`` or more. Pairs
            of re-runs are drawn and their prompts resampled, so it is on the safe side: up to sqrt(2) times
            what the same prompts alone would show.
        level: of ``floor``.
        repeats: re-runs (sampling seeds, refits).
        prompts: of each.
        spread: standard deviation of a re-run's mean.
        batch: largest change of the mean by another batch size or padding of the same run; None if not measured.
            It is not part of ``floor``: it is a property of the machine and of the number type, not of chance.
    """

    floor: float
    level: float
    repeats: int
    prompts: int
    spread: float
    batch: float | None = None

    def __str__(self) -> str:
        batch = "not measured" if self.batch is None else f"{self.batch:.2g}"
        return (
            f"noise floor {self.floor:.3f} ({self.repeats} re-runs of {self.prompts} prompts, {self.level:.0%}); "
            f"batch and padding {batch}"
        )


def noise_floor(
    repeats_RP: Sequence[Sequence[float]],
    batch_BP: Sequence[Sequence[float]] | None = None,
    seed: int = 0,
    draws: int = 10_000,
    level: float = 0.95,
) -> NoiseFloor:
    """The floor below which a difference of means is what a re-run alone would make.

    Args:
        repeats_RP: scores of one condition under R sampling or refit seeds, on the same prompts.
        batch_BP: scores of *one* run under B batch sizes or paddings; reported apart.

    Raises:
        ValueError: fewer than two repeats (one run cannot say how far a second would be); unequal prompts.
    """
    data_RP = _matrix(repeats_RP, "repeats")
    repeats, prompts = data_RP.shape
    if repeats < 2:
        raise ValueError(
            "a noise floor needs at least two re-runs of the same condition; sample or refit once more"
        )
    rng = np.random.default_rng(seed)
    moved = np.empty(draws)
    for start in range(0, draws, _BLOCK):
        block = min(_BLOCK, draws - start)
        first = rng.integers(0, repeats, block)
        second = (
            first + rng.integers(1, repeats, block)
        ) % repeats  # another one: a run never differs from itself
        gap_P = data_RP[first] - data_RP[second]
        moved[start : start + block] = np.abs((gap_P * _weights(rng, block, prompts)).sum(1))
    batch = None
    if batch_BP is not None:
        means_B = _matrix(batch_BP, "batch sizes").mean(1)
        batch = float(means_B.max() - means_B.min())
    floor = float(np.quantile(moved, level))
    return NoiseFloor(floor, level, repeats, prompts, float(data_RP.mean(1).std(ddof=1)), batch)


def describe_difference(
    difference: Interval,
    floor: NoiseFloor | float | None = None,
    unit: str = "points",
    scale: float = 100.0,
    digits: int = 1,
) -> str:
    """One sentence about a paired difference.

    "no difference seen" where the interval holds 0 or the difference is below the floor (the sentence says which);
    without a floor the sentence says that none was measured.

    Args:
        difference: of two means.
        floor: of the same score; a plain number is taken as it is.
        unit, scale, digits: how the numbers are shown; the default shows rates in percentage points.
    """
    value, low, high = (scale * number for number in (difference.value, difference.low, difference.high))
    middle, below, above = (f"{number:+.{digits}f}" for number in (value, low, high))
    name = f" {unit}" if unit else ""
    numbers = f"{middle}{name} [{below}, {above}] over {difference.n} prompts"
    if not np.isfinite(value):
        return "not measured"
    if not np.isfinite([low, high]).all():
        return f"{NO_DIFFERENCE}: {middle}{name} over {difference.n} prompts, {TOO_FEW} for an interval"
    least = floor.floor if isinstance(floor, NoiseFloor) else floor
    if least is not None and abs(difference.value) < least:
        return f"{NO_DIFFERENCE}: {numbers}, below the noise floor of {scale * least:.{digits}f}{name}"
    if not difference.excludes(0.0):
        return f"{NO_DIFFERENCE}: {numbers}, the interval holds 0"
    if least is None:
        return f"{numbers}, the interval excludes 0; no noise floor was measured"
    return f"{numbers}, the interval excludes 0 and the noise floor is {scale * least:.{digits}f}{name}"


def paired_p_value(a: Sequence[float], b: Sequence[float], seed: int = 0, draws: int = 10_000) -> float:
    """Two-sided p-value of a mean paired difference by random sign flips (a permutation test; never 0).

    Raises:
        ValueError: sides of different lengths, or empty.
    """
    if len(a) != len(b) or not len(a):
        raise ValueError(f"pairs need equal lengths above 0, got {len(a)} and {len(b)}")
    gap_P = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    seen = abs(gap_P.sum())
    tolerance = 1e-9 * float(np.abs(gap_P).sum())  # sums in another order may differ in the last bit
    rng = np.random.default_rng(seed)
    as_far = 0
    for start in range(0, draws, _BLOCK):
        signs = rng.integers(0, 2, (min(_BLOCK, draws - start), gap_P.size)) * 2 - 1
        as_far += int((np.abs(signs @ gap_P) >= seen - tolerance).sum())
    return (as_far + 1) / (draws + 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for being one of many (Holm 1979), in their order; valid whatever their dependence."""
    order = sorted(range(len(p_values)), key=lambda k: p_values[k])
    corrected, running = [0.0] * len(p_values), 0.0
    for rank, k in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[k]))
        corrected[k] = running
    return corrected


def comparison_note(p_values: dict[str, float], level: float = 0.05) -> str:
    """What remains of several comparisons made at once, as a sentence for under a table."""
    if len(p_values) < 2:
        return "one comparison; no correction needed"
    corrected = dict(zip(p_values, holm(list(p_values.values())), strict=True))
    holding = [name for name, p in corrected.items() if p <= level]
    lost = [name for name, p in corrected.items() if p > level and p_values[name] <= level]
    note = (
        f"{len(p_values)} comparisons at once: by Holm's correction at {level:g}, "
        f"{', '.join(holding) if holding else 'none'} {'hold' if len(holding) != 1 else 'holds'}"
    )
    return note + (
        f"; {', '.join(lost)} would hold alone and {'do' if len(lost) > 1 else 'does'} not" if lost else ""
    )


def bootstrap_ratio(
    above: Sequence[float], below: Sequence[float], seed: int = 0, draws: int = 10_000, level: float = 0.95
) -> Interval:
    """Percentile bootstrap of ``sum(above) / sum(below)`` over units, such as nats over bytes of documents.

    With one unit there is nothing to resample: the ends are NaN.
    """
    if len(above) != len(below):
        raise ValueError(f"pairs need equal lengths, got {len(above)} and {len(below)}")
    tops, bottoms = np.asarray(above, dtype=np.float64), np.asarray(below, dtype=np.float64)
    value = float(tops.sum() / bottoms.sum()) if tops.size else float("nan")
    if tops.size < 2:
        return Interval(value, float("nan"), float("nan"), int(tops.size), "bootstrap of a ratio")
    tail = (1 - level) / 2
    low, high = np.quantile(ratio_draws(tops, bottoms, seed, draws), [tail, 1 - tail])
    return Interval(value, float(low), float(high), int(tops.size), "bootstrap of a ratio")


def ratio_draws(
    above_N: NDArray[np.float64], below_N: NDArray[np.float64], seed: int, draws: int
) -> NDArray[np.float64]:
    """The resampled ratios behind :func:`bootstrap_ratio`, one a draw."""
    rng = np.random.default_rng(seed)
    ratios = np.empty(draws)
    for start in range(0, draws, _BLOCK):
        drawn = rng.integers(0, above_N.size, (min(_BLOCK, draws - start), above_N.size))
        ratios[start : start + len(drawn)] = above_N[drawn].sum(1) / below_N[drawn].sum(1)
    return ratios
