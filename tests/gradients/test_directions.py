"""Columns of directions are what a loop of autograd finds, row by row, at any batching and after a kill."""

import numpy as np
import pytest
import torch

from holdfast.core.errors import UserError
from holdfast.core.trees import dot, norm
from holdfast.data import collate
from holdfast.gradients import GhostEngine, ScoreTable, ghost
from holdfast.gradients.directions import Directions
from holdfast.gradients.offline import score_examples, score_to_parquet
from holdfast.models import Subject
from tests.conftest import build_llama
from tests.gradients.scoring import VOCAB, some_examples

NO_TOKENS = 7


@pytest.fixture(scope="module")
def subject():
    return Subject(build_llama(VOCAB, hidden=16, tie=True))


@pytest.fixture(scope="module")
def examples():
    found = some_examples(12)
    found[NO_TOKENS] = type(found[0])((5, 6, 7), (), "nothing to learn")
    return found


@pytest.fixture(scope="module")
def directions(subject):
    drawn = torch.Generator().manual_seed(1)
    trees = [
        {name: torch.randn(p.shape, generator=drawn) for name, p in subject.parameters().items()} for _ in range(5)
    ]
    span = (*trees[2:], {name: 3 * value - trees[3][name] for name, value in trees[2].items()})
    return Directions({"toward_base": trees[0], "against_skill": trees[1]}, {"seed": 1}, span)


def gradient(subject, example):
    """Of a row's mean loss, by the model's own forward pass and nothing else."""
    ids = torch.tensor([example.input_ids])
    logits_TV = subject.model(ids).logits[0, len(example.prompt_ids) - 1 : -1]
    loss = torch.nn.functional.cross_entropy(logits_TV, torch.tensor(example.completion_ids))
    named = subject.parameters()
    return dict(zip(named, torch.autograd.grad(loss, list(named.values())), strict=True))


def flat(tree):
    return torch.cat([value.flatten() for value in tree.values()]).double().numpy()


def test_every_column_is_that_of_a_loop_of_autograd(subject, examples, directions, tmp_path):
    table = score_examples(subject, examples, tmp_path / "w", directions=directions, max_tokens=64, progress=False)
    basis, _ = np.linalg.qr(np.stack([flat(tree) for tree in directions.span[:3]], axis=1))  # the 4th lies within
    for k, example in enumerate(examples):
        if k == NO_TOKENS:
            continue
        g = gradient(subject, example)
        for name, way in directions.ways.items():
            assert table[name][k] == pytest.approx(-dot(g, way) / norm(g) / norm(way), rel=1e-4, abs=1e-7)
        share = np.square(basis.T @ flat(g)).sum() / norm(g) ** 2
        assert table.sensitive_share[k] == pytest.approx(share, rel=1e-4)
    for name in ("toward_base", "against_skill", "sensitive_share"):
        assert np.flatnonzero(np.isnan(table[name])).tolist() == [NO_TOKENS]


def test_one_pass_gives_norms_and_inner_products(subject, examples, directions):
    batch = collate([examples[k] for k in (0, 1, 2)], 0)
    for parameters in (subject.parameters(), {n: p for n, p in subject.parameters().items() if "norm" in n}):
        engine = GhostEngine(subject.model, parameters)
        both = engine.norms(batch, directions=directions.trees)
        torch.testing.assert_close(both.norm_N, engine.norms(batch).norm_N, rtol=0, atol=0)
        torch.testing.assert_close(both.dots_NK, engine.dots(batch, directions.trees), rtol=0, atol=0)
        assert engine.norms(batch).dots_NK is None


@pytest.mark.filterwarnings("ignore:parameter")
def test_a_rule_free_layer_is_compared_too(subject, examples, directions, monkeypatch):
    """The generic path forms gradients a few samples at a time; each lands at its own row."""
    monkeypatch.setattr(ghost, "samples_at_a_time", lambda *_: 2)
    batch = collate(examples[:6], 0)
    generic = GhostEngine(subject.model, subject.parameters(), rules=())
    fast = GhostEngine(subject.model, subject.parameters())
    found = generic.norms(batch, directions=directions.trees).dots_NK
    torch.testing.assert_close(found, fast.dots(batch, directions.trees), rtol=1e-4, atol=1e-5)


def test_a_zero_gradient_goes_nowhere_and_a_step_along_a_direction_has_cosine_one(directions):
    d_K = np.array([[dot(a, b) for b in directions.trees] for a in directions.trees])
    norm_K = np.sqrt(np.diag(d_K))
    columns = directions.columns(np.vstack([-d_K[0], d_K[3], np.zeros(6)]), np.array([norm_K[0], norm_K[3], 0.0]))
    assert columns["toward_base"][[0, 2]] == pytest.approx([1, 0])
    assert columns["sensitive_share"][1:] == pytest.approx([1, 0])


def test_the_columns_survive_a_file_and_other_directions_are_not_continued(
    subject, examples, directions, tmp_path
):
    out, options = tmp_path / "s.parquet", {"progress": False, "directions": directions}
    table, summary = score_to_parquet(subject, examples, out, **options)
    back = ScoreTable.from_parquet(out)
    for name in ("toward_base", "against_skill", "sensitive_share"):
        np.testing.assert_array_equal(back[name], table[name])
        assert summary.direction_quantiles[name]["50%"] == pytest.approx(np.nanmedian(table[name]))
        assert back[:3][name].shape == (3,)
    score_examples(subject, examples, tmp_path / "w", **options)
    again = score_examples(subject, examples, tmp_path / "w", **options)  # from its shards
    np.testing.assert_array_equal(again.against_skill, table.against_skill)
    with pytest.raises(UserError, match="other directions"):
        score_examples(subject, examples, tmp_path / "w", progress=False)
    with pytest.raises(UserError, match="proxy 'head': has no gradient"):
        score_examples(subject, examples, tmp_path / "p", proxy="head", **options)
