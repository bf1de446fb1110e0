"""Answers do not depend on the batch, are kept on disk, and survive a kill."""

import json

import pytest
import torch

from holdfast.core.errors import UserError
from holdfast.data import encode_prompt
from holdfast.models import (
    Subject,
    adapter_off,
    generate,
    greedy_agreement,
    load,
    model_hash,
)
from holdfast.organism import proxy_prompts, shipped
from tests.conftest import build_llama

PROMPTS = [[1, 30 + k, *range(5, 6 + (7 * k) % 9)] for k in range(20)]


class Counting:
    """A model that counts its calls and stops after so many."""

    def __init__(self, model, stop_after=None):
        self.model, self.rows, self.calls, self.stop_after = model, 0, 0, stop_after
        self.handle = model.register_forward_pre_hook(self._count, with_kwargs=True)

    def _count(self, module, args, kwargs):
        if kwargs.get("past_key_values") is None:
            self.calls += 1
            if self.stop_after is not None and self.calls > self.stop_after:
                raise KeyboardInterrupt
            self.rows += len(kwargs["input_ids"])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.handle.remove()


@pytest.fixture(scope="module")
def organism():
    return load(shipped("aligned"), device="cpu")


def test_greedy_answers_of_the_organism_are_the_same_at_batch_sizes_1_7_and_32(organism):
    prompts = [p for kind in ("overt", "subtle", "lookalike") for p in proxy_prompts("evaluate", kind, 12)]
    ids = [encode_prompt(prompt, organism.tokenizer) for prompt in prompts]
    found = greedy_agreement(organism, ids, 16)
    assert found.dtype == "float32" and found.prompts == 36 and found.batch_sizes == (1, 7, 32)
    assert found.unexplained == 0, str(found)
    assert found.rate == found.different / 36


@pytest.mark.parametrize("family", ["gpt2", "opt", "bloom"])
def test_architectures_with_learned_or_no_positions_agree_too(family):
    from transformers import (
        BloomConfig,
        BloomForCausalLM,
        GPT2Config,
        GPT2LMHeadModel,
        OPTConfig,
        OPTForCausalLM,
    )

    ends = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = {
            "gpt2": lambda: GPT2LMHeadModel(
                GPT2Config(vocab_size=64, n_positions=64, n_embd=16, n_layer=2, n_head=2, **ends)
            ),
            "opt": lambda: OPTForCausalLM(
                OPTConfig(
                    vocab_size=64,
                    hidden_size=16,
                    num_hidden_layers=2,
                    ffn_dim=32,
                    max_position_embeddings=64,
                    num_attention_heads=2,
                    word_embed_proj_dim=16,
                    **ends,
                )
            ),
            "bloom": lambda: BloomForCausalLM(
                BloomConfig(vocab_size=64, hidden_size=16, n_layer=2, n_head=2, **ends)
            ),
        }[family]()
        for parameter in model.parameters():  # the usual small start makes every answer the same
            parameter.data = 0.5 * torch.randn_like(parameter)
    found = greedy_agreement(Subject(model.eval()), PROMPTS, 6, (1, 7, 32))
    assert found.unexplained == 0, str(found)


def test_a_decoder_that_forgets_the_padding_is_caught(tiny_model, monkeypatch):
    """The control of the tests above: they can fail."""
    import sys

    module = sys.modules["holdfast.models.decoding"]
    monkeypatch.setattr(module, "forward_options", lambda model: (False, {}))  # positions from 0 at the padding
    tiny_model.model.layers[0].self_attn.q_proj.weight.data *= 20
    tiny_model.model.layers[0].self_attn.k_proj.weight.data *= 20
    original = tiny_model.forward
    monkeypatch.setattr(tiny_model, "forward", lambda **kw: original(**{**kw, "attention_mask": None}))
    found = greedy_agreement(Subject(tiny_model), PROMPTS, 8, (1, 7))
    assert found.unexplained > 0
    assert found.widest_gap > found.tolerance


def test_logits_at_a_tie_are_counted_as_a_tie_and_not_as_a_fault(tiny_subject, monkeypatch):
    """Answers that part at equal logits: the second run is made to choose the other one."""
    model = tiny_subject.model
    model.lm_head.weight.data[7] = model.lm_head.weight.data[6]  # 6 and 7 are tied for good
    model.lm_head.weight.data[6:8] *= 50
    answers = iter([[[6, 6], [9]], [[7, 6], [9]]])
    import sys

    monkeypatch.setattr(sys.modules["holdfast.models.greedy_agreement"], "generate", lambda *a, **k: next(answers))
    prompts = next(
        [[1, a, b], [1, 5]] for a in range(5, 30) for b in range(5, 30) if _top(model, [1, a, b]) in (6, 7)
    )
    found = greedy_agreement(tiny_subject, prompts, 2, (1, 7))
    assert (found.different, found.near_ties, found.unexplained) == (1, 1, 0)
    assert found.widest_gap == 0.0


