"""Solves with a matrix of few rows: ``(sum_i r_i r_i^T + damping I)^-1 b`` in the rows' Gram matrix, exactly.

Source: the Woodbury identity; restoration.md 3.3-3.4 (empirical or sampled Fisher, N examples, N x N to invert).

Knows: rows as trees. Does not know: what they are gradients of.

Shapes: N rows, D parameters.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from holdfast.core import trees
from holdfast.core.trees import Tree


def solve(rows: Sequence[Mapping[str, torch.Tensor]], b: Mapping[str, torch.Tensor], damping: float) -> Tree:
    """``(sum_i r_i r_i^T + damping I)^-1 b``; the Gram matrix is made and inverted in float64.

    Args:
        rows: N trees, each already scaled by the root of its weight.
        damping: > 0.

    Raises:
        ValueError: no damping; the matrix then has no inverse.
    """
    if not damping > 0:
        raise ValueError(
            f"damping {damping}: a matrix of {len(rows)} rows has no inverse without; give one above 0"
        )
    x = trees.clone(b)
    if not rows:
        return trees.scale(x, 1 / damping)
    rows_ND = torch.stack([_flat(row) for row in rows])
    eye_NN = torch.eye(len(rows), dtype=torch.float64)
    gram_NN = (rows_ND @ rows_ND.T + damping * eye_NN).numpy()
    weights_N: NDArray[np.float64] = np.linalg.solve(gram_NN, (rows_ND @ _flat(b)).numpy())
    for row, weight in zip(rows, weights_N, strict=True):
        x = trees.axpy(x, -float(weight), row)
    return trees.scale(x, 1 / damping)


def _flat(tree: Mapping[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([tree[name].detach().flatten().double().cpu() for name in sorted(tree)])
