"""The sampled Fisher matrix against scipy and numpy on matrices written out in full.

Every reference starts from per-sample gradients by plain autograd, one unpadded sample at a time.
Shapes: N samples, D parameters.
"""

import itertools

import numpy as np
import pytest
import scipy.linalg
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from holdfast.core.errors import UserError
from holdfast.data import Example
from holdfast.gradients import SampledFisher
from holdfast.models import Subject
from tests.gradients.zoo import build, random_examples, with_lora

N = 24
VOCAB = 37


def small_model(seed=0):
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=12,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
    )
    return LlamaForCausalLM(config).eval()


def clustered_examples():
    generator = torch.Generator().manual_seed(1)
    rows = torch.randint(0, VOCAB, (N, 14), generator=generator).tolist()
    return [Example(tuple(row[:4]), tuple(row[4:]), str(k)) for k, row in enumerate(rows)]


def decaying_examples():
    """Completions of very different length, many of them alike: a spectrum over orders of magnitude."""
    generator = torch.Generator().manual_seed(2)
    stem = torch.randint(0, VOCAB, (40,), generator=generator).tolist()
    rows = []
    for k in range(N):
        length = max(2, int(36 * 0.87**k))
        row = [*stem[:length]]
        row[k % length] = (row[k % length] + 1 + k) % VOCAB
        rows.append(Example((stem[-1], k % VOCAB), tuple(row), str(k)))
    return rows


def explicit_rows(subject, examples, reduction="sum"):
    parameters = list(subject.parameters().values())
    for parameter in parameters:
        parameter.requires_grad_(True)
    rows = []
    for example in examples:
        ids = torch.tensor([example.input_ids])
        start = len(example.prompt_ids)
        logits_TV = subject.model(input_ids=ids, use_cache=False).logits[0]
        nll = torch.nn.functional.cross_entropy(logits_TV[start - 1 : -1], ids[0, start:], reduction=reduction)
        pieces = torch.autograd.grad(nll, parameters, allow_unused=True, materialize_grads=True)
        rows.append(torch.cat([piece.flatten() for piece in pieces]).double())
    return torch.stack(rows).numpy()


def flat(subject, tree):
    return torch.cat([tree[name].flatten().double() for name in subject.parameters()]).numpy()


def direction(subject, seed=5):
    generator = torch.Generator().manual_seed(seed)
    return {n: torch.randn(p.shape, generator=generator) for n, p in subject.parameters().items()}


@pytest.mark.parametrize("spectrum", ["clustered", "decaying"])
@pytest.mark.parametrize("budget", [2 << 30, 1 << 15], ids=["held", "streamed"])
def test_top_ten_equal_scipy_on_the_matrix_itself(spectrum, budget):
    subject = Subject(small_model())
    examples = clustered_examples() if spectrum == "clustered" else decaying_examples()
    g_ND = explicit_rows(subject, examples)
    f_DD = g_ND.T @ g_ND / N
    d = len(f_DD)
    values, vectors = scipy.linalg.eigh(f_DD, subset_by_index=[d - 12, d - 1])
    values, vectors = values[::-1], vectors[:, ::-1]

    found = SampledFisher(subject, examples, batch_size=8, budget_bytes=budget).eigenpairs(10)
    assert np.abs(found.values - values[:10]).max() <= 1e-6 * values[0]
    assert found.residuals.max() <= 1e-5 * values[0]
    assert abs(found.missing) <= 1e-9 * found.trace
    assert found.trace == pytest.approx(np.trace(f_DD), rel=1e-6)
    ours = np.stack([flat(subject, vector) for vector in found.vectors], axis=1)
    np.testing.assert_allclose(ours.T @ ours, np.eye(10), atol=2e-5)
    gaps = -np.diff(values[:11]) / values[0]
    compared = 0
    for k, gap in enumerate(gaps[:10], start=1):
        if gap > 0.01:  # inside a cluster the vectors are not determined, across a gap the subspace is
            angles = scipy.linalg.subspace_angles(ours[:, :k], vectors[:, :k])
            assert np.sin(angles).max() <= 1e-5 / gap
            compared += 1
    assert compared >= (2 if spectrum == "clustered" else 4)
    if spectrum == "decaying":
        assert values[0] > 20 * values[9]
    else:
        assert values[0] < 6 * values[9]


