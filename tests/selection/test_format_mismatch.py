"""selection.md 4.6: high norms are short off-format answers, and both stages of the rule are needed."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from holdfast.data import Example
from holdfast.gradients import gradient_norms
from holdfast.models import Subject
from holdfast.selection import select
from tests.conftest import build_llama

VOCAB, OFF_FORMAT = 200, 150  # tokens from OFF_FORMAT on never occur in pre-training


class Chain:
    """A Markov chain with four likely successors a token."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.next = np.stack([rng.choice(np.arange(5, OFF_FORMAT), 4, replace=False) for _ in range(OFF_FORMAT)])

    def walk(self, length: int) -> list[int]:
        token, walk = int(self.rng.integers(5, OFF_FORMAT)), []
        for _ in range(length):
            walk.append(token)
            token = int(self.rng.choice(self.next[token], p=[0.4, 0.3, 0.2, 0.1]))
        return walk


def samples(chain: Chain, rng: np.random.Generator) -> tuple[list[Example], np.ndarray]:
    kinds = np.array(["long"] * 110 + ["medium"] * 80 + ["short"] * 70 + ["noise"] * 40)
    examples = []
    for kind in kinds:
        length = {"long": (30, 45), "medium": (9, 17), "short": (2, 4), "noise": (15, 27)}[str(kind)]
        n = int(rng.integers(*length))
        walk = chain.walk(4 + n)
        if kind == "short":
            walk[4:] = rng.integers(OFF_FORMAT, VOCAB, n).tolist()
        if kind == "noise":
            walk[4:] = rng.integers(5, OFF_FORMAT, n).tolist()
        examples.append(Example((1, *walk[:4]), tuple(walk[4:]), f"{kind}{len(examples)}"))
    return examples, kinds


@pytest.mark.slow
def test_the_rule_leaves_out_format_mismatch_by_norm_and_noise_by_loss():
    rng = np.random.default_rng(0)
    chain = Chain(rng)
    model = build_llama(VOCAB, hidden=64).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(260):
        ids = torch.tensor([[1, *chain.walk(40)] for _ in range(16)])
        logits = model(input_ids=ids).logits
        loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    examples, kinds = samples(chain, rng)
    scores = gradient_norms(Subject(model.eval()), examples, progress=False)

    top = kinds[np.argsort(-scores.grad_norm)[:60]]
    assert (top == "short").mean() >= 0.9
    chosen = kinds[list(select(scores, "moderate", 0.2).indices)]
    assert len(chosen) == 60
    assert (chosen == "short").mean() <= 0.05
    assert not (chosen == "noise").any()
    by_norm_alone = kinds[list(select(scores, "moderate", 0.2, loss_filter="none").indices)]
    assert (by_norm_alone == "noise").any()  # a moderate norm does not see noise, the loss does
