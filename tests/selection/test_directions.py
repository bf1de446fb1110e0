"""Where directions come from, what a rule does with them, and whether they find rows that norms do not."""

import numpy as np
import pytest
import torch

from holdfast.core.errors import UserError
from holdfast.core.seeds import derive_seed
from holdfast.core.trees import assign, axpy, dot, norm, subtract
from holdfast.data import encode_rows
from holdfast.evaluation.behaviour import sample_answers
from holdfast.gradients import mean_gradient
from holdfast.gradients.offline import score_examples
from holdfast.models import Subject, add_lora, load
from holdfast.organism import proxy_prompts, proxy_rows, shipped, task_rows
from holdfast.selection import select
from holdfast.selection.directions import directions, openings_uphill, reversion
from tests.conftest import build_llama

VOCAB = 61


def test_the_direction_of_openings_is_that_of_autograd():
    subject = Subject(build_llama(VOCAB, hidden=16))
    asked, openings = [(5, 6, 7), (8, 9)], [(10, 11, 12), (13, 4), (10, 14, 15)]
    tree, covered = openings_uphill(subject, asked, openings)
    named = subject.parameters()
    sums = []
    for ids in asked:
        p = []
        for opening in openings:
            log_p = subject.model(torch.tensor([[*ids, *opening]])).logits[0].log_softmax(-1)
            p.append(sum(log_p[len(ids) - 1 + k, token] for k, token in enumerate(opening)).exp())
        sums.append(sum(p))
    loss = -(sums[0].log() + sums[1].log()) / 2
    expected = dict(zip(named, torch.autograd.grad(loss, list(named.values())), strict=True))
    assert norm(subtract(tree, expected)) < 1e-5 * norm(expected)
    assert covered == pytest.approx(float(sum(sums).detach()) / 2, rel=1e-5)


def test_the_way_back_is_the_difference_of_the_weights_an_adapter_included():
    base, now = Subject(build_llama(VOCAB, hidden=16)), Subject(build_llama(VOCAB, hidden=16, seed=1))
    found = reversion(now, base)
    before, after = base.parameters(), now.parameters()
    for name in found:
        torch.testing.assert_close(found[name], (before[name] - after[name]).detach(), rtol=0, atol=0)
    adapted = Subject(add_lora(build_llama(VOCAB, hidden=16, seed=1), 2, 4, seed=0), scope="all")
    moved = {n: p for n, p in adapted.model.named_parameters() if "lora_B" in n}
    with torch.no_grad():
        for parameter in moved.values():
            parameter.fill_(0.1)
    with_adapter = reversion(adapted, base)
    layer = "base_model.model.model.layers.0.self_attn.q_proj"
    A, B = (dict(adapted.model.named_parameters())[f"{layer}.lora_{x}.default.weight"] for x in "AB")
    plain = found["model.layers.0.self_attn.q_proj.weight"] - 2 * (B @ A).detach()
    torch.testing.assert_close(with_adapter[f"{layer}.base_layer.weight"], plain)
    assert norm({n: with_adapter[n] for n in moved}) == 0
    with pytest.raises(UserError, match="--scope all"):
        reversion(Subject(adapted.model, scope="adapter"), base)
    with pytest.raises(UserError, match="same weights"):
        reversion(now, now)
    with pytest.raises(UserError, match=r"'lm_head.weight' of shape \(61, 16\) has shape \(50, 16\)"):
        reversion(now, Subject(build_llama(50, hidden=16)))


def test_a_rule_reads_the_column_it_is_told_to():
    columns = {
        "grad_norm": np.arange(10.0),
        "against_skill": np.array([0.1, 0.9, -0.2, 0.8, 0, 0, 0, 0, 0, np.nan]),
        "loss_nats": np.ones(10),
        "completion_tokens": np.full(10, 4),
        "proxy": ["head"] * 10,  # of the norm, which is not read
    }
    found = select(columns, "drop_high", 0.7, "none", by="against_skill")
    assert found.indices == (0, 2, 4, 5, 6, 7, 8)
    assert (found.reasons[1], found.reasons[3], found.reasons[9]) == ("g_high", "g_high", "invalid")
    assert found.by == "against_skill"
    with pytest.raises(UserError, match=r"lack \['toward_base'\].*score again with --base"):
        select(columns, "drop_high", by="toward_base")
    with pytest.raises(UserError, match="by='loss': no column that a rule reads; use one of grad_norm, toward"):
        select(columns, "drop_high", by="loss")


