"""Scoring a data set: one gradient norm a sample.

Knows: batching by length, progress, putting rows back in order.
Does not know: selection rules, files.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from holdfast.core.progress import bar
from holdfast.data import Example, batches
from holdfast.gradients.per_sample import Engine, Reduction, batch_gradient_norms, samples_at_a_time
from holdfast.gradients.scores import ScoreTable
from holdfast.models import Subject


def gradient_norms(
    subject: Subject,
    examples: Sequence[Example],
    reduction: Reduction = "mean",
    batch_size: int | Literal["auto"] = "auto",
    progress: bool = True,
    engine: Engine = "auto",
) -> ScoreTable:
    """L2 norm of each sample's loss gradient over the subject's scope.

    Args:
        subject: model and scope; nothing about it is changed.
        examples: what to score.
        reduction: "mean" over a sample's completion tokens (the score of selection.md 1.2), or "sum".
        batch_size: samples at a time; "auto" bounds the memory of their gradients.
        progress: show a bar when it takes over two seconds.
        engine: see :func:`holdfast.gradients.per_sample.per_sample_gradients`.

    Returns:
        A table in the order of ``examples``. Samples without completion tokens get NaN and a status.
    """
    parameters = subject.parameters()
    longest = max((len(example.input_ids) for example in examples), default=1)
    rows = samples_at_a_time(parameters, longest) if batch_size == "auto" else batch_size
    norms = np.full(len(examples), np.nan)
    losses = np.full(len(examples), np.nan)
    tokens = np.zeros(len(examples), dtype=np.int64)
    with bar("gradient norms", len(examples), progress) as advance:
        for batch in batches(examples, rows, subject.pad_id):
            index = list(batch.index)
            norm_B, loss_B, tokens_B = batch_gradient_norms(
                subject.model, parameters, batch, reduction, engine, chunk=len(batch)
            )
            norms[index], losses[index], tokens[index] = norm_B.numpy(), loss_B.numpy(), tokens_B.numpy()
            advance(len(batch))
    return ScoreTable(tuple(example.id for example in examples), norms, losses, tokens, reduction)
