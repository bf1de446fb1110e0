"""Balancing changes the coordinates of an adapter and not the function (restoration.md 3.1, 4.8)."""

import pytest
import torch

from holdfast.restoration.balance import balance, gauge_residual

F64 = torch.float64


def test_worked_example_is_balanced_and_has_the_same_product():
    A, B = torch.tensor([[2.0, 0.0]], dtype=F64), torch.tensor([[1.0], [1.0]], dtype=F64)
    A2, B2 = balance(A, B)
    torch.testing.assert_close(B2 @ A2, B @ A, rtol=1e-12, atol=1e-12)
    for form in (A2 @ A2.T, B2.T @ B2):
        torch.testing.assert_close(form, torch.tensor([[2.8284271247]], dtype=F64), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("rank", "inputs", "outputs"), [(4, 9, 7), (8, 5, 6), (4, 9, 2)])
def test_any_adapter_keeps_its_function_and_its_rank(rank, inputs, outputs):
    rng = torch.Generator().manual_seed(1)
    A = torch.randn(rank, inputs, generator=rng, dtype=F64)
    B = torch.randn(outputs, rank, generator=rng, dtype=F64)
    A2, B2 = balance(A, B)
    assert A2.shape == A.shape and B2.shape == B.shape
    torch.testing.assert_close(B2 @ A2, B @ A, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(A2 @ A2.T, B2.T @ B2, rtol=1e-10, atol=1e-10)


def test_every_gauge_of_one_function_is_balanced_to_the_same_adapter():
    rng = torch.Generator().manual_seed(2)
    A, B = torch.randn(3, 9, generator=rng, dtype=F64), torch.randn(7, 3, generator=rng, dtype=F64)
    Q = torch.diag(torch.tensor([5.0, 0.2, 1.0], dtype=F64)) + 0.1
    one, other = balance(A, B), balance(Q @ A, B @ torch.linalg.inv(Q))
    for left, right in zip(one, other, strict=True):
        # singular vectors are unique up to sign
        torch.testing.assert_close(left.abs(), right.abs(), rtol=1e-9, atol=1e-9)


def test_a_fresh_adapter_stays_finite():
    A2, B2 = balance(torch.randn(4, 6), torch.zeros(5, 4))
    assert torch.isfinite(A2).all() and (B2 @ A2).abs().max() == 0


def test_exact_gradients_have_no_gauge_residual():
    rng = torch.Generator().manual_seed(3)
    A = torch.randn(3, 9, generator=rng, dtype=F64, requires_grad=True)
    B = torch.randn(7, 3, generator=rng, dtype=F64, requires_grad=True)
    (torch.tanh(B @ A) ** 3).sum().backward()
    assert gauge_residual(A, B, A.grad, B.grad) < 1e-14
    assert gauge_residual(A, B, A.grad, 2 * B.grad) > 0.1
    a, b = torch.tensor([[2.0]]), torch.tensor([[1.0]])
    assert gauge_residual(a, b, torch.tensor([[1.0]]), torch.tensor([[2.0]])) == 0.0
