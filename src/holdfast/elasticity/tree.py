"""The token-tree laboratory: the theory's own objects, small and exact.

Source: elasticity.md 1.2, 1.3, 1.7. A token tree has one path a string; a leaf's weight is the string's
probability, an inner node's the sum below it. A model is a cut tree; what it learned from several data sets is
their size-weighted mixture; its code is Huffman's. Here the law of inverse proportion is computed, not estimated.

Knows: strings over any alphabet (an edge is a character), weights, codes. Does not know: language models (codec.py
has their code).

Shapes: M leaves. Rates are in bits a string.
"""

import heapq
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_COMPLEX_STEP = 1e-30  # of a derivative without cancellation: Im f(x + ih) / h (Squire and Trapp 1998)


@dataclass(frozen=True)
class TokenTree:
    """Leaf weights by string; they sum to one.

    Raises:
        ValueError: a negative weight, weights that do not sum to one.
    """

    leaves: Mapping[str, float]

    def __post_init__(self) -> None:
        total = math.fsum(self.leaves.values())
        if min(self.leaves.values(), default=-1.0) < 0 or abs(total - 1) > 1e-9:
            raise ValueError(f"leaf weights must be probabilities; they sum to {total:g}")

    @classmethod
    def of(cls, strings: Iterable[str]) -> "TokenTree":
        """The tree of a data set: a string weighs what it is seen."""
        counts = Counter(strings)
        total = sum(counts.values())
        return cls({text: n / total for text, n in counts.items()})

    def weight(self, prefix: str) -> float:
        """Weight of a node: of all strings that begin like this."""
        return math.fsum(p for text, p in self.leaves.items() if text.startswith(prefix))

    def cut(self, depth: int) -> "TokenTree":
        """The tree kept to ``depth``: what lies deeper is one leaf with its ancestor's weight."""
        found: dict[str, float] = {}
        for text, p in self.leaves.items():
            found[text[:depth]] = found.get(text[:depth], 0.0) + p
        return TokenTree(found)

    @property
    def entropy_bits(self) -> float:
        """Bits a string that no code can beat."""
        return ideal_rate_bits(self, self)


def mixture(trees: Sequence[TokenTree], sizes: Sequence[float]) -> TokenTree:
    """The tree of the union of data sets: the size-weighted mean of their weights (1.3)."""
    total = math.fsum(sizes)
    names = sorted({text for tree in trees for text in tree.leaves})
    parts = list(zip(trees, sizes, strict=True))
    return TokenTree({name: math.fsum(n * t.leaves.get(name, 0.0) for t, n in parts) / total for name in names})


def huffman_lengths(weights: Mapping[str, float]) -> dict[str, int]:
    """Bits of each leaf's codeword in a Huffman code; a single leaf needs none."""
    heap: list[tuple[float, int, tuple[str, ...]]] = [
        (p, k, (name,)) for k, (name, p) in enumerate(weights.items())
    ]
    heapq.heapify(heap)
    lengths, made = dict.fromkeys(weights, 0), len(heap)
    while len(heap) > 1:
        (p, _, a), (q, _, b) = heapq.heappop(heap), heapq.heappop(heap)
        for name in a + b:
            lengths[name] += 1
        heapq.heappush(heap, (p + q, made, a + b))
        made += 1
    return lengths


def huffman_rate_bits(data: TokenTree, model: TokenTree) -> float:
    """Mean codeword of ``data`` in the Huffman code of ``model``; infinite where it has no word for a string."""
    lengths = huffman_lengths(model.leaves)
    return math.fsum(p * lengths.get(text, math.inf) for text, p in data.leaves.items() if p > 0)


def ideal_rate_bits(data: TokenTree, model: TokenTree) -> float:
    """Cross-entropy: what an arithmetic code of ``model`` needs for ``data`` (1.4); infinite without mass."""
    told = {text: p for text, p in data.leaves.items() if p > 0}
    if any(model.leaves.get(text, 0.0) == 0 for text in told):
        return math.inf
    return -math.fsum(p * math.log2(model.leaves[text]) for text, p in told.items())


def normalised_rate_bits(rate_bits: float, model: TokenTree) -> float:
    """``rate - log2 M`` (1.3): only differences of it may be compared between models."""
    return rate_bits - math.log2(len(model.leaves))


def pareto_tree(leaves: int, alpha: float, seed: int) -> TokenTree:
    """Random leaf masses with a Pareto tail of exponent ``alpha``, on the binary strings of one length."""
    rng = np.random.default_rng(seed)
    masses = 1 + rng.pareto(alpha, leaves)
    width = max(1, math.ceil(math.log2(leaves)))
    weights = (masses / masses.sum()).tolist()
    return TokenTree({format(k, f"0{width}b"): p for k, p in enumerate(weights)})


def joint_slopes_bits(
    pretrain: TokenTree, alignment: TokenTree, perturbation: TokenTree, k: float, l: float = 0.0
) -> tuple[float, float, float]:
    """d(rate)/dl of each set under the mixture of sizes ``k : 1 : l``, to machine precision (1.7).

    The rate itself is differentiated (by a complex step), so nothing of the law is put in: at ``l = 0`` it says
    that the second is ``-k`` times the first, and ``k dp + da + l dt = 0`` everywhere.

    Raises:
        ValueError: at ``l = 0`` the perturbation has mass where the other two have none: the limit is singular.
    """
    names = sorted({text for tree in (pretrain, alignment, perturbation) for text in tree.leaves})
    p_M, a_M, t_M = (
        np.array([tree.leaves.get(name, 0.0) for name in names]) for tree in (pretrain, alignment, perturbation)
    )
    if l == 0 and (t_M[(k * p_M + a_M) == 0] > 0).any():
        raise ValueError("perturbation: mass where neither other set has any; the law at l = 0 does not apply")
    size = l + 1j * _COMPLEX_STEP
    model_M = (k * p_M + a_M + size * t_M) / (k + 1 + size)

    def slope(data_M: NDArray[np.float64]) -> float:
        seen = data_M > 0
        rate = -(data_M[seen] * np.log(model_M[seen])).sum() / math.log(2)
        return float(rate.imag / _COMPLEX_STEP)

    return slope(p_M), slope(a_M), slope(t_M)


def law_error(pretrain: TokenTree, alignment: TokenTree, perturbation: TokenTree, k: float) -> float:
    """How far the law at the joint optimum is from constant 1: ``|(-da/dl) / (k dp/dl) - 1|``."""
    dp, da, _ = joint_slopes_bits(pretrain, alignment, perturbation, k)
    return abs(-da / (k * dp) - 1)