def test_a_wrong_vector_shows_in_the_residual():
    """The number that is printed beside every pair must be able to accuse one."""
    subject = Subject(small_model())
    fisher = SampledFisher(subject, clustered_examples())
    first = fisher.eigenpairs(1)
    s_N, u_NN = fisher._spectrum
    turned = u_NN.copy()
    turned[:, 0] = (u_NN[:, 0] + u_NN[:, 5]) / np.sqrt(2)
    fisher.__dict__["_spectrum"] = (s_N, turned)
    assert fisher.eigenpairs(1).residuals[0] > 1e3 * first.residuals[0]


@pytest.mark.parametrize("kind", ["llama", "gemma3", "gpt2", "qwen3_moe", "lora", "dora"])
@pytest.mark.parametrize("budget", [2 << 30, 1 << 15], ids=["held", "streamed"])
def test_products_and_damped_inverse(kind, budget):
    model = with_lora(build("llama"), kind, trained=True) if kind in ("lora", "dora") else build(kind)
    subject = Subject(model)
    examples = random_examples(7)
    g_ND = explicit_rows(subject, examples)
    fisher = SampledFisher(subject, examples, batch_size=3, budget_bytes=budget)
    v = direction(subject)
    v_D = flat(subject, v)

    product_D = g_ND.T @ (g_ND @ v_D) / 7
    assert np.linalg.norm(flat(subject, fisher.product(v)) - product_D) <= 1e-5 * np.linalg.norm(product_D)
    np.testing.assert_allclose(fisher.dots([v])[:, 0], g_ND @ v_D, rtol=1e-4, atol=1e-5 * np.abs(g_ND @ v_D).max())
    for share in (1e-3, 0.1, 10.0):
        damping = share * fisher.values[0]
        solution = fisher.solve(v, damping)
        inner = np.linalg.solve(g_ND @ g_ND.T + 7 * damping * np.eye(7), g_ND @ v_D)
        expected = (v_D - g_ND.T @ inner) / damping
        assert np.linalg.norm(flat(subject, solution.vector) - expected) <= 1e-5 * np.linalg.norm(expected)
        x_D = flat(subject, solution.vector)
        left = g_ND.T @ (g_ND @ x_D) / 7 + damping * x_D - v_D
        assert np.linalg.norm(left) <= 1e-5 * np.linalg.norm(v_D)
        # Both residuals rest on float32 gradients, whose rounding the smallest damping makes 1000 times larger.
        assert solution.residual == pytest.approx(np.linalg.norm(left) / np.linalg.norm(v_D), abs=1e-5)


def test_damped_inverse_meets_its_residual_on_a_model_of_ordinary_size():
    subject = Subject(build("llama"))
    fisher = SampledFisher(subject, random_examples(9))
    v = direction(subject)
    for share in (0.01, 0.1, 1.0):
        assert fisher.solve(v, share * fisher.values[0]).residual <= 1e-6


def test_reductions_are_two_matrices():
    subject = Subject(small_model())
    examples = clustered_examples()[:5]
    for reduction in ("sum", "mean"):
        g_ND = explicit_rows(subject, examples, reduction)
        found = SampledFisher(subject, examples, reduction).values
        np.testing.assert_allclose(found, np.linalg.eigvalsh(g_ND @ g_ND.T / 5)[::-1], rtol=1e-4)


def test_repeated_samples_end_the_list_where_eigenvalues_vanish():
    subject = Subject(small_model())
    examples = clustered_examples()[:3]
    fisher = SampledFisher(subject, list(itertools.chain(examples, examples)))
    found = fisher.eigenpairs(6)
    assert len(found.values) <= 6
    assert found.residuals[:3].max() <= 1e-5 * found.values[0]
    assert fisher.values[3:].max() <= 1e-6 * fisher.values[0]


def test_what_cannot_be_answered_is_refused():
    subject = Subject(small_model())
    with pytest.raises(UserError, match="without a completion token"):
        SampledFisher(subject, [Example((1, 2), (), "empty")])
    with pytest.raises(ValueError, match="must be positive"):
        SampledFisher(subject, clustered_examples()[:3]).solve(direction(subject), 0.0)
