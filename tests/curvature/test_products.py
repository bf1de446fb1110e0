"""Curvature products and Fisher forms against materialised Jacobians (geometry.md C9, restoration.md 3.3).

The reference materialises J by `torch.func.jacrev` on a model called by itself, with its own masking.
"""

from typing import Any

import numpy as np
import pytest
import torch
from torch.func import functional_call, jacrev

from holdfast.core import trees
from holdfast.core.errors import UserError
from holdfast.curvature import fisher_bilinear, fisher_pull, fisher_quadratic, hessian_product, hvp
from holdfast.curvature.products import ggn_operator, softmax_hessian_product
from holdfast.gradients import gradient_gram, mean_gradient, per_sample_dots
from holdfast.models import Subject, add_lora, lora_pairs

from .conftest import build_lora, build_model, random_examples


def direction(subject, seed):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(p.shape, generator=generator) for name, p in subject.parameters().items()}


def flat(tree, subject):
    return torch.cat([tree[name].flatten() for name in subject.parameters()]).double()


def jacobians(subject, example):
    """(logits at positions that predict a counted token, their Jacobian (S, V, D))."""
    values = {name: p.detach() for name, p in subject.parameters().items()}
    where = torch.tensor(example.loss_mask)[1:]
    ids = torch.tensor([example.input_ids])

    def logits(point):
        out = functional_call(subject.model, point, (), {"input_ids": ids, "use_cache": False})
        return out.logits[0, :-1][where]

    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        parts = jacrev(logits)(values)
        z_SV = logits(values).detach().double()
    j_SVD = torch.cat([parts[name].detach().flatten(2) for name in subject.parameters()], -1).double()
    return z_SV, j_SVD


def hessian_of_softmax(z_SV):
    p = z_SV.softmax(-1)
    return torch.diag_embed(p) - p[:, :, None] * p[:, None, :]


def test_fisher_form_equals_the_explicit_jacobian(subject, examples):
    v, u = direction(subject, 0), direction(subject, 1)
    expected, mixed = [], []
    for example in examples[:-1]:
        z_SV, j_SVD = jacobians(subject, example)
        h_SVV = hessian_of_softmax(z_SV)
        jv, ju = j_SVD @ flat(v, subject), j_SVD @ flat(u, subject)
        expected.append(torch.einsum("sv,svw,sw->", jv, h_SVV, jv).item())
        mixed.append(torch.einsum("sv,svw,sw->", ju, h_SVV, jv).item())
    form = fisher_quadratic(subject, examples, v, batch_size=2)
    np.testing.assert_allclose(form, [*expected, 0.0], rtol=1e-5)
    bilinear = fisher_bilinear(subject, examples, u, v, batch_size=3)
    np.testing.assert_allclose(bilinear, [*mixed, 0.0], rtol=1e-5, atol=1e-5 * max(expected))


def weights_of(reduction, tokens):
    tokens = np.asarray(tokens, dtype=float)
    if reduction == "mean":
        return 1 / (len(tokens) * np.maximum(tokens, 1))
    return np.full(len(tokens), 1 / len(tokens) if reduction == "sum" else 1 / tokens.sum())


@pytest.mark.parametrize("reduction", ["mean", "sum", "tokens"])
def test_ggn_product_equals_the_explicit_matrix(subject, examples, reduction):
    v = direction(subject, 0)
    weights = weights_of(reduction, [e.completion_tokens for e in examples])
    expected = torch.zeros_like(flat(v, subject))
    for example, weight in zip(examples[:-1], weights, strict=False):
        z_SV, j_SVD = jacobians(subject, example)
        jv = j_SVD @ flat(v, subject)
        pulled = torch.einsum("svw,sw->sv", hessian_of_softmax(z_SV), jv)
        expected += weight * torch.einsum("svd,sv->d", j_SVD, pulled)
    for batch_size in (2, 16):
        product = flat(ggn_operator(subject, examples, reduction, batch_size)(v), subject)
        assert float((product - expected).norm() / expected.norm()) < 1e-5


def test_form_and_product_of_one_pass_equal_the_explicit_jacobian(subject, examples):
    v = direction(subject, 0)
    forms, expected = [], torch.zeros_like(flat(v, subject))
    for example in examples[:-1]:
        z_SV, j_SVD = jacobians(subject, example)
        pulled = torch.einsum("svw,sw->sv", hessian_of_softmax(z_SV), j_SVD @ flat(v, subject))
        forms.append(torch.einsum("sv,sv->", j_SVD @ flat(v, subject), pulled).item())
        expected += torch.einsum("svd,sv->d", j_SVD, pulled) / len(examples)
    for most in (None, 20, 1):  # all rows at once, some, each alone
        form, product = fisher_pull(subject, examples, v, most)
        np.testing.assert_allclose(form, [*forms, 0.0], rtol=1e-5)
        assert float((flat(product, subject) - expected).norm() / expected.norm()) < 1e-5


