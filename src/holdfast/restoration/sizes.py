"""How large a repair may be: what it would take at the sizes asked for, and what of them fits into a time.

Knows: what a repair runs how often, seconds of one answer, one loss and one trained row on this machine.
Does not know: what a repair does with them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from holdfast.core.estimates import fit_words, largest_share, timed
from holdfast.data import Example
from holdfast.evaluation import sample_answers
from holdfast.gradients.memory import COPIES, peak_bytes
from holdfast.models import Subject, adapter_parameters, mean_loss
from holdfast.restoration.baselines import ENDS, SCALES
from holdfast.restoration.material import FEWEST_PROMPTS, FEWEST_TASK_EXAMPLES
from holdfast.restoration.replay import add_gradient
from holdfast.restoration.tuning import FEWEST_STEPS, most_checks

TIMED_ROWS = 8
TIMED_PROMPTS = 32  # an answer in a small batch takes several times what it takes in the batches of a repair
# Rows of each set a step. A step of fewer rows is noisier, but sixty of them still repair; fewer steps do not.
FEWEST_ROWS = 2
# A linearisation of curvature, in gradients of its task examples: products of its CG, each about three gradients.
GRADIENTS_A_LINEARISATION = 60


@dataclass(frozen=True)
class Sizes:
    """What :func:`holdfast.restoration.restore` is given: prompts and examples in (fit, validation), steps.

    Attributes:
        batch: rows of each of the three sets in a step.
    """

    prompts: tuple[int, int]
    task_examples: tuple[int, int]
    steps: int
    batch: int = 8

    def within(self, prompts: int, examples: int) -> "Sizes":
        """No larger than what there is."""
        there = [(min(fit, n), min(validation, n // 2)) for (fit, validation), n in
                 ((self.prompts, prompts), (self.task_examples, examples))]  # fmt: skip
        return Sizes(there[0], there[1], self.steps, self.batch)

    def cut(self, share: float, fewest_steps: int) -> "Sizes":
        """A share of everything, but never less than a repair needs."""
        prompts, examples = (
            (max(2 * fewest, round(share * fit)), max(2 * fewest, round(share * validation)))
            for fewest, (fit, validation) in (
                (FEWEST_PROMPTS, self.prompts),
                (FEWEST_TASK_EXAMPLES, self.task_examples),
            )
        )
        steps = max(min(fewest_steps, self.steps), round(share * self.steps))
        return Sizes(prompts, examples, steps, max(min(FEWEST_ROWS, self.batch), round(share * self.batch)))


@dataclass(frozen=True)
class Units:
    """Seconds on this machine: of an answer, of the loss of a row, of a row's gradient."""

    answer: float
    loss: float
    gradient: float


def measure_units(
    subject: Subject, prompts: Sequence[str], task: Sequence[Example] | None, max_new_tokens: int
) -> Units:
    """Time one small batch of each; gradients are dropped. Without task rows the answers stand in for them."""
    asked, rows = list(prompts[:TIMED_PROMPTS]), list(task or ())[:TIMED_ROWS]
    answers: list[Example] = []

    def ask() -> None:
        answers.extend(sample_answers(subject, asked, max_new_tokens, seed=0, temperature=0.0))

    answer = timed(ask)
    rows = rows or answers[:TIMED_ROWS]
    loss = timed(lambda: mean_loss(subject, rows))
    gradient = timed(lambda: add_gradient(subject, rows))
    for parameter in adapter_parameters(subject.model).values():
        parameter.grad = None
    return Units(answer / len(asked), loss / len(rows), gradient / len(rows))


def seconds(sizes: Sizes, units: Units, data: tuple[int, int, int], method: str) -> float:
    """What a repair takes at most.

    Args:
        data: harmful prompts, harmless prompts and task examples there are.
        method: "curvature", whose ``steps`` are linearisations, or another.
    """
    harmful, harmless, examples = data
    (fit_h, check_h), (fit_b, check_b), (fit_t, check_t) = (
        (min(fit, n - min(validation, n // 2)), min(validation, n // 2))
        for n, (fit, validation) in (
            (harmful, sizes.prompts),
            (harmless, sizes.prompts),
            (examples, sizes.task_examples),
        )
    )
    gathered = (fit_h + check_h + fit_b) * units.answer
    check = (check_h + check_b) / 2 * units.answer + (check_t + check_h) / 2 * units.loss
    rows = GRADIENTS_A_LINEARISATION * fit_t if method == "curvature" else 3 * sizes.batch
    checks = most_checks(method, sizes.steps)
    taught = (fit_h + fit_b + fit_t) * units.loss if method in ("settle", "distil") else 0.0
    moved = checks * check + sizes.steps * rows * units.gradient
    return gathered + taught + (len(SCALES) + 2 * len(ENDS) + 2) * check + moved


def fitted(
    subject: Subject,
    estimate: Any,
    task: Sequence[Example] | None,
    sizes: Sizes,
    minutes: float,
    *,
    method: str,
    max_new_tokens: int,
    say: Callable[[str], None],
) -> Sizes:
    """The sizes that end within ``minutes`` here, by a timed first batch; says the estimate and what was cut."""
    data = (len(estimate.harmful), len(estimate.benign), len(estimate.benign if task is None else task))
    if not all(data):
        return sizes  # which the repair refuses in its own words
    sizes = sizes.within(max(data[:2]), data[2])
    units = measure_units(subject, estimate.harmful, task, max_new_tokens)
    fewest = 1 if method == "curvature" else FEWEST_STEPS

    def at(share: float) -> float:
        return seconds(sizes.cut(share, fewest) if share < 1 else sizes, units, data, method)

    memory = peak_bytes(subject, task or (), 3 * sizes.batch, 1.0 if method == "replay" else COPIES)
    share = largest_share(at, 60 * minutes)
    chosen = sizes if share == 1 else sizes.cut(share, fewest)
    cuts: dict[str, tuple[object, object]] = {
        "prompts (fit, checks)": (sizes.prompts, chosen.prompts),
        "task examples (fit, checks)": (sizes.task_examples, chosen.task_examples),
        "steps": (sizes.steps, chosen.steps),
        "rows of each set a step": (sizes.batch, chosen.batch),
    }
    for words in fit_words("restore", minutes, at, share, memory, cuts):
        say(words)
    return chosen
