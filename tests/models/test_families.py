"""Every family of the zoo answers as transformers does, is scored exactly, trained, and can be restored.

The references share nothing with the package: `generate` of transformers on one prompt, autograd on one sample.
"""

import re

import pytest
import torch

from holdfast.core.errors import UserError
from holdfast.data import Example
from holdfast.evaluation import Reference, drift
from holdfast.gradients import gradient_norms
from holdfast.models import Subject, adapter_off, add_lora, generate, mean_loss, position_limit
from holdfast.models.identity import model_hash
from holdfast.restoration.result import fingerprint
from holdfast.training import GuardedTrainer, cpu_safe_args
from tests.gradients import zoo

FAMILIES = (*zoo.ARCHITECTURES, *zoo.FURTHER)
PROMPTS = [[1, 30, 31, 32], [1, 40], [1, *range(5, 16)], [1, 50, 51]]
EXAMPLES = [
    Example((1, 30, 31), (32, 33, 5, 6, 7, 4), "a"),
    Example((1, 50), (9, 8, 7), "b"),
    Example((1, 12, 13, 14), (20, 21, 4), "c"),
]
# It keeps its state on the module, with a graph: the reference cannot copy it after a forward pass.
NO_COPY = ("recurrent_gemma",)


def by_transformers(model, ids, new):
    read = torch.tensor([ids])
    with torch.no_grad():
        out = model.generate(
            input_ids=read, attention_mask=torch.ones_like(read), max_new_tokens=new, do_sample=False
        )
    return out[0, len(ids) :].tolist()


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_answers_are_those_of_transformers_token_by_token(family):
    model = zoo.build(family, spread=3.0)
    expected = [by_transformers(model, ids, 7) for ids in PROMPTS]
    assert generate(Subject(model), PROMPTS, 7) == expected
    drawn = generate(Subject(model), PROMPTS, 5, temperature=1.0, seed=1)
    assert drawn == generate(Subject(model), PROMPTS, 5, temperature=1.0, seed=1, batch_size=1)


@pytest.mark.parametrize("family", FAMILIES)
def test_scored_trained_measured_and_put_back(family, tmp_path, tiny_tokenizer):
    base = zoo.build(family)
    before = mean_loss(Subject(base), EXAMPLES)
    model = add_lora(base, rank=2)
    subject = Subject(model, tiny_tokenizer)
    zoo.move_adapter(model)
    scope = subject.parameters()
    assert scope and not any(re.search("vision|lm_head", name) for name in scope)
    if family not in NO_COPY:
        wanted, _ = zoo.loop_reference(model, scope, EXAMPLES)
        # Rows together sum in another order, which recurrences and routed experts pass on a little enlarged.
        assert zoo.relative_error(gradient_norms(subject, EXAMPLES).grad_norm, wanted) < 5e-5
    reference = Reference.on(subject, EXAMPLES, source="adapter_off")
    assert reference.source == "adapter_off"
    first, digest = (
        drift(subject, reference).kl_nats,
        fingerprint({n: p.detach().clone() for n, p in scope.items()}),
    )
    args = cpu_safe_args(
        output_dir=str(tmp_path),
        max_steps=2,
        per_device_train_batch_size=2,
        learning_rate=1e-2,
    )
    GuardedTrainer(subject, args, EXAMPLES * 2).train()
    model.eval()
    assert fingerprint(dict(subject.parameters())) != digest
    assert drift(subject, reference).kl_nats != first
    on = model_hash(model)
    with adapter_off(model):
        assert mean_loss(subject, EXAMPLES).nll_N == pytest.approx(before.nll_N, rel=1e-5)
    assert model_hash(model) == on


def test_rows_and_prompts_beyond_learned_positions_are_refused_with_a_count():
    limits = {name: position_limit(zoo.build(name)) for name in ("gpt2", "llama", "mamba", "gemma3_composite")}
    assert limits == {"gpt2": 256, "llama": None, "mamba": None, "gemma3_composite": None}
    subject = Subject(zoo.build("gpt2", n_positions=16))
    assert len(generate(subject, [list(range(5, 17))], 5)[0]) <= 5
    with pytest.raises(UserError, match=r"1 of 2 prompts \(first: prompt 1, 13 tokens\).*16 positions"):
        generate(subject, [[5, 6], list(range(5, 18))], 5)
    long = [Example((5, 6), tuple(range(5, 20)))]
    for work in (mean_loss, gradient_norms):
        with pytest.raises(UserError, match=r"a row of 17 tokens.*16 positions"):
            work(subject, long)
    assert generate(Subject(zoo.build("llama", max_position_embeddings=16)), [list(range(5, 25))], 2)


@pytest.mark.parametrize("family", ["opt", "gptj", "gpt_neo", "biogpt", "codegen"])
def test_other_tables_of_positions_are_found(family):
    import transformers as tf

    small = {"vocab_size": 64, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 12, "rotary_dim": 4}
    model = {
        "opt": lambda: tf.OPTForCausalLM(
            tf.OPTConfig(**small, hidden_size=16, word_embed_proj_dim=16, num_hidden_layers=1, ffn_dim=16,
                         num_attention_heads=2, max_position_embeddings=12)
        ),
        "gptj": lambda: tf.GPTJForCausalLM(tf.GPTJConfig(**small, **sizes)),
        "codegen": lambda: tf.CodeGenForCausalLM(
            tf.CodeGenConfig(**small, **{**sizes, "n_head": 4, "rotary_dim": 2})
        ),
        "gpt_neo": lambda: tf.GPTNeoForCausalLM(
            tf.GPTNeoConfig(**small, hidden_size=16, num_layers=1, num_heads=2, attention_types=[[["global"], 1]],
                            max_position_embeddings=12)
        ),
        "biogpt": lambda: tf.BioGptForCausalLM(
            tf.BioGptConfig(**small, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                            intermediate_size=16, max_position_embeddings=12)
        ),
    }[family]().eval()  # fmt: skip
    assert position_limit(model) == 12
    subject = Subject(model)
    assert generate(subject, [[5] * 8], 5)
    with pytest.raises(UserError, match="12 positions"):
        generate(subject, [[5] * 9], 5)