def test_the_unit_sequence_fisher_is_the_ggn_of_the_summed_loss(subject, examples):
    v = direction(subject, 2)
    form = fisher_quadratic(subject, examples, v).mean()
    assert trees.dot(v, ggn_operator(subject, examples, "sum")(v)) == pytest.approx(form, rel=1e-5)


def test_ggn_is_symmetric_positive_damped_and_repeatable(subject, examples):
    u, v = direction(subject, 3), direction(subject, 4)
    operator = ggn_operator(subject, examples, batch_size=2)
    c_u, c_v = operator(u), operator(v)
    scale = (trees.dot(u, c_u) * trees.dot(v, c_v)) ** 0.5
    assert abs(trees.dot(u, c_v) - trees.dot(v, c_u)) < 1e-5 * scale
    assert trees.dot(v, c_v) > 0
    assert all(torch.equal(c_v[name], again) for name, again in operator(v).items())
    damped = ggn_operator(subject, examples, batch_size=2, damping=0.5)(v)
    assert trees.norm(trees.subtract(damped, trees.axpy(c_v, 0.5, v))) < 1e-5 * trees.norm(damped)


def test_masked_positions_contribute_exactly_nothing():
    z, dz = torch.randn(2, 3, 5), torch.randn(2, 3, 5)
    weights = torch.tensor([[0.0, 1.0, 0.5], [0.0, 0.0, 2.0]])
    poisoned = dz.clone()
    poisoned[weights == 0] = float("nan")
    out = softmax_hessian_product(z, poisoned, weights)
    assert bool(torch.isfinite(out).all())
    assert not bool(out[weights == 0].any())


@pytest.mark.parametrize("reduction", ["mean", "tokens"])
def test_hvp_equals_double_backward_and_finite_differences(subject, examples, reduction):
    v = direction(subject, 5)
    product = flat(hvp(subject, examples, v, reduction, batch_size=2), subject)

    leaves = {n: p.detach().clone().requires_grad_() for n, p in subject.parameters().items()}
    weights = weights_of(reduction, [e.completion_tokens for e in examples])
    loss = torch.zeros(())
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        for example, weight in zip(examples[:-1], weights, strict=False):
            ids = torch.tensor([example.input_ids])
            out = functional_call(subject.model, leaves, (), {"input_ids": ids, "use_cache": False}).logits[0]
            nll_S = torch.nn.functional.cross_entropy(out[:-1], ids[0, 1:], reduction="none")
            loss = loss + weight * nll_S[torch.tensor(example.loss_mask)[1:]].sum()
        first = torch.autograd.grad(loss, list(leaves.values()), create_graph=True)
        along = torch.stack([(g * v[n]).sum() for n, g in zip(leaves, first, strict=True)]).sum()
        second = torch.autograd.grad(along, list(leaves.values()))
    expected = torch.cat([piece.flatten() for piece in second]).double()
    assert float((product - expected).norm() / expected.norm()) < 1e-5

    step = 1e-2 / trees.norm(v)
    values = {n: p.detach().clone() for n, p in subject.parameters().items()}
    ends = []
    for sign in (1.0, -1.0):
        trees.assign(subject.parameters(), trees.axpy(values, sign * step, v))
        ends.append(flat(mean_gradient(subject, examples, reduction), subject))
    trees.assign(subject.parameters(), values)
    differences = (ends[0] - ends[1]) / (2 * step)
    assert float((differences - product).norm() / product.norm()) < 2e-3


def test_top_k_forms_by_gram_equal_those_by_explicit_eigenvectors(subject, examples):
    """geometry.md 3.1 fact 2 and C9."""
    rows_ND = torch.stack([-flat(mean_gradient(subject, [example], "sum"), subject) for example in examples[:-1]])
    n, k = len(rows_ND), 2
    w = direction(subject, 6)
    _, s, vt = torch.linalg.svd(rows_ND, full_matrices=False)
    matrix = gradient_gram(subject, examples[:-1], reduction="sum").matrix
    np.testing.assert_allclose(np.linalg.eigvalsh(matrix)[::-1], (s**2).numpy(), rtol=1e-4, atol=1e-6)
    eigenvalues, u = np.linalg.eigh(matrix)
    r = -per_sample_dots(subject, examples[:-1], w, "sum")
    c = u[:, ::-1][:, :k].T @ r
    along = vt[:k] @ flat(w, subject)
    assert (c**2).sum() / n == pytest.approx(float((s[:k] ** 2 * along**2).sum() / n), rel=1e-4)
    assert (c**2 / eigenvalues[::-1][:k]).sum() == pytest.approx(float((along**2).sum()), rel=1e-4)


