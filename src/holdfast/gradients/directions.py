"""How rows lie to directions in parameter space: cosines, and the share within a span, from inner products alone.

    step toward d      -⟨g, d⟩ / (|g| |d|)        the cosine of the plain step -g that training on a row makes
    share in a span    cᵀ C⁺ c / |g|²             c_k = ⟨g, s_k⟩ / |s_k|, C their cosines among themselves

g is the gradient of a row's loss; its reduction changes neither. Columns: ``toward_base`` (d leads back to the
base model), ``against_skill`` (d is where the skill's loss grows), ``sensitive_share`` (s_k are Fisher scores).

Knows: the formulas. Does not know: models, where a direction comes from (``selection.directions``).

Shapes: N rows, K directions.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from holdfast.core.trees import Tree, dot, norm

SPAN = "sensitive_share"
_RANK = 1e-6  # eigenvalues of C below this share of the largest are rounding: answers that repeat


@dataclass(frozen=True, eq=False)
class Directions:
    """What every row's gradient is compared with.

    Attributes:
        ways: by column, the direction that a step may go in; none is zero.
        made_of: plain values that the trees are a function of, besides the model: a table that is begun with some
            is not continued with others.
        span: vectors that span the subspace of ``sensitive_share``; none is zero. Empty: no such column.
        notes: what a person should know of them, a line each.
    """

    ways: Mapping[str, Tree]
    made_of: Mapping[str, Any]
    span: tuple[Tree, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def trees(self) -> tuple[Tree, ...]:
        """All K of them, in the order in which :meth:`columns` takes their inner products."""
        return (*self.ways.values(), *self.span)

    def columns(self, dots_NK: NDArray[np.float64], norm_N: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """The columns of some rows, float64, N: cosines from -1 to 1, a share from 0 to 1; 0 for a zero gradient.

        Args:
            dots_NK: inner products of the rows' gradients with :attr:`trees`.
            norm_N: the gradients' norms, of the same reduction.
        """
        safe_N = np.where(norm_N > 0, norm_N, 1.0)
        unit_NK = dots_NK / safe_N[:, None] / self._norm_K
        found = {name: -unit_NK[:, k] for k, name in enumerate(self.ways)}
        if self.span:
            cosine_NS = unit_NK[:, len(self.ways) :]
            found[SPAN] = np.einsum("ns,st,nt->n", cosine_NS, self._inverse_SS, cosine_NS)
        return found

    @cached_property
    def _norm_K(self) -> NDArray[np.float64]:
        return np.array([norm(tree) for tree in self.trees])

    @cached_property
    def _inverse_SS(self) -> NDArray[np.float64]:
        """C⁺: orthonormalises the span without forming an orthonormal basis of the model's size."""
        norm_S = self._norm_K[len(self.ways) :]
        gram_SS = np.array([[dot(a, b) for b in self.span] for a in self.span])
        inverse_SS = np.linalg.pinv(gram_SS / np.outer(norm_S, norm_S), rcond=_RANK, hermitian=True)
        return inverse_SS.astype(np.float64)
