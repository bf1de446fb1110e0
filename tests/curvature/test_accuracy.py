"""Orders of accuracy along a line (restoration.md 4.9): a wrong factor shows as a wrong slope or a wrong limit."""

import pytest
import torch

from holdfast.core import trees
from holdfast.curvature import fisher_quadratic, ggn_operator, hvp
from holdfast.gradients import mean_gradient
from holdfast.models import Subject, batch_logits, mean_loss

from .conftest import build_lora, random_examples


@pytest.fixture(scope="module")
def line():
    """(subject in float64, examples, a unit direction, its parameters)."""
    subject = Subject(build_lora().double())
    rng = torch.Generator().manual_seed(0)
    v = {name: torch.randn(p.shape, generator=rng).double() for name, p in subject.parameters().items()}
    return subject, random_examples(6), trees.scale(v, 1 / trees.norm(v)), subject.parameters()


def along(line, step, of):
    subject, examples, v, parameters = line
    here = trees.clone(parameters)
    trees.assign(parameters, trees.axpy(here, step, v))
    try:
        return of(subject, examples)
    finally:
        trees.assign(parameters, here)


def loss(subject, examples):
    return float(mean_loss(subject, examples).mean_N.mean())


def test_the_linear_prediction_errs_by_the_square_and_the_quadratic_one_by_the_cube(line):
    subject, examples, v, _ = line
    start, slope = loss(subject, examples), trees.dot(mean_gradient(subject, examples), v)
    bend = trees.dot(v, hvp(subject, examples, v))
    linear, quadratic = [], []
    for step in (0.2, 0.1, 0.05):
        change = along(line, step, loss) - start
        linear.append(abs(change - step * slope))
        quadratic.append(abs(change - step * slope - step**2 * bend / 2))
    ratios = [[e[k] / e[k + 1] for k in range(2)] for e in (linear, quadratic)]
    assert ratios[0] == pytest.approx([4, 4], rel=0.15)
    assert ratios[1] == pytest.approx([8, 8], rel=0.2)


def test_the_kl_along_a_line_tends_to_half_of_the_gauss_newton_form(line):
    subject, examples, v, _ = line
    form = trees.dot(v, ggn_operator(subject, examples)(v))
    tokens_N = torch.tensor([max(1, e.completion_tokens) for e in examples]).double()
    assert form == pytest.approx(
        float((torch.as_tensor(fisher_quadratic(subject, examples, v)) / tokens_N).mean())
    )
    before = log_probabilities(subject, examples)
    shares = []
    for step in (0.4, 0.2, 0.1):
        after = along(line, step, log_probabilities)
        kl = [float((p.exp() * (p - q)).sum(-1).mean()) for p, q in zip(before, after, strict=True)]
        shares.append(sum(kl) / len(kl) / (step**2 * form / 2))
    assert abs(shares[-1] - 1) < 0.02 and abs(shares[-1] - 1) < abs(shares[0] - 1)


def log_probabilities(subject, examples):
    """Of each example's completion positions, by a plain forward a row."""
    from holdfast.data import collate

    found = []
    for example in examples:
        with torch.no_grad():
            logits = batch_logits(subject.model, collate([example], 0))[0]
        n = len(example.completion_ids)
        found.append(logits[len(example.prompt_ids) - 1 :][:n].log_softmax(-1))
    return found