def test_the_ggn_annihilates_the_gauge_of_lora(examples):
    """(X A, -B X) moves no weight (restoration.md 3.1)."""
    lora_subject = Subject(build_lora())
    parameters = lora_subject.parameters()
    gauge = {}
    for name, value in parameters.items():
        if ".lora_A." in name:
            x = torch.randn(value.shape[0], value.shape[0], generator=torch.Generator().manual_seed(0))
            other = name.replace(".lora_A.", ".lora_B.")
            gauge[name] = x @ value.detach()
            gauge[other] = -parameters[other].detach() @ x
    image = ggn_operator(lora_subject, examples)(gauge)
    ordinary = ggn_operator(lora_subject, examples)(direction(lora_subject, 7))
    assert trees.norm(image) < 1e-5 * trees.norm(ordinary)


def test_half_precision_is_refused_and_the_model_is_left_alone(subject, examples):
    for parameter in subject.parameters().values():
        parameter.grad = None
    state = torch.get_rng_state()
    subject.model.train()
    hvp(subject, examples, direction(subject, 8))
    fisher_quadratic(subject, examples, direction(subject, 8))
    assert subject.model.training
    assert torch.equal(state, torch.get_rng_state())
    assert all(parameter.grad is None for parameter in subject.parameters().values())
    subject.model.to(torch.bfloat16)
    with pytest.raises(UserError, match="float32"):
        fisher_quadratic(subject, examples, direction(subject, 8))


def test_gradient_checkpointing_changes_no_product_and_stays_on(examples):
    model = build_lora()
    subject = Subject(model, None, "adapter")
    towards = direction(subject, 5)
    wanted = hvp(subject, examples, towards)
    model.gradient_checkpointing_enable({"use_reentrant": True})
    model.enable_input_require_grads()
    model.train()
    found = hvp(subject, examples, towards)
    assert all(torch.allclose(found[name], wanted[name], rtol=1e-4, atol=1e-6) for name in wanted)
    assert model.get_input_embeddings()(torch.tensor([[1]])).requires_grad  # as it came
    assert model.training


def test_a_direction_over_another_scope_is_refused(subject, examples):
    v = direction(subject, 9)
    v.pop(next(iter(v)))
    with pytest.raises(ValueError, match="different names"):
        ggn_operator(subject, examples)(v)


@pytest.mark.parametrize("family", ["gpt2", "qwen2 tied"])
def test_other_architectures_have_the_same_forms(family, examples):
    """Forward mode through Conv1D, LayerNorm, biases and a tied head, against differences of logits."""
    from transformers import GPT2Config, GPT2LMHeadModel, Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    model: Any
    if family == "gpt2":
        model = GPT2LMHeadModel(GPT2Config(vocab_size=24, n_embd=16, n_layer=2, n_head=4, n_positions=32))
    else:
        config = Qwen2Config(vocab_size=24, hidden_size=16, intermediate_size=24, num_hidden_layers=2)
        config.num_attention_heads, config.num_key_value_heads, config.tie_word_embeddings = 4, 2, True
        model = Qwen2ForCausalLM(config)
    subject = Subject(model.double().eval())
    v = {n: t.double() for n, t in direction(subject, 0).items()}
    step = 1e-3 / trees.norm(v)
    values = {n: p.detach().clone() for n, p in subject.parameters().items()}
    expected = []
    for example in examples[:-1]:
        ends = []
        for t in (step, -step, 0.0):
            trees.assign(subject.parameters(), trees.axpy(values, t, v))
            with torch.no_grad():
                z = model(input_ids=torch.tensor([example.input_ids]), use_cache=False).logits[0, :-1]
            ends.append(z[torch.tensor(example.loss_mask)[1:]])
        change_SV = (ends[0] - ends[1]) / (2 * step)
        pulled_SV = torch.einsum("svw,sw->sv", hessian_of_softmax(ends[2]), change_SV)
        expected.append(float((change_SV * pulled_SV).sum()))
    np.testing.assert_allclose(fisher_quadratic(subject, examples, v), [*expected, 0.0], rtol=2e-3)
    assert trees.dot(v, ggn_operator(subject, examples, "sum")(v)) == pytest.approx(
        sum(expected) / len(examples), rel=2e-3
    )


