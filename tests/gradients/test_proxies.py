"""Proxies are what they say: the norm of a part, of an adapter that was really built, a loss, a length, chance."""

import copy

import numpy as np
import pytest
import torch
from scipy import stats

from holdfast.core.errors import UserError
from holdfast.data import Example, pack
from holdfast.gradients import GhostEngine, gradient_norms
from holdfast.gradients.agreement import ProxyAgreement, overlap, rank_agreement, spearman_interval, top
from holdfast.gradients.blocks import block_linears, head_linears, last_block
from holdfast.gradients.names import block_of
from holdfast.gradients.proxies import ALPHA, PROXIES, RANK, fresh_a, proxy_batch
from holdfast.models import Subject
from tests.gradients.zoo import (
    PAD,
    adapter_names,
    build,
    hooked_state,
    loop_reference,
    padded,
    random_examples,
    relative_error,
    with_lora,
)

TOLERANCE = 1e-5
EXAMPLES = random_examples()
SOFTCAP = {"final_logit_softcapping": 0.5}  # random logits are small: the stock value would be nearly linear
TIED = [("qwen2", True), ("gpt2", True), ("gemma2", True)]
UNTIED = [("llama", False), ("gpt2", False), ("gemma2", False), ("gpt_neox", False), ("mixtral", False)]


def scores(model, proxy, scope="all", **options):
    return gradient_norms(Subject(model, None, scope), EXAMPLES, proxy=proxy, progress=False, **options)


def with_a_head_of_its_own(model):
    """The same function, with a copy of the table as head."""
    model = copy.deepcopy(model)
    head = model.get_output_embeddings()
    head.weight = torch.nn.Parameter(head.weight.detach().clone())
    assert head.weight is not model.get_input_embeddings().weight
    return model


# The output head.


@pytest.mark.parametrize(("name", "tied"), [*TIED, *UNTIED])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_head_is_the_norm_over_the_heads_weight_alone(name, tied, reduction):
    model = build(name, tied=tied, **(SOFTCAP if name == "gemma2" else {}))
    path = next(iter(head_linears(model)))
    expected, losses = loop_reference(with_a_head_of_its_own(model), [f"{path}.weight"], EXAMPLES, reduction)
    table = scores(model, "head", reduction=reduction)
    assert relative_error(table.grad_norm, expected) < TOLERANCE
    if reduction == "mean":
        assert relative_error(table.loss_nats, losses) < TOLERANCE


def test_head_is_the_head_part_of_the_full_score():
    model = build("llama", tied=False)
    squares = GhostEngine(model, dict(model.named_parameters())).norms(padded(EXAMPLES), by_block=True).squares
    assert relative_error(scores(model, "head").grad_norm, squares["lm_head"].sqrt()) < TOLERANCE


def test_softcapping_matters_to_the_test_above():
    capped, plain = build("gemma2", **SOFTCAP), build("gemma2", final_logit_softcapping=None)
    plain.load_state_dict(capped.state_dict())
    assert relative_error(scores(plain, "head").grad_norm, scores(capped, "head").grad_norm) > 1e-2


@pytest.mark.parametrize("tied", [False, True])
def test_head_never_runs_backward_below_the_head(tied):
    model = build("llama", tied=tied)
    seen = []
    model.model.norm.register_forward_hook(lambda _m, _a, output: seen.append(output.requires_grad))
    score = proxy_batch(Subject(model, None, "all"), "head")
    score(padded(EXAMPLES))
    seen.clear()
    score(padded(EXAMPLES))
    assert seen == [False]


def test_head_works_where_the_scope_is_an_adapter_and_the_head_is_frozen():
    bare = build("llama")
    expected = scores(bare, "head").grad_norm
    wrapped = with_lora(copy.deepcopy(bare), trained=False)
    assert relative_error(scores(wrapped, "head", "adapter").grad_norm, expected) < TOLERANCE