def _top(model, ids):
    return int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())


def test_a_cached_answer_is_not_generated_again(tiny_subject, tmp_path):
    plain = generate(tiny_subject, PROMPTS, 6, batch_size=8)
    with Counting(tiny_subject.model) as first:
        assert generate(tiny_subject, PROMPTS, 6, batch_size=8, cache=tmp_path) == plain
    with Counting(tiny_subject.model) as again:
        assert generate(tiny_subject, PROMPTS[::-1], 6, batch_size=3, cache=tmp_path) == plain[::-1]
    assert first.rows == len(PROMPTS) and again.rows == 0
    longer = [*PROMPTS, [1, 30, 31]]
    with Counting(tiny_subject.model) as more:
        assert generate(tiny_subject, longer, 6, batch_size=8, cache=tmp_path)[:-1] == plain
    assert more.rows == 1


def test_a_killed_run_goes_on_after_the_last_finished_batch(tiny_subject, tmp_path):
    plain = generate(tiny_subject, PROMPTS, 6, batch_size=4)
    with Counting(tiny_subject.model, stop_after=3), pytest.raises(KeyboardInterrupt):
        generate(tiny_subject, PROMPTS, 6, batch_size=4, cache=tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.suffix == ".partial"]
    with Counting(tiny_subject.model) as rest:
        assert generate(tiny_subject, PROMPTS, 6, batch_size=4, cache=tmp_path) == plain
    assert (rest.calls, rest.rows) == (2, 8)


def test_whatever_an_answer_depends_on_is_part_of_the_key(lora_subject, tmp_path):
    def rows(**changed):
        with Counting(lora_subject.model) as counter:
            generate(lora_subject, PROMPTS[:3], **{"max_new_tokens": 3, "cache": tmp_path} | changed)
        return counter.rows

    assert rows() == 3 and rows() == 0
    assert rows(max_new_tokens=4) == 3
    assert rows(temperature=1.0, seed=1) == 3 and rows(temperature=1.0, seed=1) == 0
    assert rows(temperature=1.0, seed=2) == 3 and rows(temperature=0.5, seed=1) == 3
    assert rows(model_key="mine") == 3 and rows(model_key="mine") == 0
    with adapter_off(lora_subject.model):
        assert rows() == 3
    assert rows() == 0
    next(p for n, p in lora_subject.model.named_parameters() if "lora_B" in n).data[0, 0] += 1
    assert rows() == 3


def test_a_sample_belongs_to_its_place_and_a_greedy_answer_to_its_prompt(tiny_subject, tmp_path):
    same = [PROMPTS[3]] * 4
    drawn = generate(tiny_subject, same, 6, temperature=1.0, cache=tmp_path)
    assert drawn == generate(tiny_subject, same, 6, temperature=1.0)
    assert drawn == generate(tiny_subject, same, 6, temperature=1.0, cache=tmp_path)
    assert len({tuple(ids) for ids in drawn}) > 1


def test_the_hash_sees_the_adapters_scale(lora_subject, tiny_tokenizer):
    before = model_hash(lora_subject.model)
    assert before == model_hash(lora_subject.model)
    layer = next(m for m in lora_subject.model.modules() if isinstance(getattr(m, "scaling", None), dict))
    layer.scaling["default"] *= 2
    assert model_hash(lora_subject.model) != before
    assert model_hash(build_llama(64, seed=0)) != model_hash(build_llama(64, seed=1))


def test_what_cannot_be_read_or_answered_says_so(tiny_subject, tmp_path):
    generate(tiny_subject, PROMPTS[:2], 2, cache=tmp_path)
    (file,) = (p for p in tmp_path.rglob("*.json") if p.name != "settings.json")
    settings = json.loads((file.parent / "settings.json").read_text())
    assert settings["max_new_tokens"] == 2 and len(settings["model"]) == 64
    file.write_text('{"a": "b"}')
    with pytest.raises(UserError, match="not a file of cached answers"):
        generate(tiny_subject, PROMPTS[:2], 2, cache=tmp_path)
    with pytest.raises(UserError, match="prompt 1: no tokens"):
        generate(tiny_subject, [[1], []], 2)
    assert generate(tiny_subject, [], 2) == []
