"""The gauge of a LoRA adapter: many (A, B) are one function; pick the balanced one (restoration.md 3.1).

For any invertible Q, (QA, BQ^-1) is the same model, but damping and Adam see different numbers. Balancing to
A A^T = B^T B makes the repair depend on the function only. Knows adapter matrices; knows nothing of losses.

Shapes: R rank, I inputs, O outputs.
"""

from typing import Any

import torch
from torch import Tensor

from holdfast.models import lora_pairs

BALANCED = 1e-3  # relative imbalance that counts as none: rounding of half-precision matrices


def balance(A_RI: Tensor, B_OR: Tensor) -> tuple[Tensor, Tensor]:
    """Return (A, B) with the same product B A and ``A A^T = B^T B`` (diagonal), computed in float64.

    The rank is kept where singular values are zero: nothing is divided by S.
    """
    Q_A_IR, R_A_RR = torch.linalg.qr(A_RI.double().T)
    Q_B_OR, R_B_RR = torch.linalg.qr(B_OR.double())
    # QR returns min(rank, width) columns, so the product can be smaller than rank x rank: padded back below
    U, S, Vh = torch.linalg.svd(R_B_RR @ R_A_RR.T, full_matrices=False)
    root_S = S.sqrt()
    A = root_S[:, None] * (Vh @ Q_A_IR.T)
    B = (Q_B_OR @ U) * root_S
    rank = A_RI.shape[0]
    A_out, B_out = torch.zeros_like(A_RI), torch.zeros_like(B_OR)
    A_out[: min(rank, A.shape[0])] = A.to(A_RI.dtype)
    B_out[:, : min(rank, B.shape[1])] = B.to(B_OR.dtype)
    return A_out, B_out


def gauge_residual(A_RI: Tensor, B_OR: Tensor, grad_A_RI: Tensor, grad_B_OR: Tensor) -> float:
    """Relative size of ``g_A A^T - B^T g_B``: zero for every exact gradient (3.1)."""
    left = grad_A_RI.double() @ A_RI.double().T
    right = B_OR.double().T @ grad_B_OR.double()
    return ((left - right).norm() / (left.norm() + right.norm()).clamp_min(1e-300)).item()


def imbalance(A_RI: Tensor, B_OR: Tensor) -> float:
    """Relative size of ``A A^T - B^T B``: zero for the balanced adapter of this function."""
    left, right = A_RI.double() @ A_RI.double().T, B_OR.double().T @ B_OR.double()
    return ((left - right).norm() / (left.norm() + right.norm()).clamp_min(1e-300)).item()


@torch.no_grad()
def balance_all(model: Any) -> bool:
    """Balance every layer's pair in place; whether all of them are balanced now, measured on what was written."""
    pairs = lora_pairs(model).values()
    for a_RI, b_OR, _ in pairs:
        for target, value in zip((a_RI, b_OR), balance(a_RI, b_OR), strict=True):
            target.copy_(value)
    return all(imbalance(a_RI, b_OR) < BALANCED for a_RI, b_OR, _ in pairs)