def test_a_model_without_a_linear_head_is_named():
    model = build("llama")
    model.lm_head = torch.nn.Identity()
    with pytest.raises(UserError, match="LlamaForCausalLM: no linear output head"):
        scores(model, "head")


# The last block.


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "mixtral"])
def test_last_block_is_the_norm_over_its_parameters(name):
    model = build(name)
    mine = [f"{last_block(model)}.{n}" for n, _ in model.get_submodule(last_block(model)).named_parameters()]
    assert mine
    expected, _ = loop_reference(model, mine, EXAMPLES)
    assert relative_error(scores(model, "last_block").grad_norm, expected) < TOLERANCE


def test_last_block_stays_in_the_scope():
    model = with_lora(build("llama"))
    mine = [name for name in adapter_names(model) if ".layers.1." in name]
    expected, _ = loop_reference(model, mine, EXAMPLES)
    assert relative_error(scores(model, "last_block", "adapter").grad_norm, expected) < TOLERANCE
    with pytest.raises(UserError, match=r"scope '\*embed\*' has no parameter in .*layers\.1"):
        scores(model, "last_block", "*embed*")


def test_the_blocks_are_not_mistaken_for_their_experts():
    expert = [torch.nn.ModuleList([torch.nn.Linear(4, 4) for _ in range(9)]) for _ in range(3)]
    model = torch.nn.ModuleDict({"few": torch.nn.ModuleList([torch.nn.Linear(2, 2)]), "layers": None})
    model["layers"] = torch.nn.ModuleList(expert)
    assert last_block(model) == "layers.2"
    with pytest.raises(UserError, match="Linear: no list of blocks"):
        last_block(torch.nn.Linear(2, 2))


# A fresh adapter.


def with_the_proxys_a(model, seed):
    """A real adapter of PEFT, B = 0, with the A that the proxy draws."""
    targets = sorted({path.rpartition(".")[2] for path in block_linears(model)})
    wrapped = with_lora(copy.deepcopy(model), trained=False, rank=RANK, targets=targets)
    scale = {module.scaling["default"] for module in wrapped.modules() if hasattr(module, "lora_A")}
    assert scale == {ALPHA / RANK}
    layers = 0
    for path, module in wrapped.named_modules():
        if path.endswith("lora_A.default"):
            layer = block_of(path.removesuffix(".lora_A.default"))
            with torch.no_grad():
                module.weight.copy_(fresh_a(layer, module.weight.shape[1], RANK, seed))
            layers += 1
    assert layers == len(block_linears(model)) > 0
    return wrapped


@pytest.mark.parametrize("name", ["llama", "gpt2", "qwen2", "gemma2", "mixtral"])
def test_lora_is_the_norm_of_a_fresh_adapter_that_is_really_built(name):
    model = build(name)
    wrapped = with_the_proxys_a(model, seed=3)
    expected, losses = loop_reference(wrapped, adapter_names(wrapped), EXAMPLES)
    table = scores(model, "lora", seed=3)
    assert relative_error(table.grad_norm, expected) < TOLERANCE
    assert relative_error(table.loss_nats, losses) < TOLERANCE
    assert relative_error(scores(model, "lora", seed=4).grad_norm, expected) > 1e-3


def test_a_is_drawn_as_peft_draws_it():
    """Uniform within ± 1/√I: same bound, same variance, another layer another draw."""
    wrapped = with_lora(build("llama", hidden_size=512, intermediate_size=16), trained=False, rank=8)
    theirs = next(m.weight for path, m in wrapped.named_modules() if path.endswith("q_proj.lora_A.default"))
    ours = fresh_a("model.layers.0.self_attn.q_proj", 512, 8)
    assert ours.shape == theirs.shape
    for a in (ours, theirs):
        assert a.abs().max() <= 512**-0.5
        assert a.abs().max() > 0.99 * 512**-0.5
        assert float(a.detach().var()) == pytest.approx(1 / (3 * 512), rel=0.05)
    assert not torch.equal(ours, fresh_a("model.layers.1.self_attn.q_proj", 512, 8))


