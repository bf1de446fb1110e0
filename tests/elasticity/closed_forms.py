"""Closed forms of the elasticity law for models small enough to write down (elasticity.md 1.7, 1.8).

Knows probability vectors and tables; knows nothing of language models. These are the numbers that the
measuring code is held against: on a real model the law is tested, never assumed, and signs are reported,
never asserted.

Shapes: X symbols (or leaves), S states of a chain. Rates are in bits a symbol.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]


def cross_entropy_bits(p_X: Vector, q_X: Vector) -> float:
    """``-sum_x p log2 q``, the code length of data from p under a model q; infinite where q misses p."""
    covered = p_X > 0
    with np.errstate(divide="ignore"):
        return float(-(p_X[covered] * np.log2(q_X[covered])).sum())


def joint_model(sets: Sequence[Vector], sizes: Sequence[float]) -> Vector:
    """The unrestricted model trained on all sets together: their size-weighted mixture (1.3)."""
    weights = np.asarray(sizes, dtype=np.float64)
    return np.asarray((weights[:, None] * np.stack(list(sets))).sum(0) / weights.sum())


def rate_slopes_bits(
    pretrain_X: Vector, alignment_X: Vector, perturbation_X: Vector, k: float, l: float
) -> tuple[float, float, float]:
    """Exact d(rate)/dl of (pretrain, alignment, perturbation) at the joint optimum of sizes k : 1 : l (1.7).

    They obey ``k dp + da + l dt = 0`` for every l, so at l = 0 alignment moves -k times pretraining.
    """
    mixture_X = k * pretrain_X + alignment_X + l * perturbation_X

    def slope(p_X: Vector) -> float:
        seen = p_X * perturbation_X > 0
        with np.errstate(divide="ignore"):  # at l = 0 uncovered support is singular: the slope is -inf
            overlap = float((p_X[seen] * perturbation_X[seen] / mixture_X[seen]).sum())
        return (1 / (k + 1 + l) - overlap) / math.log(2)

    return slope(pretrain_X), slope(alignment_X), slope(perturbation_X)


def sequential_slopes_bits(
    pretrain_X: Vector, alignment_X: Vector, perturbation_X: Vector, progress: float
) -> tuple[float, float]:
    """d(rate)/d(step) of (pretrain, alignment) as ``q = (1-progress) P_p + progress P_a`` moves to P_t (1.8).

    Their negative ratio is the effective stiffness (1-progress)/progress, whatever the data sizes were.
    """
    q_X = (1 - progress) * pretrain_X + progress * alignment_X

    def slope(p_X: Vector) -> float:
        seen = p_X * perturbation_X > 0
        with np.errstate(divide="ignore"):
            return (1 - float((p_X[seen] * perturbation_X[seen] / q_X[seen]).sum())) / math.log(2)

    return slope(pretrain_X), slope(alignment_X)


def markov_kl_bits(
    start_p_S: Vector, table_p_SS: Vector, start_q_S: Vector, table_q_SS: Vector, length: int
) -> float:
    """KL over whole strings of ``length`` symbols of two Markov chains, by the chain rule (T6).

    Every row's KL is weighted by p's own visits: averaging over the other chain's prefixes is another number.
    """
    visits_S = np.asarray(start_p_S, dtype=np.float64)
    total = cross_entropy_bits(visits_S, start_q_S) - cross_entropy_bits(visits_S, visits_S)
    tables = zip(table_p_SS, table_q_SS, strict=True)
    rows = [cross_entropy_bits(p, q) - cross_entropy_bits(p, p) for p, q in tables]
    for _ in range(length - 1):
        total += float(visits_S @ np.asarray(rows))
        visits_S = visits_S @ table_p_SS
    return total


def stationary(table_SS: Vector) -> Vector:
    """Stationary distribution of a Markov table with one."""
    values, vectors = np.linalg.eig(table_SS.T)
    v = np.real(vectors[:, np.argmax(np.real(values))])
    return np.asarray(v / v.sum())


def prequential_bits(symbols: Sequence[int], pseudo_counts_X: Sequence[float]) -> float:
    """Online code length under a Dirichlet learner: every symbol is coded before it is learned (T7)."""
    counts = np.array(pseudo_counts_X, dtype=np.float64)
    bits = 0.0
    for symbol in symbols:
        bits -= math.log2(counts[symbol] / counts.sum())
        counts[symbol] += 1
    return bits


def prequential_bits_closed(counts_X: Sequence[int], pseudo_counts_X: Sequence[float]) -> float:
    """The same length from the counts alone, by gamma functions: the order does not matter (T7)."""
    a, n = [float(x) for x in pseudo_counts_X], [float(x) for x in counts_X]
    nats = math.lgamma(sum(a)) - math.lgamma(sum(a) + sum(n))
    nats += sum(math.lgamma(x + y) - math.lgamma(x) for x, y in zip(a, n, strict=True))
    return -nats / math.log(2)
