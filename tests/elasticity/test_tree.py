"""The token tree and its codes: elasticity.md T3 and T9, and the law on trees with Pareto leaves."""

import math

import numpy as np
import pytest

from holdfast.elasticity import tree
from tests.elasticity import closed_forms as theory

NAMES = ("0", "10", "110", "111")


def leaves(*weights):
    return tree.TokenTree(dict(zip(NAMES, weights, strict=True)))


DYADIC, MIRROR = leaves(0.5, 0.25, 0.125, 0.125), leaves(0.125, 0.125, 0.25, 0.5)


def test_huffman_reaches_the_entropy_of_dyadic_leaves_and_only_theirs():
    assert tree.huffman_rate_bits(DYADIC, DYADIC) == 1.75 == DYADIC.entropy_bits
    assert tree.normalised_rate_bits(1.75, DYADIC) == -0.25
    other = leaves(0.4, 0.3, 0.2, 0.1)
    assert tree.huffman_rate_bits(other, other) == pytest.approx(1.9)
    assert other.entropy_bits == pytest.approx(1.846439, abs=1e-6)


@pytest.mark.parametrize(("size", "rates"), [(3, (1.806781, 2.202366)), (1000, (1.7500011, 2.6227065))])
def test_the_large_set_keeps_its_rate_and_the_small_one_pays(size, rates):
    model = tree.mixture([DYADIC, MIRROR], [size, 1])
    found = [tree.ideal_rate_bits(data, model) for data in (DYADIC, MIRROR)]
    np.testing.assert_allclose(found, rates, atol=1e-6)


def test_huffman_rates_of_a_mixture():
    model = tree.mixture([DYADIC, MIRROR], [3, 1])
    assert [tree.huffman_rate_bits(data, model) for data in (DYADIC, MIRROR)] == [1.875, 2.25]


@pytest.mark.parametrize("seed", range(3))
def test_a_huffman_code_is_a_prefix_code_within_a_bit_of_the_entropy(seed):
    data = tree.pareto_tree(200, 1.2, seed)
    lengths = tree.huffman_lengths(data.leaves)
    assert sum(2.0**-n for n in lengths.values()) == 1.0  # Kraft with equality
    assert data.entropy_bits <= tree.huffman_rate_bits(data, data) < data.entropy_bits + 1


def test_inner_nodes_and_cuts_are_sums_of_leaves():
    data = tree.TokenTree.of(["00", "01", "01", "1"])
    assert data.leaves == {"00": 0.25, "01": 0.5, "1": 0.25}
    assert (data.weight(""), data.weight("0"), data.weight("01")) == (1.0, 0.75, 0.5)
    assert data.cut(1).leaves == {"0": 0.75, "1": 0.25} and data.cut(5) == data
    assert tree.ideal_rate_bits(data, tree.TokenTree({"1": 1.0})) == math.inf
    with pytest.raises(ValueError, match="sum to"):
        tree.TokenTree({"0": 0.3})


@pytest.mark.parametrize("k", [1, 10, 1000])
@pytest.mark.parametrize("alpha", [1.2, 2.5])
def test_the_law_holds_with_constant_one_on_pareto_leaves(k, alpha):
    trees = [tree.pareto_tree(2000, alpha, seed) for seed in range(3)]
    assert tree.law_error(*trees, k) < 1e-6
    p, a, t = (np.array([t.leaves[name] for name in sorted(t.leaves)]) for t in trees)
    for l in (0.0, 0.3):
        found = tree.joint_slopes_bits(*trees, k, l)
        np.testing.assert_allclose(found, theory.rate_slopes_bits(p, a, t, k, l), rtol=1e-9, atol=1e-15)
        assert abs(k * found[0] + found[1] + l * found[2]) < 1e-12 * k


def test_three_blocks_as_a_tree_and_support_that_nothing_covers():
    whole = tree.TokenTree(dict.fromkeys("abcdef", 1 / 6))
    second, third = (tree.TokenTree(dict.fromkeys(block, 0.5)) for block in ("cd", "ef"))
    for k, l, ratio in ((10, 0, -10), (10, 0.1, -12.875), (100, 0.25, -201.5), (1000, 0.1, -1250.375)):
        dp, da, _ = tree.joint_slopes_bits(whole, second, third, k, l)
        assert da / dp == pytest.approx(ratio, rel=1e-9)
    with pytest.raises(ValueError, match="neither other set"):
        tree.joint_slopes_bits(second, second, third, 10)