def test_lora_ignores_an_adapter_that_is_there():
    bare = build("llama")
    expected = scores(bare, "lora").grad_norm
    assert relative_error(scores(with_lora(bare, trained=False), "lora").grad_norm, expected) < TOLERANCE


def test_lora_reads_a_layer_that_is_called_twice():
    model = build("llama")
    first, second = model.model.layers
    second.mlp = first.mlp
    wrapped = with_the_proxys_a(model, seed=0)
    expected, _ = loop_reference(wrapped, adapter_names(wrapped), EXAMPLES)
    assert relative_error(scores(model, "lora").grad_norm, expected) < TOLERANCE


def test_lora_says_which_layers_it_cannot_read():
    class TimeFirst(torch.nn.Module):
        """Its linear layer sees (time, batch, features)."""

        def __init__(self, linear):
            super().__init__()
            self.linear = linear

        def forward(self, x):
            return self.linear(x.transpose(0, 1)).transpose(0, 1)

    model = build("llama")
    model.model.layers[0].mlp.up_proj = TimeFirst(model.model.layers[0].mlp.up_proj)
    with pytest.warns(UserWarning, match=r"up_proj\.linear \(Linear\) is left out of the proxy, with 0 like it"):
        scores(model, "lora")


# Without gradients.


def test_loss_length_and_chance():
    model = build("llama")
    _, losses = loop_reference(model, ["lm_head.weight"], EXAMPLES)
    assert relative_error(scores(model, "loss").grad_norm, losses) < TOLERANCE
    length = scores(model, "length")
    assert length.grad_norm.tolist() == [1 / example.completion_tokens for example in EXAMPLES]
    assert relative_error(length.loss_nats, losses) < TOLERANCE  # selection filters by them
    one, again, other = (
        scores(model, "random"),
        scores(model, "random", batch_size=2),
        scores(model, "random", seed=1),
    )
    assert one.grad_norm.tolist() == again.grad_norm.tolist() != other.grad_norm.tolist()
    assert len(set(one.grad_norm)) == len(EXAMPLES) and all(0 <= value < 1 for value in one.grad_norm)


# All of them.


@pytest.mark.parametrize("proxy", PROXIES)
def test_a_proxy_leaves_the_model_as_it_was_and_has_no_score_for_an_empty_sample(proxy):
    model = build("qwen2").train()
    before = hooked_state(model)
    examples = [*EXAMPLES[:3], Example((7, 8, 9), (), "empty")]
    table = gradient_norms(Subject(model), examples, proxy=proxy)
    assert table.status == ("ok", "ok", "ok", "no_completion")
    assert np.isnan(table.grad_norm[3])
    assert hooked_state(model) == before
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("proxy", ["lora", "last_block", "head", "loss", "length"])
def test_a_packed_batch_has_the_scores_of_a_padded_one(proxy):
    score = proxy_batch(Subject(build("qwen2"), None, "all"), proxy)
    expected = score(padded(EXAMPLES)).norm_N
    for batch in pack(EXAMPLES, 64, PAD, rows=2):
        assert relative_error(score(batch).norm_N, expected[list(batch.index)]) < TOLERANCE


def test_full_is_the_default_and_unknown_names_are_refused():
    model = build("llama")
    plain = gradient_norms(Subject(model), EXAMPLES, progress=False)
    assert scores(model, "full").grad_norm.tolist() == plain.grad_norm.tolist()
    with pytest.raises(UserError, match="proxy 'guess': unknown; use one of full, lora"):
        scores(model, "guess")
    with pytest.raises(ValueError, match="engine 'loop'"):
        gradient_norms(Subject(model), EXAMPLES, engine="loop", proxy="head")


# Agreement.


def highest_three(_loss_N, norm_N, _tokens_N):
    return np.argsort(-norm_N)[:3].tolist()


