"""Where the alignment sits: the sampled Fisher's spectrum and subspace, all from one n x n Gram matrix.

Knows: eigenvalues, the noise edge, held-out capture, lengths inside the top-d subspace.
Does not know: models, gradients, prompts. Everything here is a function of numbers.

Shapes: N samples, d retained directions.

With scores (gradients of sequence log-probabilities) as rows of G and ``K = G G^T = U diag(s) U^T``:
``lambda_j = s_j / N``, ``v_j = G^T u_j / sqrt(s_j)`` (never formed), and for any direction w with ``r = G w``,
``||F^1/2 P_d w||^2 = ||U_d^T r||^2 / N`` and ``||P_d w||^2 = sum_j (u_j^T r)^2 / s_j``.
Source: geometry.md 3.1 fact 2.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from holdfast.core.results import Result
from holdfast.core.statistics import Interval, bootstrap_mean
from holdfast.gradients.gram import falling_eigenpairs

Array = NDArray[np.float64]
RANKS = (1, 5, 10, 20, 50)
# Eigenvalues below this share of the largest are rounding of the float32 gradients behind the Gram matrix.
ROUNDING = 1e-6


@dataclass(frozen=True, eq=False)
class Subspace:
    """The sampled Fisher of N scores in eigen-coordinates: ``F = sum_j lambda_j v_j v_j^T``.

    Attributes:
        s: eigenvalues of the Gram matrix above rounding, falling.
        u: their eigenvectors in sample space, (N, len(s)).
        n: number of samples.
    """

    s: Array
    u: Array
    n: int

    @classmethod
    def of(cls, matrix: Array) -> "Subspace":
        """Decompose a Gram matrix."""
        s, u = falling_eigenpairs(matrix)
        kept = s > ROUNDING * max(float(s[0]), 0.0) if len(s) else np.zeros(0, dtype=bool)
        return cls(s[kept], u[:, kept], len(matrix))

    @property
    def eigenvalues(self) -> Array:
        """lambda_j, falling."""
        return self.s / self.n

    def coordinates(self, r: Array, d: int | None = None) -> Array:
        """``u_j^T r`` for the first d directions; r holds every score's inner product with one direction."""
        return self.u[:, :d].T @ r

    def euclidean_squared(self, r: Array, d: int | None = None) -> float:
        """``||P_d w||^2`` from ``r = G w``."""
        return float((self.coordinates(r, d) ** 2 / self.s[:d]).sum())

    def fisher_squared(self, r: Array, d: int | None = None) -> float:
        """``||F^1/2 P_d w||^2`` from ``r = G w``."""
        return float((self.coordinates(r, d) ** 2).sum()) / self.n


@dataclass(frozen=True)
class Spectrum(Result):
    """The sampled Fisher's spectrum (unit=sequence, labels=model).

    Attributes:
        eigenvalues: the first 50, falling; nats per squared parameter unit. "Rank at most n" is automatic and is
            no evidence of low rank.
        null_eigenvalues: by rank, the largest that the same scores give once every coordinate's sign is drawn at
            random: what arises without shared directions.
        above_edge: leading directions that answers share: their eigenvalue exceeds the null one of its rank.
        single_answer: leading directions carried by one answer each (over half of the eigenvector). An unlikely
            answer has a huge score and fills the null's first ranks as well, so these are skipped, not counted.
        null_edge: the null eigenvalue at the first rank that is neither.
        largest_share: part of the trace that comes from a single answer. Near 1 the spectrum is that answer's.
        trace: ``E ||score||^2`` with a bootstrap over prompts.
        tail_fraction: share of the trace outside the top d, by d; from the sample itself, so too small.
        heldout_capture: share of the *other* half's trace inside the top d of one half, by d: the honest number.
        n: prompts. tokens: completion tokens in all.
        unit, labels: which Fisher this is.
    """

    eigenvalues: tuple[float, ...]
    null_eigenvalues: tuple[float, ...]
    above_edge: int
    single_answer: int
    null_edge: float
    largest_share: float
    trace: Interval
    tail_fraction: dict[str, float]
    heldout_capture: dict[str, float]
    n: int
    tokens: int
    unit: str = "sequence"
    labels: str = "model"

    @property
    def leading(self) -> int:
        """Ranks before the noise: shared directions and those of single answers."""
        return self.above_edge + self.single_answer


def spectrum_of(
    matrix: Array, nulls: Sequence[Array], tokens: int, seed: int = 0, ranks: Sequence[int] = RANKS
) -> Spectrum:
    """Summarise a Gram matrix of scores and its sign-flipped nulls (geometry.md 3.5)."""
    space = Subspace.of(matrix)
    eigenvalues = space.eigenvalues
    null = np.max([np.linalg.eigvalsh(draw)[::-1] / len(draw) for draw in nulls], axis=0) if nulls else np.zeros(0)
    shared, single = _leading(space, null)
    diagonal = np.diag(matrix)
    total = float(diagonal.mean())
    usable = [d for d in ranks if d <= len(eigenvalues)]
    return Spectrum(
        tuple(eigenvalues[:50].tolist()),
        tuple(null[:50].tolist()),
        shared,
        single,
        float(null[min(shared + single, len(null) - 1)]) if len(null) else float("nan"),
        float(diagonal.max() / diagonal.sum()),
        bootstrap_mean(diagonal.tolist(), seed, 2000),
        {str(d): max(0.0, 1 - float(eigenvalues[:d].sum()) / total) for d in usable},
        {str(d): heldout_capture(matrix, d) for d in ranks if d <= len(matrix) // 2},
        len(matrix),
        tokens,
    )


def _leading(space: Subspace, null: Array) -> tuple[int, int]:
    """(shared, single-answer) directions before the first rank that the null reaches too."""
    shared = single = pending = 0
    for rank in range(min(len(null), len(space.s))):
        if float((space.u[:, rank] ** 2).max()) > 0.5:
            pending += 1
        elif space.eigenvalues[rank] > null[rank]:
            shared, single, pending = shared + 1, single + pending, 0
        else:
            break
    return shared, single  # single answers after the last shared direction are left with the noise


def heldout_capture(matrix: Array, d: int) -> float:
    """Share of one half's trace inside the other half's top d, averaged over both ways round.

    Halves are the even and the odd samples, so keep several samples of one prompt out of the same Gram.
    """
    even, odd = np.arange(0, len(matrix), 2), np.arange(1, len(matrix), 2)
    shares = []
    for fit, held in ((even, odd), (odd, even)):
        space = Subspace.of(matrix[np.ix_(fit, fit)])
        # <v_j, score_b> = (K_bA u_j) / sqrt(s_j)
        along = matrix[np.ix_(held, fit)] @ space.u[:, :d] / np.sqrt(space.s[:d])
        shares.append(float((along**2).sum() / np.diag(matrix)[held].sum()))
    return float(np.mean(shares))
