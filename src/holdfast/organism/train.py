"""The plain training loop that makes the organism (and, in its study, fine-tunes it).

Knows: AdamW, warm-up, decay to zero, batches of similar length. Does not know: what the examples teach.

Shapes: B batch, T time, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from random import Random
from typing import TYPE_CHECKING, Any

import torch

from holdfast.core.progress import bar
from holdfast.core.seeds import derive_seed
from holdfast.data import Batch, Example, collate
from holdfast.models.forward import batch_logits, token_nll

if TYPE_CHECKING:
    from torch import nn


def train(
    model: Any,
    examples: Sequence[Example],
    steps: int,
    batch_size: int,
    learning_rate: float,
    pad_id: int,
    seed: int = 0,
    warmup: int = 0,
    decay: bool = True,
    description: str = "training",
) -> float:
    """Minimise the loss per completion token with AdamW (no weight decay, clip 1) over trainable parameters.

    Returns the mean loss of the last tenth of the steps, nats a token. The same seed gives the same weights
    on the same machine at one thread.
    """
    weights: list[nn.Parameter] = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min(1.0, (step + 1) / (warmup + 1)) * ((1 - step / steps) if decay else 1.0),
    )
    losses: list[float] = []
    model.train()
    with bar(description, total=steps) as advance:
        for _, batch in zip(range(steps), _endless(examples, batch_size, pad_id, seed), strict=False):
            nll_BT = token_nll(batch_logits(model, batch), batch)
            loss = nll_BT.sum() / batch.completion_mask_BT[:, 1:].sum()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            schedule.step()
            losses.append(float(loss.detach()))
            advance(1)
    model.eval()
    tail = losses[-max(1, steps // 10) :]
    return sum(tail) / len(tail)


def _endless(examples: Sequence[Example], batch_size: int, pad_id: int, seed: int) -> Iterator[Batch]:
    """Yield shuffled batches for ever; every 8 batches are sorted by length to spend little on padding."""
    rng = Random(derive_seed(seed, "batches"))
    stretch = 8 * batch_size
    while True:
        order = rng.sample(range(len(examples)), len(examples))
        for start in range(0, len(order), stretch):
            chosen = sorted(order[start : start + stretch], key=lambda k: len(examples[k].input_ids))
            cuts = [chosen[i : i + batch_size] for i in range(0, len(chosen), batch_size)]
            rng.shuffle(cuts)
            for cut in cuts:
                if len(cut) == batch_size or len(order) < batch_size:
                    yield collate([examples[k] for k in cut], pad_id)