def test_agreement_is_that_of_the_two_columns():
    model = build("llama")
    full, length = scores(model, "full"), scores(model, "length")
    found = rank_agreement(Subject(model), EXAMPLES, "length", highest_three)
    assert found.spearman.value == pytest.approx(stats.spearmanr(full.grad_norm, length.grad_norm).statistic)
    assert (found.proxy, found.n) == ("length", len(EXAMPLES))
    both = set(np.argsort(-full.grad_norm)[:3]) & set(np.argsort(-length.grad_norm)[:3])
    assert found.selected_overlap == pytest.approx(len(both) / 3)
    assert found.top20_overlap == float(
        np.argmax(full.grad_norm) == np.argmax(length.grad_norm)
    )  # a fifth of nine
    assert "proxy length against the full norm on 9 of these rows: Spearman 0." in str(found)
    assert ProxyAgreement.from_dict(found.to_dict()) == found


def test_a_column_agrees_with_itself_and_not_with_chance():
    subject = Subject(build("llama"))
    same = rank_agreement(subject, EXAMPLES, "full", highest_three)
    assert (same.spearman.value, same.selected_overlap, same.top20_overlap) == (1.0, 1.0, 1.0)
    chance = rank_agreement(subject, random_examples(30), "random", highest_three)
    assert not chance.spearman.excludes(0.0)


def test_the_sample_is_drawn_by_seed_from_rows_that_have_a_loss(monkeypatch):
    from holdfast.gradients import agreement

    asked, real = [], agreement.gradient_norms
    monkeypatch.setattr(
        agreement,
        "gradient_norms",
        lambda s, rows, *a, **k: (asked.append([r.id for r in rows]), real(s, rows, *a, **k))[1],
    )
    subject = Subject(build("llama"))
    examples = [*[Example((7, 8), (), "empty")] * 20, *EXAMPLES]
    for seed in (0, 0, 1):
        assert rank_agreement(subject, examples, "loss", highest_three, sample=5, seed=seed).n == 5
    full, proxy, again, _, other, _ = asked
    assert full == proxy == again != other
    assert "empty" not in full + other
    with pytest.raises(UserError, match="agreement needs two rows"):
        rank_agreement(subject, examples[:1], "loss", highest_three)


def test_the_interval_is_fishers_with_the_variance_of_bonett_and_wright():
    a, b = np.arange(10.0), np.array([1.0, 0, 2, 3, 5, 4, 7, 6, 9, 8])
    found = spearman_interval(a, b)
    rho = stats.spearmanr(a, b).statistic
    half = 1.959963984540054 * np.sqrt((1 + rho**2 / 2) / 7)
    assert found.value == pytest.approx(rho)
    assert found.low == pytest.approx(np.tanh(np.arctanh(rho) - half))
    assert found.high == pytest.approx(np.tanh(np.arctanh(rho) + half))
    assert (spearman_interval(a, a).low, spearman_interval(a, -a).high) == (1.0, -1.0)
    constant = spearman_interval(a, np.ones(10))
    assert np.isnan(constant.value) and (constant.low, constant.high) == (-1.0, 1.0)


def test_top_and_overlap_by_hand():
    assert top(np.array([3.0, 9, 1, 9, 2])) == [1]
    assert top(np.arange(10.0)) == [9, 8]
    assert overlap([0, 1, 2, 3], [2, 3]) == 0.5
    assert overlap([0], [1]) == 0.0
    assert np.isnan(overlap([], []))


def test_agreement_is_measured_of_the_proxy_with_the_seed_it_was_asked_for():
    model = build("llama")
    full = scores(model, "full").grad_norm
    for seed in (3, 4):
        drawn = scores(model, "random", seed=seed).grad_norm
        found = rank_agreement(Subject(model), EXAMPLES, "random", highest_three, seed=seed, progress=False)
        assert found.spearman.value == pytest.approx(stats.spearmanr(full, drawn).statistic)
