"""How many prompts and task rows an audit may have: what it would take, and what of it fits into a time.

Knows: what an audit runs how often, in gradients of a token. Does not know: what it measures.
"""

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from holdfast.core.estimates import fit_words, largest_share, timed
from holdfast.curvature import in_float32
from holdfast.data import Example
from holdfast.evaluation import sample_answers
from holdfast.gradients import mean_gradient
from holdfast.gradients.memory import COPIES, peak_bytes, tokens_within
from holdfast.models import Subject

if TYPE_CHECKING:
    from holdfast.geometry.measure import MeanUpdate

log = logging.getLogger(__name__)
TIMED_ROWS, FEWEST = 4, 8
FEWEST_BATCHES = 4  # of the mean first update: it is stable from four on (notes-forecast.md, cost)
RESIDENT = 300e6  # bytes of a process with torch and transformers, before any model
# In ordinary gradients of the same tokens. Task rows: three passes of gradients, two Hessian products, inner
# products. Completions: Gram matrix, nine forward-mode passes, a Gauss-Newton product, inner products, the path.
Work = tuple[float, float]
FULL: Work = (12.0, 16.0)  # over the task rows, over the completions
LIGHT: Work = (2.6, 2.8)  # without the spectrum, the conditions and the onset
BARE: Work = (1.8, 1.6)  # and without the shares of rows and layers
ANSWERS = 2.0  # likewise, over the completions: sampling and judging them
WITHIN = 1.25  # of a training step's memory, which is what a pass of the forecast may take


def fitted(
    subject: Subject,
    prompts: Sequence[str],
    examples: Sequence[Example],
    max_new_tokens: int,
    minutes: float,
    seed: int,
    say: Callable[[str], None] | None,
    work: Work = FULL,
) -> tuple[int, list[Example]]:
    """Prompts and task examples that an audit gets through within ``minutes`` here; says the estimate and the cut
    (to the log, unless to somebody). A half-precision model is timed widened, as it is audited.

    Returns:
        How many of the prompts, and a seeded choice of the examples, in order.
    """
    asked = list(prompts[:TIMED_ROWS])
    rows = [example for example in examples if example.completion_tokens][:TIMED_ROWS]
    if not asked or not rows:
        return len(prompts), list(examples)  # which the audit refuses in its own words
    answers: list[Example] = []
    with in_float32(subject.model):
        answer = timed(lambda: answers.extend(sample_answers(subject, asked, max_new_tokens, seed=0))) / len(asked)
        gradient = timed(lambda: mean_gradient(subject, rows)) / _tokens(rows)
    length = _tokens(answers) / len(answers)
    task_length = _tokens(examples) / len(examples)

    def sizes(share: float) -> tuple[int, int]:
        m, n = (max(min(n, FEWEST), round(share * n)) for n in (len(prompts), len(examples)))
        return m, n

    def seconds(share: float) -> float:
        m, n = sizes(share)
        reference, task = m * length * work[1], n * task_length * work[0]
        return m * answer + gradient * (reference + task)

    share, memory = largest_share(seconds, 60 * minutes), peak_bytes(subject, examples, 16, COPIES)
    m, n = sizes(share)
    cuts: dict[str, tuple[object, object]] = {"prompts": (len(prompts), m), "task rows": (len(examples), n)}
    for words in fit_words("audit", minutes, seconds, share, memory, cuts):
        (say or log.info)(words)
    kept = sorted(np.random.default_rng([seed, 2]).permutation(len(examples))[:n].tolist())
    return m, [examples[k] for k in kept]


def pass_tokens(
    subject: Subject, examples: Sequence[Example], reference: Sequence[Example], update: "MeanUpdate"
) -> int:
    """Padded tokens of a pass, so that it takes hardly more memory than a step on one of the updates' batches."""
    row, answer = (max(len(example.input_ids) for example in given) for given in (examples, reference))
    return tokens_within(subject, max(row, answer), update.size * row, WITHIN)


def steps_worth(work: Work, prompts: int, answer_tokens: float, rows: int, row_tokens: float, pool: int) -> float:
    """The work of an audit in steps of the run it looks ahead to.

    Args:
        answer_tokens, row_tokens: tokens of a prompt with its answer, and of a row. pool: rows of a step.
    """
    return ((work[1] + ANSWERS) * prompts * answer_tokens + work[0] * rows * row_tokens) / max(
        1.0, pool * row_tokens
    )


def memory_worth(subject: Subject, examples: Sequence[Example], work: Work, pool: int) -> tuple[float, float]:
    """Bytes that an audit takes at most, the weights included, and over a step of the run; from the model's sizes.

    Args:
        pool: rows of a step.
    """
    longest = max((len(example.input_ids) for example in examples), default=1)
    rows = max(1, min(pool, len(examples) // FEWEST_BATCHES))
    step = peak_bytes(subject, examples, rows)
    if work == FULL:
        most = peak_bytes(subject, examples, 16, 2 * COPIES)
    else:
        tokens = tokens_within(subject, longest, rows * longest, WITHIN)
        most = max(step, peak_bytes(subject, examples, tokens // longest))
    return most, (most + RESIDENT) / (step + RESIDENT)


def _tokens(examples: Sequence[Example]) -> int:
    return sum(len(example.input_ids) for example in examples)
