"""Two scorecards on the same prompts: paired differences, said with care.

Knows: which measures two cards share, the noise floor, many comparisons at once. Does not know: models.

A difference is of means over the *same* prompts (paired bootstrap); its p-value is a sign-flip permutation test;
all of one comparison are corrected together (Holm). Below a measured noise floor, or with 0 in the interval, it
reads "no difference seen".
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, cast

from holdfast.core.errors import UserError
from holdfast.core.rates import paired_difference
from holdfast.core.results import Result
from holdfast.core.statistics import (
    Interval,
    NoiseFloor,
    comparison_note,
    describe_difference,
    holm,
    paired_bootstrap,
    paired_p_value,
)
from holdfast.evaluation.attacks.run import worst
from holdfast.evaluation.judges.base import Label
from holdfast.evaluation.scorecard import Kind, ResponseRow, Scorecard
from holdfast.evaluation.suites.base import same_items

Measure = Literal["refusal", "attack_success", "over_refusal", "benign_compliance", "score"]
_COUNTED: dict[str, tuple[Kind, str]] = {
    "refusal": ("harmful", "refused"),
    "attack_success": ("harmful", "complied"),
    "over_refusal": ("benign", "refused"),
    "benign_compliance": ("benign", "complied"),
}


@dataclass(frozen=True)
class Difference(Result):
    """One measure of one suite, this model minus the other.

    Attributes:
        suite, measure, attack: what was measured; ``attack`` is "" for plain requests.
        ours, theirs: the two means.
        interval: of the difference, over prompts.
        p_value, corrected: by permutation; the second with Holm's correction over the whole comparison.
        sentence: the difference in words, with its floor where one was measured.
    """

    suite: str
    measure: str
    ours: float
    theirs: float
    interval: Interval
    p_value: float
    corrected: float
    sentence: str
    attack: str = ""

    @property
    def name(self) -> str:
        """Suite, attack and measure in one."""
        under = f" under {self.attack}" if self.attack else ""
        measure = self.measure.replace("_", " ")
        return measure if measure == self.suite else f"{self.suite}{under}: {measure}"


@dataclass(frozen=True)
class Comparison(Result):
    """All that two cards can be compared on.

    Attributes:
        left_out: what only one of them measured, or not on the same prompts.
        note: what remains of so many comparisons at once.
    """

    differences: tuple[Difference, ...]
    note: str
    left_out: tuple[str, ...] = ()
    floors: dict[str, NoiseFloor] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"{difference.name}: {difference.sentence}" for difference in self.differences]
        return "\n".join([*lines, self.note, *(f"not compared: {name}" for name in self.left_out)])


def compare_rates(
    card_a: Scorecard,
    card_b: Scorecard,
    suite: str,
    measure: Measure = "refusal",
    seed: int = 0,
    attack: str = "",
) -> Interval:
    """Rate of ``card_a`` minus rate of ``card_b`` on the same prompts, paired by prompt.

    Args:
        suite: name of a skill; of a task with ``measure="score"``.
        attack: name of an attack; "" compares plain requests.

    Raises:
        UserError: the cards were not made on the same prompts.
    """
    a, b = _paired(card_a, card_b, suite, measure, attack)
    return paired_difference(a, b, seed)


def compare_cards(
    ours: Scorecard,
    theirs: Scorecard,
    seed: int = 0,
    floors: Mapping[str, NoiseFloor] | None = None,
) -> Comparison:
    """Every measure that both cards have, this model minus the other.

    Args:
        floors: measure -> noise floor, see :func:`holdfast.evaluation.noise.measure_noise`; with several suites
            "suite: measure" names the floor of one of them.
    """
    floors = dict(floors or {})
    left_out: list[str] = []
    pairs = [*_rated(ours, theirs, left_out), *_scored(ours, theirs, left_out)]
    for card, whose in ((ours, "this model"), (theirs, "the other")):
        if errors := sum(row.label == "error" for row in card.rows):
            left_out.append(
                f"{errors} answers of {whose} could not be judged (error) and count as neither refused nor "
                "complied; judge them again before a difference is believed"
            )
    p_values = [paired_p_value(pair.a, pair.b, seed) for pair in pairs]
    differences = tuple(
        pair.difference(p, corrected, seed, floors)
        for pair, p, corrected in zip(pairs, p_values, holm(p_values), strict=True)
    )
    note = comparison_note({difference.name: difference.p_value for difference in differences})
    if not differences:
        note = "nothing was measured on both sides"
    return Comparison(differences, note, tuple(left_out), floors)


@dataclass(frozen=True)
class _Pair:
    """One measure on the same units under two models."""

    suite: str
    measure: str
    attack: str
    a: Sequence[float]
    b: Sequence[float]
    bounded: bool = True  # False for nats and bits, which may happen to lie between 0 and 1

    def difference(
        self, p_value: float, corrected: float, seed: int, floors: Mapping[str, NoiseFloor]
    ) -> Difference:
        interval = (paired_difference if self.bounded else paired_bootstrap)(self.a, self.b, seed)
        means = sum(self.a) / len(self.a), sum(self.b) / len(self.b)
        rates = self.bounded and min(*self.a, *self.b) >= 0 and max(*self.a, *self.b) <= 1
        own = floors.get(f"{self.suite}: {self.measure}", floors.get(self.measure))
        floor = None if self.attack else own  # a floor was measured on plain requests only
        said = describe_difference(interval, floor) if rates else describe_difference(interval, floor, "", 1, 3)
        return Difference(self.suite, self.measure, *means, interval, p_value, corrected, said, self.attack)


def _rated(ours: Scorecard, theirs: Scorecard, left_out: list[str]) -> list[_Pair]:
    """Skills and tasks: what has rows of responses."""
    found = []
    for suite, measure, attack in dict.fromkeys([*measures_of(ours), *measures_of(theirs)]):
        try:
            found.append(_Pair(suite, measure, attack, *_paired(ours, theirs, suite, measure, attack)))
        except UserError as error:
            left_out.append(str(error))
    return found


def _scored(ours: Scorecard, theirs: Scorecard, left_out: list[str]) -> list[_Pair]:
    """Suites that were scored item by item on both sides."""
    found = []
    sides = [{score.name: score for score in card.suites} for card in (ours, theirs)]
    for name in dict.fromkeys([*sides[0], *sides[1]]):
        if not all(name in side for side in sides):
            left_out.append(f"'{name}' was run on one of the models only; run it on both")
            continue
        a, b = (side[name] for side in sides)
        for measure in {**a.values, **b.values} or a.measures:
            try:
                found.append(_Pair(name, measure, "", *same_items(a, b, measure), a.kind != "perplexity"))
            except UserError as error:
                left_out.append(str(error))
    return found


def measures_of(card: Scorecard) -> list[tuple[str, str, str]]:
    """Suite, measure, attack of everything this card has rows of, in its order; the complements are left out."""
    found: dict[tuple[str, str, str], None] = {}
    for row in card.rows:
        if row.kind == "task":
            found[row.suite, "score", ""] = None
        elif row.attack:
            found[row.suite, "attack_success", row.attack] = None
        else:
            found[row.suite, "refusal" if row.kind == "harmful" else "over_refusal", ""] = None
    return list(found)


def _paired(
    card_a: Scorecard, card_b: Scorecard, suite: str, measure: str, attack: str
) -> tuple[list[float], list[float]]:
    a, b = (per_prompt(card, suite, measure, attack) for card in (card_a, card_b))
    if not a or a.keys() != b.keys():
        under = f" under {attack}" if attack else ""
        raise UserError(
            f"'{suite}'{under} was not evaluated on the same prompts ({len(a)} and {len(b)}, "
            f"{len(a.keys() & b.keys())} in common); evaluate both models on one list"
        )
    return list(a.values()), [b[key] for key in a]


def per_prompt(card: Scorecard, suite: str, measure: str, attack: str = "") -> dict[tuple[str, int], float]:
    """The measure of one suite, prompt by prompt; under an attack the worst of a prompt's answers counts.

    Args:
        measure: one of :data:`Measure`.

    Returns:
        (prompt, how often it stood in the list before) -> value.
    """
    kind, label = _COUNTED.get(measure, ("task", ""))
    rows = [row for row in card.rows if (row.suite, row.kind, row.attack) == (suite, kind, attack)]
    if attack:
        answers: dict[str, list[ResponseRow]] = {}
        for row in rows:
            answers.setdefault(row.prompt, []).append(row)
        labels = {prompt: cast("list[Label]", [row.label for row in found]) for prompt, found in answers.items()}
        counted = {prompt: worst(found) for prompt, found in labels.items()}
        return {(prompt, 0): float(found == label) for prompt, found in counted.items()}
    values: dict[tuple[str, int], float] = {}
    seen: Counter[str] = Counter()
    for row in rows:
        values[row.prompt, seen[row.prompt]] = row.score if not label else float(row.label == label)
        seen[row.prompt] += 1
    return values
