"""RESTA with DARE, Antidote and Safe Delta against their formulas worked out entry by entry."""

import pytest
import torch

from holdfast.core.seeds import generator
from holdfast.data import Example
from holdfast.models import Subject, lora_pairs
from holdfast.restoration.selective import (
    DAMPING,
    antidote,
    dare,
    input_moments,
    kept_and_compensated,
    resta_dare,
    updates,
    weighing,
)

from ..curvature.conftest import build_lora

EXAMPLES = [Example((1, 2, 3), (4, 5), "a"), Example((2, 3, 4, 5, 6), (7,), "b")]


@pytest.fixture
def subject():
    return Subject(build_lora())


def test_dare_keeps_the_mean_and_drops_its_share():
    D = torch.ones(200, 300)
    found = dare(D, 0.75, generator(0, "test"))
    assert set(found.unique().tolist()) == {0.0, 4.0}
    assert float((found == 0).float().mean()) == pytest.approx(0.75, abs=0.01)
    assert float(found.mean()) == pytest.approx(1, abs=0.03)


def test_resta_without_dropping_is_the_tuned_matrix_and_the_direction(subject):
    directions = {name: torch.full_like(W, 0.1) for name, (W, _) in updates(subject).items()}
    for name, found in resta_dare(subject, directions, 0.5, 0.0, 0).items():
        W, D = updates(subject)[name]
        torch.testing.assert_close(found, W + D + 0.05)


def test_moments_are_those_of_the_rows_alone_without_padding(subject):
    name = next(iter(lora_pairs(subject.model)))
    seen = []
    hook = subject.model.get_submodule(name).register_forward_pre_hook(lambda _, given: seen.append(given[0][0]))
    with torch.no_grad():
        for example in EXAMPLES:
            subject.model(input_ids=torch.tensor([[*example.prompt_ids, *example.completion_ids]]))
    hook.remove()
    X = torch.cat(seen)
    torch.testing.assert_close(input_moments(subject, EXAMPLES)[name], X.T @ X / len(X), rtol=1e-4, atol=1e-6)


def test_antidote_sets_the_largest_scores_to_zero_entry_by_entry(subject):
    moments = input_moments(subject, EXAMPLES)
    name, (W, D) = next(iter(updates(subject).items()))
    found = antidote(subject, moments, 0.1)[name]
    scores = sorted(
        (abs(float(W[o, i] + D[o, i])) * float(moments[name][i, i]) ** 0.5, o, i)
        for o in range(W.shape[0])
        for i in range(W.shape[1])
    )
    dropped = {(o, i) for _, o, i in scores[-round(0.1 * W.numel()) :]}
    for o in range(W.shape[0]):
        for i in range(W.shape[1]):
            expected = 0.0 if (o, i) in dropped else float(W[o, i] + D[o, i])
            assert float(found[o, i]) == pytest.approx(expected, abs=1e-7)


def test_safe_delta_keeps_what_costs_least_and_the_rest_moves_the_outputs_back():
    rng = generator(0, "safe delta")
    X, D = (torch.randn(*shape, generator=rng, dtype=torch.float64) for shape in ((40, 6), (3, 6)))
    moment = X.T @ X / len(X)
    H = 2 * moment + DAMPING * 2 * moment.diagonal().mean() * torch.eye(6, dtype=torch.float64)
    found = kept_and_compensated(D, moment, 0.5)
    kept = found == D
    use = {(o, i): float(torch.linalg.inv(H)[i, i]) for o in range(3) for i in range(6)}
    cost = {place: float(D[place]) ** 2 / (2 * use[place]) for place in use}
    assert 0 < kept.sum() < D.numel()
    assert sum(cost[p] for p in use if kept[p]) <= 0.5 * sum(cost.values())
    assert min(use[p] for p in use if kept[p]) >= max(use[p] for p in use if not kept[p])
    for row, mask in zip(found, kept, strict=True):  # at the least cost no other entry has a slope left
        other = row.clone().requires_grad_(True)
        (other @ H @ other / 2).backward()
        assert other.grad is not None and float(other.grad[~mask].abs().max()) < 1e-10
    torch.testing.assert_close(kept_and_compensated(D, moment, 1.0), D)


def test_the_matrices_act_inside_and_are_as_before_afterwards(subject):
    ids = torch.tensor([[1, 2, 3, 4]])
    before = {name: W.clone() for name, (W, _) in updates(subject).items()}
    with torch.no_grad():
        tuned = subject.model(input_ids=ids).logits
        with weighing(subject, {name: W + D for name, (W, D) in updates(subject).items()}):
            torch.testing.assert_close(subject.model(input_ids=ids).logits, tuned, rtol=1e-4, atol=1e-5)
        with weighing(subject, before), torch.no_grad():
            other = subject.model(input_ids=ids).logits
        with subject.model.disable_adapter():
            torch.testing.assert_close(other, subject.model(input_ids=ids).logits, rtol=1e-4, atol=1e-5)
    assert all(torch.equal(W, before[name]) for name, (W, _) in updates(subject).items())