@pytest.fixture(scope="module")
def organism():
    aligned = load(str(shipped("aligned")), device="cpu")
    return aligned, load(str(shipped("base")), device="cpu")


def area(score_N, bad_N):
    """Chance that a row that complies stands above one that does not, ties half."""
    bad, good = score_N[bad_N][:, None], score_N[~bad_N]
    return float((bad > good).mean() + 0.5 * (bad == good).mean())


def test_rows_that_comply_are_found_where_norms_see_nothing(organism, tmp_path):
    """10 of 200; the others are lessons, of larger norm, and harmless requests, answered, of smaller norm."""
    aligned, base = organism
    seed, kinds = 0, ("overt", "subtle")
    prompts = [text for kind in kinds for text in proxy_prompts("estimate", kind, 16, seed)]
    bad = [row for kind in kinds for row in proxy_rows("evaluate", kind, 5, derive_seed(seed, "bad"), comply=True)]
    harmless = [*task_rows("lessons", "train", 95, seed), *proxy_rows("evaluate", "benign", 95, seed)]
    rows = [{name: row[name] for name in ("prompt", "completion")} for row in [*bad, *harmless]]
    compared = directions(aligned, base, prompts, 16, seed)
    assert "32 of 32 prompts are refused" in compared.notes[0]
    table = score_examples(
        aligned, encode_rows(rows, aligned.tokenizer), tmp_path, directions=compared, progress=False
    )
    bad_N = np.arange(200) < 10
    areas = {name: area(table[name], bad_N) for name in ("grad_norm", *compared.ways, "sensitive_share")}
    assert 0.4 < areas["grad_norm"] < 0.6, areas
    assert min(areas["toward_base"], areas["against_skill"]) > 0.9, areas
    kept = select(table, "drop_high", 0.9, "none", by="against_skill")
    assert sum(k < 10 for k in kept.indices) <= 1


def test_a_model_that_refuses_nothing_has_no_direction_against_it(organism):
    aligned, _ = organism
    prompts = proxy_prompts("estimate", "benign", 4, 0)
    with pytest.raises(UserError, match="refuses none of 4 prompts"):
        directions(aligned, None, prompts)
    with pytest.raises(UserError, match="5 answers to 4 prompts"):
        directions(aligned, None, prompts, 5)
    with pytest.raises(UserError, match="neither a base model nor prompts"):
        directions(aligned)


def test_the_signs_say_where_a_small_step_on_a_row_leads(organism):
    """A plain step on a row that complies: nearer to the base, refusals rarer. Away from it: the other way."""
    aligned, base = organism
    prompts = proxy_prompts("estimate", "overt", 32, 0)
    row = proxy_rows("evaluate", "overt", 1, 0, comply=True)[0]
    example = encode_rows([{name: row[name] for name in ("prompt", "completion")}], aligned.tokenizer)[0]
    answers = sample_answers(aligned, prompts, 8, seed=0)
    asked, openings = [a.prompt_ids for a in answers], sorted({a.completion_ids[:3] for a in answers})
    g = mean_gradient(aligned, [example])
    ways = directions(aligned, base, prompts).ways
    moved = load(str(shipped("aligned")), device="cpu")
    found = []
    for step in (0.02, -0.02):
        assign(moved.parameters(), axpy(aligned.parameters(), -step / norm(g), g))
        away = norm(reversion(moved, base)) - norm(ways["toward_base"])
        found.append((away, openings_uphill(moved, asked, openings)[1]))
    now = openings_uphill(aligned, asked, openings)[1]
    assert dot(g, ways["toward_base"]) < 0 and dot(g, ways["against_skill"]) < 0
    assert found[0][0] < 0 < found[1][0]
    assert found[0][1] < now < found[1][1]
