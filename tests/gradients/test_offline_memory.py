"""Memory that runs out costs a warning and smaller batches, not the run."""

import json

import numpy as np
import pytest
import torch

from holdfast.core.errors import UserError
from holdfast.data import Example
from holdfast.gradients.memory import MOST_TOKENS_CPU, automatic_max_tokens, is_out_of_memory
from holdfast.gradients.offline import score_examples, score_to_parquet
from holdfast.gradients.offline.shards import PLAN
from holdfast.models import Subject
from tests.conftest import build_llama
from tests.gradients.scoring import OOM, SMALL, VOCAB, Stub, some_examples, stops_after, tiny_subject, too_large


@pytest.fixture(scope="module")
def subject():
    return tiny_subject()


def test_a_budget_of_nothing_is_refused(subject, tmp_path):
    with pytest.raises(UserError, match="max_tokens 0: give at least 1"):
        score_examples(subject, some_examples(2), tmp_path / "w", max_tokens=0)


def test_the_automatic_budget_is_a_property_of_model_and_machine(subject):
    assert automatic_max_tokens(subject, 30) == automatic_max_tokens(subject, 30) == MOST_TOKENS_CPU
    wide = build_llama(VOCAB, hidden=16)
    wide.config.hidden_size, wide.config.num_hidden_layers = 8192, 80
    assert automatic_max_tokens(Subject(wide), 10) == (2 << 30) // (
        4 * 80 * (17 * 8192 + 2.5 * 4 * 10) + 16 * VOCAB
    )
    assert automatic_max_tokens(Subject(wide), 5000) == 5000
    assert automatic_max_tokens(Subject(torch.nn.Linear(2, 2)), 10) == 4096


def test_a_batch_that_does_not_fit_is_halved_and_the_plan_says_so(subject, tmp_path, caplog):
    examples, stub = some_examples(), Stub(too_large(40))
    table = score_examples(subject, examples, tmp_path / "w", score_batch=stub, **{**SMALL, "max_tokens": 200})
    assert stub.samples == list(range(30))
    assert "out of memory with" in caplog.text
    plan = json.loads((tmp_path / "w" / PLAN).read_text())
    assert plan["max_tokens"] <= 50
    assert [end for shard in plan["shards"] for end in shard] == np.cumsum([len(b) for b in stub.batches]).tolist()
    easy = score_examples(subject, examples, tmp_path / "e", score_batch=Stub(), **SMALL)
    np.testing.assert_array_equal(table.grad_norm, easy.grad_norm)


def test_a_run_continued_after_a_back_off_cuts_the_same_batches(subject, tmp_path):
    def small_memory_then_stop(stub, batch):
        return too_large(40)(stub, batch) or stops_after(20)(stub, batch)

    out = [tmp_path / name / "s.parquet" for name in ("whole", "parts")]
    options = {**SMALL, "max_tokens": 200}
    whole, part = Stub(too_large(40)), Stub(small_memory_then_stop)
    score_to_parquet(subject, some_examples(), out[0], score_batch=whole, **options)
    with pytest.raises(RuntimeError, match="stop"):
        score_to_parquet(subject, some_examples(), out[1], score_batch=part, **options)
    # The second machine has memory enough: it is the plan that cuts, not another failure.
    rest = Stub()
    score_to_parquet(subject, some_examples(), out[1], score_batch=rest, **options)
    finished = len(whole.batches) - len(rest.batches)
    assert rest.batches == whole.batches[finished:]
    assert 1 <= finished <= 20
    assert out[0].read_bytes() == out[1].read_bytes()


def test_an_explicit_smaller_budget_holds_for_what_is_not_finished(subject, tmp_path):
    with pytest.raises(RuntimeError, match="stop"):
        score_examples(subject, some_examples(), tmp_path / "w", score_batch=Stub(stops_after(5)), **SMALL)
    stub = Stub()
    score_examples(subject, some_examples(), tmp_path / "w", score_batch=stub, **{**SMALL, "max_tokens": 1})
    assert {len(batch) for batch in stub.batches} == {1}
    finished = [k for k in range(30) if k not in stub.samples]
    assert finished
    assert json.loads((tmp_path / "w" / PLAN).read_text())["max_tokens"] == 1


def test_one_sample_too_large_is_named_with_what_helps(subject, tmp_path):
    examples = [*some_examples(4), Example(tuple(range(5, 45)), (5, 6), "the long one")]
    with pytest.raises(UserError, match=r"sample 4 \('the long one', 42 tokens\).*--max-length"):
        score_examples(subject, examples, tmp_path / "w", score_batch=Stub(too_large(41)), **SMALL)


@pytest.mark.parametrize(
    ("error", "memory"),
    [
        (OOM("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("MPS backend out of memory"), True),
        (MemoryError(), True),
        (RuntimeError("shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_running_out_of_memory_looks_like(subject, tmp_path, error, memory):
    assert is_out_of_memory(error) is memory
    options = {**SMALL, "score_batch": Stub(lambda _stub, batch: error if len(batch) > 1 else None)}
    if memory:
        assert score_examples(subject, some_examples(4), tmp_path / "w", **options).invalid == 0
    else:
        with pytest.raises(type(error), match=str(error)):
            score_examples(subject, some_examples(4), tmp_path / "w", **options)


def test_on_a_gpu_the_weights_come_off_its_memory_first(subject, monkeypatch):
    from types import SimpleNamespace

    model, config = subject.model, subject.model.config
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    room = 50_000_000
    properties = SimpleNamespace(total_memory=weights + room)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    layers, hidden, heads = config.num_hidden_layers, config.hidden_size, config.num_attention_heads
    per_token = 4 * layers * (17 * hidden + 2.5 * heads * 8) + 16 * config.vocab_size
    on_gpu = SimpleNamespace(model=model, device=torch.device("cuda"))
    assert automatic_max_tokens(on_gpu, 8) == int(0.6 * room / per_token)
    properties.total_memory = weights // 2  # no room at all: still one sample at a time
    assert automatic_max_tokens(on_gpu, 8) == 8
