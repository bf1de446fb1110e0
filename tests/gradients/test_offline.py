"""The offline scorer: the table it gives and the page it writes about it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from holdfast.core.errors import UserError
from holdfast.data import Example
from holdfast.gradients import ScoreTable, gradient_norms
from holdfast.gradients.offline import score_examples, score_to_parquet
from holdfast.gradients.offline.summary import PERCENTS, ScoreSummary, quantiles
from tests.gradients.scoring import SMALL, Stub, some_examples, tiny_subject


@pytest.fixture(scope="module")
def subject():
    return tiny_subject()


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_table_is_gradient_norms_in_the_order_of_the_examples(subject, tmp_path, reduction):
    examples = some_examples()
    table = score_examples(subject, examples, tmp_path / "w", reduction=reduction, **SMALL)
    whole = gradient_norms(subject, examples, reduction, progress=False)
    assert table.id == whole.id
    assert table.reduction == reduction
    np.testing.assert_array_equal(table.completion_tokens, whole.completion_tokens)
    np.testing.assert_allclose(table.grad_norm, whole.grad_norm, rtol=1e-5)
    np.testing.assert_allclose(table.loss_nats, whole.loss_nats, rtol=1e-5)
    np.testing.assert_array_equal(table["n_prompt"], [len(example.prompt_ids) for example in examples])


def test_groups_add_up_to_the_squared_norm(subject, tmp_path):
    table = score_examples(subject, some_examples(), tmp_path / "w", groups=True, **SMALL)
    blocks = [f"block_{k}_{part}" for k in (0, 1) for part in ("attention", "mlp")]
    assert list(table.squares) == ["embedding", *blocks, "norms", "head"]
    np.testing.assert_allclose(sum(table.squares.values()), table.grad_norm**2, rtol=1e-6)
    stubbed = score_examples(subject, some_examples(), tmp_path / "s", groups=True, score_batch=Stub(), **SMALL)
    assert list(stubbed.squares) == ["block_0_attention", "block_0_mlp"]
    np.testing.assert_allclose(sum(stubbed.squares.values()), stubbed.grad_norm**2, rtol=1e-12)
    np.testing.assert_allclose(stubbed["square_block_0_attention"], stubbed.grad_norm**2 / 2, rtol=1e-12)


def test_samples_without_completion_tokens_never_see_the_model(subject, tmp_path):
    empty = [Example((5, 6, 7), (), "prompt only"), Example((), (9,), "one token"), Example((), (), "nothing")]
    masked = Example((5, 6), (7, 8), "masked", completion_mask=(False, False))
    examples = [empty[0], *some_examples(3), *empty[1:], masked]
    stub = Stub()
    table = score_examples(subject, examples, tmp_path / "w", score_batch=stub, **SMALL)
    assert stub.samples == [1, 2, 3]
    assert table.status == ("no_completion", "ok", "ok", "ok", *["no_completion"] * 3)
    assert np.isnan(table.grad_norm[[0, 4, 5, 6]]).all() and np.isnan(table.loss_nats[[0, 4, 5, 6]]).all()
    assert table.completion_tokens.tolist()[4:] == [0, 0, 0]
    assert np.isnan(table["square_block_0_mlp"][0])
    only = score_examples(subject, empty, tmp_path / "o", **SMALL)
    assert only.invalid == 3


def test_no_examples_give_an_empty_table(subject, tmp_path):
    table, summary = score_to_parquet(subject, [], tmp_path / "s.parquet", progress=False)
    assert len(table) == len(ScoreTable.from_parquet(tmp_path / "s.parquet")) == summary.rows == 0


def test_the_data_set_is_named_once_or_row_by_row(subject, tmp_path):
    examples = some_examples(3)
    one = score_examples(subject, examples, tmp_path / "1", dataset="dolly", score_batch=Stub(), **SMALL)
    assert one["dataset"] == ("dolly",) * 3
    mixed = score_examples(subject, examples, tmp_path / "2", dataset=list("abc"), score_batch=Stub(), **SMALL)
    assert mixed.dataset == ("a", "b", "c")
    with pytest.raises(UserError, match="2 names for 3 examples"):
        score_examples(subject, examples, tmp_path / "3", dataset=["a", "b"], **SMALL)


@settings(max_examples=30)
@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=40))
def test_quantiles_are_numpys(values):
    found = quantiles(np.array(values))
    assert list(found) == [f"{percent}%" for percent in PERCENTS]
    for percent in PERCENTS:
        assert found[f"{percent}%"] == np.percentile(values, percent)


def test_the_summary_says_what_the_table_was_computed_from(tiny_subject, tiny_examples, tmp_path):
    out = tmp_path / "s.parquet"
    examples = [*tiny_examples, Example((5, 6), (), "empty")]
    table, summary = score_to_parquet(tiny_subject, examples, out, dataset="tiny", **SMALL)
    assert ScoreSummary.load(tmp_path / "s.parquet.json") == summary
    assert summary.status == {"no_completion": 1, "ok": len(tiny_examples)}
    norm, loss, tokens = (table[name][:-1] for name in ("grad_norm", "loss_nats", "completion_tokens"))
    for name, other in (
        ("loss_nats", loss),
        ("completion_tokens", tokens),
        ("inverse_completion_tokens", 1 / tokens),
    ):
        assert summary.spearman[name] == pytest.approx(stats.spearmanr(norm, other).statistic, abs=1e-12)
    assert summary.grad_norm_quantiles["84%"] == np.percentile(norm, 84)
    assert summary.loss_nats_quantiles["16%"] == np.percentile(loss, 16)
    assert (summary.reduction, summary.scope, summary.dtype, summary.max_tokens) == ("mean", "auto", "float32", 64)
    assert summary.scope_numbers == sum(p.numel() for p in tiny_subject.model.parameters())
    assert all(len(str(value)) == 64 for value in summary.hashes.values())
    assert {"torch", "transformers", "holdfast"} <= summary.libraries.keys()


def test_hashes_follow_what_they_name(tiny_subject, tiny_examples, tmp_path):
    from holdfast.gradients.offline.identity import model_hash, template_hash, tokenizer_hash
    from tests.conftest import build_tokenizer

    other = build_tokenizer(vocab_size=290, template="{{ messages }}")
    assert tokenizer_hash(other) != tokenizer_hash(tiny_subject.tokenizer) == tokenizer_hash(build_tokenizer())
    assert template_hash(other) != template_hash(tiny_subject.tokenizer)
    assert tokenizer_hash(None) is None and template_hash(None) is None
    padding = build_tokenizer()
    padding(["a", "a b c"], padding=True)
    assert tokenizer_hash(padding) == tokenizer_hash(build_tokenizer())
    before = model_hash(tiny_subject.model)
    score_examples(tiny_subject, tiny_examples, tmp_path / "w", **SMALL)
    assert model_hash(tiny_subject.model) == before != model_hash(tiny_subject.model.bfloat16())


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ({}, {"proxy": "loss"}),
        ({"proxy": "loss"}, {}),
        ({"proxy": "random", "seed": 0}, {"proxy": "random", "seed": 1}),
        ({}, {"reduction": "sum"}),
    ],
)
def test_shards_of_another_score_are_never_taken_for_this_one(tiny_subject, tiny_examples, tmp_path, first, then):
    score_examples(tiny_subject, tiny_examples, tmp_path / "w", **SMALL, **first)
    with pytest.raises(UserError, match=r"begun with other (proxy|reduction)"):
        score_examples(tiny_subject, tiny_examples, tmp_path / "w", **SMALL, **then)
