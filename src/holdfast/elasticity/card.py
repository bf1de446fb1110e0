"""The report card of one checkpoint: a sentence a reader can act on, then coefficients with intervals and nulls.

Source: elasticity.md 3.3, 3.6. The null of each is a linear spring with the same displacement and the same speed
at the start. Knows: curves of one checkpoint under several seeds. Does not know: models; other checkpoints (the
rebound index, hysteresis and the resistance index compare several: springs.py, resistance.py).

Shapes: S seeds, T probes, P prompts.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from holdfast.core.results import Result
from holdfast.core.statistics import Interval
from holdfast.elasticity import springs
from holdfast.elasticity.coefficients import extrapolated_stiffness
from holdfast.elasticity.curves import CurveReading, read_curve
from holdfast.elasticity.probe import GradientReading
from holdfast.elasticity.rebound import ReboundCurve
from holdfast.elasticity.reference import Reference
from holdfast.elasticity.springs import Coefficient, first_crossing, over_seeds_and_prompts, relaxation_rate

CARD_FILE = "card.json"
RETURNED = 0.05  # of KL at the start: what counts as back at the parent, unless an epsilon is given
SHORT = 8  # updates over which stiffness is read


@dataclass(frozen=True)
class Card(Result):
    """What the experiment says about one checkpoint.

    Attributes:
        sentence: how many updates take half of the score, or what is left after all of them.
        coefficients: stiffness, relaxation rate, updates to return, updates to half, initial speed of the score.
        shape: of the mean score's curve; None with fewer than six probes or without a score.
    """

    sentence: str
    coefficients: tuple[Coefficient, ...]
    shape: CurveReading | None


def read_card(
    curves: Sequence[ReboundCurve],
    gradients: GradientReading | None = None,
    *,
    what: str = "refusals",
    epsilon: float | None = None,
    nominal_k: float = math.nan,
    noise_floor_bits: float = 0.0,
    margin: float = 0.05,
    reference: Reference | None = None,
    seed: int = 0,
    draws: int = springs.DRAWS,
) -> Card:
    """Read the curves of one checkpoint.

    Args:
        curves: the same checkpoint, data, plan and probes under different seeds.
        gradients: of the checkpoint before the first update, for the regime flag.
        what: the score counts, in the plural.
        epsilon: KL (nats a sequence) at which the model counts as back at its parent; None: 5 % of the start's.
        nominal_k: tokens of pre-training over tokens of alignment, if known: what the law predicts for k_eff.
        noise_floor_bits: of the probe; smaller differences are not read as stiffness.
        margin: of the score around the base model's, for "phase change at base level".
        reference: other models' updates to half, whose median the sentence ends with.

    Raises:
        ValueError: no curves, or curves that were probed at different updates.
    """
    if not curves or len({curve.updates for curve in curves}) != 1:
        raise ValueError("a card needs one curve at least, all probed at the same updates")
    updates, regime = curves[0].updates, springs.UNREAD
    if gradients is not None:
        regime = springs.regime(gradients.cosine, gradients.norm_ratio)
    how = {"seed": seed, "draws": draws}
    found: list[Coefficient] = []
    if {"pretrain", "alignment"} <= curves[0].document_tokens.keys():
        found.append(_stiffness(curves[0], regime, nominal_k, noise_floor_bits, seed))
    if curves[0].points[0].kl_to_base_nats:
        found += _relaxation(updates, _stack(curves, "kl_to_base_nats"), epsilon, regime, how)
    if not curves[0].points[0].score:
        return Card("no score was asked for", tuple(found), None)
    score_STP = _stack(curves, "score")
    base = float(np.mean([curve.base_score for curve in curves]))
    halved, speed = _score(updates, score_STP, base, what, regime, how)
    mean_T = score_STP.mean(axis=(0, 2))
    shape = None
    if len(updates) >= 6:
        shape = read_curve(updates, mean_T.tolist(), base_level=base, margin=margin, seed=seed)
    sentence = _sentence(updates, mean_T, halved.value, what, curves[0].data)
    if reference is not None and mean_T[0] > 0:
        sentence = f"{sentence.removesuffix('.')}; {reference.said()}."
    return Card(sentence, (*found, halved, speed), shape)


def _stack(curves: Sequence[ReboundCurve], measure: str) -> np.ndarray:
    return np.stack([curve.of(measure) for curve in curves])


def _stiffness(curve: ReboundCurve, regime: str, nominal_k: float, floor: float, seed: int) -> Coefficient:
    short = [k for k, made in enumerate(curve.updates) if made <= SHORT]
    texts = {}
    for text in ("pretrain", "alignment"):
        bits, tokens = curve.bits(text)
        texts[text] = ([bits[k] for k in short], tokens)
        change = abs(np.sum(bits[short[-1]]) - np.sum(bits[0])) / np.sum(tokens)
        if change < 3 * floor:
            nothing = Interval(math.nan, -math.inf, math.inf, len(tokens), "below three times the noise floor")
            return Coefficient("effective stiffness at zero updates", "", nothing, nominal_k, regime)
    value = extrapolated_stiffness([curve.updates[k] for k in short], *texts.values(), seed=seed)
    return Coefficient("effective stiffness at zero updates", "", value, nominal_k, regime)


def _relaxation(
    updates: Sequence[int], kl_STP: np.ndarray, epsilon: float | None, regime: str, how: dict[str, int]
) -> list[Coefficient]:
    start = float(kl_STP[:, 0].mean())
    level = RETURNED * start if epsilon is None else epsilon

    def rate(kl_T: np.ndarray) -> float:
        return relaxation_rate(updates, kl_T, level)

    def returned(kl_T: np.ndarray) -> float:
        return first_crossing(updates, kl_T, level)

    at_first = relaxation_rate(updates[:3], kl_STP[:, :3].mean(axis=(0, 2)), level)
    at_first = at_first if at_first > 0 else math.nan  # it did not begin to come back: a spring says nothing
    back = springs.spring_updates(start, level, at_first) if start > level else math.nan
    return [
        Coefficient(
            "relaxation rate of KL to the parent", "an update",
            over_seeds_and_prompts(rate, kl_STP, **how), at_first, regime,
        ),
        Coefficient(
            f"updates until KL to the parent is {level:.3g} nats", "updates",
            over_seeds_and_prompts(returned, kl_STP, **how), back, regime,
        ),
    ]  # fmt: skip


def _score(
    updates: Sequence[int], score_STP: np.ndarray, base: float, what: str, regime: str, how: dict[str, int]
) -> tuple[Coefficient, Coefficient]:
    def halved(score_T: np.ndarray) -> float:
        return first_crossing(updates, score_T, score_T[0] / 2)

    def speed(score_T: np.ndarray) -> float:
        return springs.score_rate(updates, score_T, base)

    first = speed(score_STP.mean(axis=(0, 2)))
    start = float(score_STP[:, 0].mean())
    down = start / 2 - base  # of the way to the base model, when half is gone
    null = math.log((start - base) / down) / first if first > 0 and down > 0 else math.nan
    return (
        Coefficient(
            f"updates that take half of the {what}", "updates",
            over_seeds_and_prompts(halved, score_STP, **how), null, regime,
        ),
        Coefficient(
            f"initial loss of {what}, share of the way to the parent", "an update",
            over_seeds_and_prompts(speed, score_STP, **how), math.nan, regime,
        ),
    )  # fmt: skip


def _sentence(updates: Sequence[int], score_T: np.ndarray, half: Interval, what: str, data: str) -> str:
    if score_T[0] == 0:
        return f"There are no {what} to lose: none at the start."
    if math.isinf(half.value):
        left = 100 * score_T[-1] / score_T[0]
        return f"After {updates[-1]} updates on {data}, {left:.0f} % of the {what} are left."
    ends = (f"{end:.0f}" if math.isfinite(end) else f"more than {updates[-1]}" for end in (half.low, half.high))
    several = "" if math.isnan(half.low) else f" (95 % interval: {' to '.join(ends)})"
    number = max(1, math.ceil(half.value))
    return f"{number} update{'s' * (number != 1)} on {data} take{'s' * (number == 1)} half of the {what}{several}."
