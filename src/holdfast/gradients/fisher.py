"""The sampled Fisher matrix F = (1/N) Σ g_i g_iᵀ of N sequences: products, eigenpairs, damped inverse.

Knows: that everything about F follows from inner products of gradients (the N x N Gram matrix) and from weighted
sums of gradients. Does not know: where the completions come from, what the directions mean.

Shapes: N samples, D parameters, K eigenpairs.

unit=sequence: g_i is the gradient of a completion's whole loss ("sum" of its tokens, or their "mean"). With
completions sampled from the model (labels=model) F estimates the Fisher matrix; with given ones (labels=data)
it is the empirical Fisher. The per-token matrix is another one.

With G the (N, D) matrix of gradients and K = G Gᵀ = U diag(s) Uᵀ (geometry.md 3.1, derived):

    eigenvalues  λ_j = s_j / N        eigenvectors  v_j = Gᵀ u_j / √s_j
    F v = Gᵀ (G v) / N               (F + δ I)⁻¹ b = (b - Gᵀ (K + N δ I)⁻¹ G b) / δ

G is never formed: G v and Gᵀ w are one layer-sized product each on what the layers saw (``store``).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from holdfast.core.errors import UserError
from holdfast.core.trees import Tree, axpy, dot, scale
from holdfast.data import Example
from holdfast.gradients.ghost import GhostEngine, Reduction
from holdfast.gradients.gram import Gram, falling_eigenpairs, gram_of
from holdfast.gradients.store import Store
from holdfast.models import Subject

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]

# Directions handled in one go; bounds the memory of eigenvectors under test.
_AT_ONCE = 16


@dataclass(frozen=True, eq=False)
class Eigenpairs:
    """Leading eigenpairs of the sampled Fisher matrix.

    Attributes:
        values: eigenvalues, largest first, float64, K.
        vectors: unit eigenvectors as trees; empty unless asked for.
        residuals: ‖F v - λ v‖ of each pair, measured with the vectors; NaN without them. An eigenpair that is not
            one shows here.
        trace: of F, from the Gram's diagonal.
        missing: trace minus the sum of ALL N eigenvalues; anything but rounding means that one was missed.
    """

    values: Vector
    vectors: tuple[Tree, ...]
    residuals: Vector
    trace: float
    missing: float


@dataclass(frozen=True, eq=False)
class Solution:
    """A damped inverse applied to a vector.

    Attributes:
        vector: x with (F + δ I) x = b.
        residual: ‖(F + δ I) x - b‖ / ‖b‖, measured with a further product.
    """

    vector: Tree
    residual: float


class SampledFisher:
    """F of ``examples`` at the subject's present parameters, unit=sequence.

    The model must not change while this is in use.

    Args:
        subject: model and scope.
        examples: N sequences.
        reduction: of a sequence's loss: "sum" (the Fisher of whole completions) or "mean".
        batch_size: samples per pass.
        budget_bytes: for what the layers saw; beyond it every product runs the model again.

    Raises:
        UserError: no example has a completion token.
    """

    def __init__(
        self,
        subject: Subject,
        examples: Sequence[Example],
        reduction: Reduction = "sum",
        batch_size: int = 16,
        budget_bytes: int = 2 << 30,
    ) -> None:
        if not any(example.completion_tokens for example in examples):
            raise UserError(f"{len(examples)} examples without a completion token; their Fisher matrix is zero")
        self._engine = GhostEngine(subject.model, subject.parameters())
        self._store = Store(self._engine, examples, subject.pad_id, reduction, batch_size, budget_bytes)
        self._ids = tuple(example.id for example in examples)
        self._reduction = reduction
        self._budget = budget_bytes

    @cached_property
    def gram(self) -> Gram:
        """Inner products of the gradients, float64."""
        return gram_of(self._store, self._ids, self._reduction, slice_bytes=min(self._budget, 1 << 25))

    @cached_property
    def _spectrum(self) -> tuple[Vector, Matrix]:
        s_N, u_NN = falling_eigenpairs(self.gram.matrix)
        return s_N.clip(min=0.0), u_NN

    @property
    def samples(self) -> int:
        """N."""
        return len(self._ids)

    @property
    def values(self) -> Vector:
        """All N eigenvalues, largest first (the other D - N are zero)."""
        return self._spectrum[0] / self.samples

    def eigenpairs(self, k: int, vectors: bool = True) -> Eigenpairs:
        """The ``k`` leading eigenpairs.

        Args:
            k: how many; eigenvalues that are zero to rounding have no vector and end the list.
            vectors: also form the vectors (K trees in memory) and measure the residuals.

        Source: geometry.md 3.1 fact 2. Eigenvectors are weighted sums of gradients.
        """
        s_N, u_NN = self._spectrum
        k = min(k, int((s_N > s_N[0] * self.samples * np.finfo(np.float64).eps).sum()))
        trace = float(np.trace(self.gram.matrix)) / self.samples
        missing = trace - float(self.values.sum())
        if not vectors:
            return Eigenpairs(self.values[:k], (), np.full(k, np.nan), trace, missing)
        trees: list[Tree] = []
        residuals: list[float] = []
        for start in range(0, k, _AT_ONCE):
            part = range(start, min(start + _AT_ONCE, k))
            weights_NK = np.stack([u_NN[:, j] / np.sqrt(s_N[j]) for j in part], axis=1)
            found = self._store.combine(weights_NK)
            # F v - λ v = Gᵀ (G v / N - λ w), whose norm the Gram matrix gives.
            off_NK = self._store.dots(found) / self.samples - weights_NK * self.values[list(part)]
            residuals += [float(np.sqrt(max(0.0, off @ self.gram.matrix @ off))) for off in off_NK.T]
            trees += found
        return Eigenpairs(self.values[:k], tuple(trees), np.asarray(residuals), trace, missing)

    def dots(self, directions: Sequence[Mapping[str, torch.Tensor]]) -> Matrix:
        """⟨g_i, v_k⟩: (N, K)."""
        return self._store.dots(directions)

    def product(self, v: Mapping[str, torch.Tensor]) -> Tree:
        """F v. No forward-mode differentiation; fused attention stays on."""
        return self._store.combine(self._store.dots([v]) / self.samples)[0]

    def solve(self, b: Mapping[str, torch.Tensor], damping: float) -> Solution:
        """(F + damping I)⁻¹ b for any positive damping; one eigendecomposition of the Gram serves them all.

        Raises:
            ValueError: damping is not positive.

        Source: engines.md 3, trick 7 (Woodbury).
        """
        if not damping > 0:
            raise ValueError(f"damping {damping}: must be positive (F has rank at most {self.samples})")
        s_N, u_NN = self._spectrum
        dots_N = self._store.dots([b])[:, 0]
        weights_N = u_NN @ ((u_NN.T @ dots_N) / (s_N + self.samples * damping))
        pulled = self._store.combine(weights_N[:, None])[0]
        x = scale(axpy(dict(b), -1.0, pulled), 1.0 / damping)
        return Solution(x, self._residual(b, x, damping))

    def _residual(self, b: Mapping[str, torch.Tensor], x: Tree, damping: float) -> float:
        fx = self.product(x)
        left = {name: fx[name].double() + damping * x[name].double() - b[name].double() for name in x}
        return (dot(left, left) / dot(b, b)) ** 0.5
