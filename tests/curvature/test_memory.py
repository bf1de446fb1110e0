"""What fits in one pass decides how long a number takes, not what it is."""

import numpy as np
import pytest
import torch

from holdfast.core import trees
from holdfast.curvature import fisher_bilinear, ggn_operator, hvp, kl_along, path_coefficients
from holdfast.data import batches
from holdfast.gradients import gradient_gram, mean_gradient, memory, per_sample_dots
from holdfast.models import Subject
from holdfast.models import head as head_module

from .conftest import build_lora, random_examples

EXAMPLES = random_examples(11)


def numbers(subject):
    g = mean_gradient(subject, EXAMPLES, "tokens")
    Hg = hvp(subject, EXAMPLES, g, "tokens")
    Cg = ggn_operator(subject, EXAMPLES)(g)
    path = path_coefficients(subject, EXAMPLES, trees.scale(g, -1.0), Hg, step=0.5)
    return [
        *(torch.cat([t.flatten() for t in tree.values()]).double().numpy() for tree in (g, Hg, Cg)),
        fisher_bilinear(subject, EXAMPLES, g, Hg),
        path.c2_N,
        path.c4_N,
        kl_along(subject, EXAMPLES, g, [1.0])[0],
        gradient_gram(subject, EXAMPLES, reduction="sum", null_draws=1).matrix,
        per_sample_dots(subject, EXAMPLES, g),
    ]


def test_nothing_depends_on_how_much_fits(monkeypatch):
    subject, widest = Subject(build_lora()), []
    whole = numbers(subject)
    monkeypatch.setattr(memory, "CPU_BYTES", 1)
    monkeypatch.setattr(head_module, "SLICE_BYTES", 1)
    subject.model.register_forward_pre_hook(
        lambda _m, _a, kwargs: widest.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    for found, expected in zip(numbers(subject), whole, strict=True):
        np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-5 * np.abs(expected).max())
    longest = max(len(example.input_ids) for example in EXAMPLES)
    assert max(widest) <= 2 * longest  # two rows: the trial of the rules


def test_batches_keep_to_both_limits_and_leave_nothing_out():
    found = list(batches(EXAMPLES, 4, 0, max_tokens=20))
    assert sorted(k for batch in found for k in batch.index) == list(range(len(EXAMPLES)))
    assert all(len(b) <= 4 and (len(b) == 1 or b.input_ids_BT.numel() <= 20) for b in found)
    assert any(len(b) < 4 for b in found[:-1])  # the tokens were the limit
    for limit in (10**9, None):
        assert [b.index for b in batches(EXAMPLES, 4, 0, max_tokens=limit)] == [
            b.index for b in batches(EXAMPLES, 4, 0)
        ]
    assert list(batches([], 4, 0)) == []


def test_a_pass_takes_the_share_of_a_step_that_is_asked_for(monkeypatch):
    subject = Subject(build_lora())
    floor = memory.tokens_within(subject, 9, 64, 1.0)
    monkeypatch.setattr(memory, "SMALL_BYTES", 0)
    assert memory.tokens_within(subject, 9, 64, 1.0) == 64 < floor  # what is little anyway is not cut
    assert memory.tokens_within(subject, 9, 1, 1.0) == 9  # a batch holds one row
    wider = memory.tokens_within(subject, 9, 64, 1.25)
    rows = [random_examples(1)[0]]
    step, found = (memory.peak_bytes(subject, rows, k, 1.0) for k in (0, 1))
    weights, a_row = step, found - step
    a_token = a_row / len(rows[0].input_ids)
    assert weights + wider * a_token == pytest.approx(1.25 * (weights + 64 * a_token), rel=0.05)
