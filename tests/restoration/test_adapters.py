"""A repair works on what the adapter trains, whatever that is, or says that it cannot."""

import pytest
import torch

from holdfast.core import trees
from holdfast.core.errors import UserError
from holdfast.models import Subject, adapter_parameters
from holdfast.restoration import restore

from .conftest import ALLOWED, FORBIDDEN, ToySkill, Verdict, prompts, rows_of, small_llama, train
from .test_restore import SMALL


def with_adapter(toy, config, steps=0):
    """The aligned toy with another kind of adapter, drifted by a few steps."""
    from peft import get_peft_model

    tokenizer, base, _, task = toy
    model = small_llama(tokenizer)
    trees.assign(dict(model.named_parameters()), base)
    model.config.tie_word_embeddings = False
    torch.manual_seed(0)
    wrapped = get_peft_model(model, config)
    if steps:
        spoilt = task + rows_of(FORBIDDEN, "* {n}", tokenizer)[: len(task) // 6]
        train(wrapped, spoilt, adapter_parameters(wrapped).values(), steps, 1e-2, 0)
    wrapped.eval()
    return Subject(wrapped, tokenizer), ToySkill(prompts(FORBIDDEN), prompts(ALLOWED)), task


def lora(**options):
    from peft import LoraConfig

    return LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM", **options)


def test_what_is_trained_beside_the_matrices_is_repaired_saved_and_given_back_too(toy, tmp_path):
    from holdfast.models import load_adapter

    subject, skill, task = with_adapter(toy, lora(modules_to_save=["lm_head"]), steps=50)
    before = trees.clone(adapter_parameters(subject.model))
    assert any("lm_head" in name for name in before)
    result = restore(subject, skill, task, steps=40, learning_rate=5e-3, **SMALL)
    assert set(result.baselines) == {"aligned", "drifted"}  # half of lm_head's own copy is no scaled adapter
    assert result.baselines["aligned"].refusal > 0.9 > 0.5 > result.baselines["drifted"].refusal
    assert result.status in ("restored", "partially_restored", "undecided"), result.reason
    for name, parameter in adapter_parameters(subject.model).items():
        assert torch.equal(parameter, before[name]), name
    result.save(tmp_path / "repaired")
    moved = result.apply(subject)
    head = next(p for name, p in adapter_parameters(subject.model).items() if "lm_head" in name)
    assert not torch.equal(head, before[next(n for n in before if "lm_head" in n)])
    fresh = small_llama(toy[0])
    trees.assign(dict(fresh.named_parameters()), toy[1])
    loaded = load_adapter(fresh, tmp_path / "repaired")
    ids = torch.tensor([[3, 9, 14, 7]])
    torch.testing.assert_close(loaded(ids).logits, moved.model(ids).logits, rtol=1e-4, atol=1e-4)
    with pytest.raises(UserError, match=r"curvature.*lm_head.*use 'replay'"):
        restore(subject, skill, task, method="curvature", **SMALL)


def test_an_adapter_without_low_rank_factors_is_accepted(toy):
    from peft import IA3Config

    config = IA3Config(task_type="CAUSAL_LM", target_modules=["v_proj"], feedforward_modules=[])
    subject, skill, task = with_adapter(toy, config)
    refuses = {**SMALL, "judge": lambda p, r: Verdict("refused" if p in skill.estimate.harmful else "complied")}
    result = restore(subject, skill, task, **refuses)
    assert result.status == "no_drift" and set(result.decided) == {"aligned", "drifted"}


def test_an_adapter_whose_base_moved_with_it_is_refused(toy):
    subject, skill, task = with_adapter(toy, lora(), steps=5)
    base = next(p for name, p in subject.model.named_parameters() if "embed_tokens" in name)
    base.requires_grad_(True)
    with torch.no_grad():
        base.add_(0.1)
    with pytest.raises(UserError, match="does not leave the aligned model"):
        restore(subject, skill, task, **SMALL)


@pytest.mark.parametrize("family", ["AdaLoraConfig", "IA3Config", "VeraConfig"])
def test_the_method_of_pairs_refuses_an_adapter_without_them(family, toy):
    import peft

    extra = {"AdaLoraConfig": {"total_step": 10}, "IA3Config": {"feedforward_modules": []}}.get(family, {})
    config = getattr(peft, family)(task_type="CAUSAL_LM", target_modules=["v_proj"], **extra)
    subject, skill, task = with_adapter(toy, config)
    with pytest.raises(UserError, match=r"curvature.*this adapter trains .*use 'replay'"):
        restore(subject, skill, task, method="curvature", **SMALL)