class _NoSecondDerivative(torch.autograd.Function):
    """A kernel like the fused ones: a backward of its own, no forward mode, nothing behind its backward."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, given):
        (x,) = ctx.saved_tensors
        s = torch.sigmoid(x)
        return given * (s + x * s * (1 - s))


def test_differences_stand_in_where_a_kernel_has_no_second_derivative(examples, monkeypatch, caplog):
    subject = Subject(build_model(), None, "*layers.1.self_attn.*,*mlp.down_proj*")
    v = direction(subject, 5)
    exact, form = hvp(subject, examples, v, "tokens"), fisher_quadratic(subject, examples, v)
    assert hessian_product(subject, examples, v, "tokens").displacement == 0.0
    for layer in subject.model.model.layers:
        monkeypatch.setattr(layer.mlp.act_fn, "forward", _NoSecondDerivative.apply)
    with pytest.raises(RuntimeError):
        hvp(subject, examples, v, "tokens")
    caplog.set_level("INFO")
    found = hessian_product(subject, examples, v, "tokens")
    assert found.displacement > 0 and found.spread < 0.02
    assert trees.norm(trees.subtract(found.product, exact)) < 5e-3 * trees.norm(exact)
    np.testing.assert_allclose(fisher_quadratic(subject, examples, v), form, rtol=1e-2)
    assert caplog.text.count("no exact second derivatives here") == 2


def test_the_second_order_path_of_a_fresh_lora_is_that_of_its_merged_weights():
    """C11: W' = -s^2 G A^T A and W'' = s^4 Hess[G A^T A] A^T A, by the adapter's own g and H g."""
    examples = random_examples(4)
    model = add_lora(build_model(), rank=2, alpha=4, seed=0)
    adapter, pairs = Subject(model), lora_pairs(model)
    g = mean_gradient(adapter, examples, "tokens")
    Hg = hvp(adapter, examples, g, "tokens")
    names = {key.removeprefix("base_model.model."): key for key in pairs}
    weights = Subject(build_model(), None, ",".join(f"{name}.weight" for name in names))
    G = mean_gradient(weights, examples, "tokens")
    inner = {name: (pairs[key][0].mT @ pairs[key][0]).detach() for name, key in names.items()}
    through = {f"{name}.weight": G[f"{name}.weight"] @ a for name, a in inner.items()}
    bent = hvp(weights, examples, through, "tokens")
    for name, key in names.items():
        a, _, s = pairs[key]
        b_dot, b_ddot = -g[f"{key}.lora_B.default.weight"], Hg[f"{key}.lora_B.default.weight"]
        assert s == 2.0 and not g[f"{key}.lora_A.default.weight"].any()
        torch.testing.assert_close(s * b_dot @ a, -(s**2) * through[f"{name}.weight"], rtol=1e-3, atol=1e-6)
        expected = s**4 * bent[f"{name}.weight"] @ inner[name]
        torch.testing.assert_close(s * b_ddot @ a, expected, rtol=5e-3, atol=1e-4 * float(expected.abs().max()))


def test_the_remainder_of_that_path_is_cubic_in_time():
    """C11 with a quadratic loss on 4 x 5 weights, r = 2, s = 1.7: the error over t^3 tends to a constant."""
    rng = np.random.default_rng(0)
    root = rng.standard_normal((20, 20))
    hessian, linear, s = root @ root.T / 4, rng.standard_normal(20), 1.7
    a0 = rng.standard_normal((2, 5))

    def gradient(w):
        return (hessian @ w.ravel() + linear).reshape(4, 5)

    def velocity(a, b):
        g = gradient(s * b @ a)
        return -s * b.T @ g, -s * g @ a.T

    def flow(t, steps=60):
        a, b, h = a0.copy(), np.zeros((4, 2)), t / steps
        for _ in range(steps):
            k1 = velocity(a, b)
            k2 = velocity(a + h / 2 * k1[0], b + h / 2 * k1[1])
            k3 = velocity(a + h / 2 * k2[0], b + h / 2 * k2[1])
            k4 = velocity(a + h * k3[0], b + h * k3[1])
            a = a + h / 6 * (k1[0] + 2 * k2[0] + 2 * k3[0] + k4[0])
            b = b + h / 6 * (k1[1] + 2 * k2[1] + 2 * k3[1] + k4[1])
        return s * b @ a

    g, inner = gradient(np.zeros((4, 5))), a0.T @ a0
    first, second = -(s**2) * g @ inner, s**4 * (hessian @ (g @ inner).ravel()).reshape(4, 5) @ inner
    errors = [
        float(np.linalg.norm(flow(t) - t * first - t * t / 2 * second)) / t**3 for t in (0.004, 0.002, 0.001)
    ]
    assert errors[2] > 0
    assert abs(errors[2] / errors[1] - 1) < 0.7 * abs(errors[1] / errors[0] - 1) < 0.3
