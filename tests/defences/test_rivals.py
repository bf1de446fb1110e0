"""Each rival against its formula, written out by hand; all of them keep the rules of the house."""

import copy
from dataclasses import replace

import pytest
import torch

from holdfast.core.errors import UserError
from holdfast.data import collate
from holdfast.defences import Anchor, Material, build, check_conformance
from holdfast.defences.mixing import Mixing
from holdfast.defences.registry import OURS
from tests.defences.test_anchor import PROMPTS, gradient, moved

RIVALS = sorted(set(OURS) - {"anchor"})


def begun(name, subject, knob=None, **more):
    made = build(name, knob, prompts=PROMPTS, max_new_tokens=4, **more)
    made.begin(subject)
    return made


def log_p(subject, example):
    """Of every answer token, from one unpadded row."""
    logits = subject.model(input_ids=torch.tensor([example.input_ids])).logits[0].log_softmax(-1)
    first = len(example.prompt_ids) - 1
    return logits[first : first + len(example.completion_ids)]


def of_labels(subject, example):
    return log_p(subject, example).gather(-1, torch.tensor(example.completion_ids)[:, None])[:, 0]


@pytest.mark.parametrize("name", RIVALS)
def test_it_keeps_the_rules_of_the_house(name, build):
    kept = check_conformance(name, subject=build(lora=True))
    assert not [finding for finding in kept if not finding.kept]


def test_mixing_is_the_loss_of_a_mixture(tiny_subject):
    mixing = begun("mixing", tiny_subject, 0.2)
    mixing.per_step = len(PROMPTS)
    wanted = torch.stack([-of_labels(tiny_subject, example).mean() for example in mixing._examples]).mean()
    torch.testing.assert_close(mixing.loss(tiny_subject.model, 1), 0.25 * wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["task-kl", "token-wise"])
def test_what_looks_back_at_the_start_follows_its_formula_and_leaves_the_model_alone(
    name, tiny_subject, tiny_examples
):
    # the fixture's rows carry loss on all but the template's last token
    rows = [replace(row, completion_mask=None) for row in tiny_examples[2:6]]
    rival = begun(name, tiny_subject, 1.5)
    current = moved(tiny_subject)
    before = copy.deepcopy(current.model.state_dict())
    rival.see(collate(rows, tiny_subject.pad_id))
    found = rival.loss(current.model, 1)
    if name == "task-kl":
        p, q = (torch.cat([log_p(subject, row) for row in rows]) for subject in (tiny_subject, current))
        wanted = 1.5 * (p.exp() * (p - q)).sum(-1).mean()
    else:
        beta = torch.cat(
            [torch.tensor([0.375, *[1.5] * 4, *[0.075] * 40])[: row.completion_tokens] for row in rows]
        )
        p, q = (torch.cat([of_labels(subject, row) for row in rows]) for subject in (tiny_subject, current))
        wanted = (-(2 / beta) * torch.sigmoid(beta * (q - p)).log() + q).mean()
        rival.see(collate(rows, tiny_subject.pad_id))
        at_start = gradient(rival.loss(tiny_subject.model, 1), tiny_subject.model)
        assert float(at_start.abs().max()) < 1e-5  # there it is the task loss, to first order
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    ours, theirs = gradient(found, current.model), gradient(wanted, current.model)
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4 * float(theirs.abs().max()))
    assert all(torch.equal(value, before[key]) for key, value in current.model.state_dict().items())


def test_adversarial_kl_is_the_kl_at_a_worst_nudge_of_the_embeddings(tiny_subject, tiny_examples):
    rows = [replace(row, completion_mask=None) for row in tiny_examples[2:6]]
    batch = collate(rows, tiny_subject.pad_id)
    rival, current = begun("adversarial-kl", tiny_subject, 1.5), moved(tiny_subject)
    rival.see(batch)
    before, nudges = copy.deepcopy(current.model.state_dict()), []
    real = rival.nudge
    rival.nudge = lambda *given: nudges.append(real(*given)) or nudges[-1]
    found = rival.loss(current.model, 3)
    embed = current.model.get_input_embeddings()

    def kl(delta):
        parts = []
        for k, row in enumerate(rows):
            inside = batch.attention_mask_BT[k] == 1
            nudged = embed(torch.tensor([row.input_ids])) + delta[k][inside][None]
            first = len(row.prompt_ids) - 1
            q = current.model(inputs_embeds=nudged).logits[0].log_softmax(-1)
            p, q = log_p(tiny_subject, row), q[first : first + len(row.completion_ids)]
            parts.append((p.exp() * (p - q)).sum(-1))
        return torch.cat(parts).mean()

    wanted = 1.5 * kl(nudges[0])
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    ours, theirs = gradient(found, current.model), gradient(wanted, current.model)
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4 * float(theirs.abs().max()))
    norms = [embed(torch.tensor([row.input_ids])).norm().item() for row in rows]
    assert nudges[0].flatten(1).norm(dim=1).tolist() == pytest.approx([0.05 * norm for norm in norms], rel=1e-4)
    rival.ascents = 0
    assert float(kl(nudges[0])) > float(kl(real(current.model, batch, _start_of(rival, current, batch), 3)))
    assert all(torch.equal(value, before[key]) for key, value in current.model.state_dict().items())
    with pytest.raises(UserError, match="radius=0"):
        type(rival)(radius=0)


def _start_of(rival, subject, batch):
    return rival._start.log_probabilities(subject.model, batch)


def rows_of_gradients(subject, prompts):
    """By plain autograd, of the answers that the defences draw with seed 0."""
    from holdfast.core.seeds import derive_seed
    from holdfast.evaluation.behaviour import sample_answers

    examples = sample_answers(subject, prompts, 4, seed=derive_seed(0, "answers"))
    return torch.stack([gradient(of_labels(subject, example).sum(), subject.model) for example in examples])


def test_ewc_holds_each_parameter_by_its_squared_gradients(tiny_subject):
    rival, current = begun("ewc", tiny_subject, 3.0), moved(tiny_subject)
    fisher = rows_of_gradients(tiny_subject, PROMPTS).square().mean(0)
    delta = torch.cat([(a - b).detach().flatten() for a, b in zip(
        current.model.parameters(), tiny_subject.model.parameters(), strict=True)])  # fmt: skip
    found = rival.loss(current.model, 1)
    assert float(found.detach()) == pytest.approx(1.5 * float((fisher * delta.square()).sum()), rel=1e-4)
    torch.testing.assert_close(gradient(found, current.model), 3.0 * fisher * delta, rtol=1e-3, atol=1e-6)


def test_projection_leaves_nothing_in_the_leading_directions_and_the_rest_alone(tiny_subject):
    rival, kept = begun("projection", tiny_subject, 2), rows_of_gradients(tiny_subject, PROMPTS).double()
    values, vectors = torch.linalg.eigh(kept @ kept.T)  # of the Gram matrix: another way to the same space
    basis = (kept.T @ vectors[:, -2:]) / values[-2:].sqrt()
    generator = torch.Generator().manual_seed(0)
    before = {n: torch.randn(p.shape, generator=generator) for n, p in tiny_subject.model.named_parameters()}
    after = {name: value.clone() for name, value in before.items()}
    rival.update(1, after)
    flat, found = (torch.cat([g.flatten() for g in side.values()]).double() for side in (before, after))
    torch.testing.assert_close(found, flat - basis @ (basis.T @ flat), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("size", "micro", "asked", "anchored", "mixed"),
    [(1, 4, None, 1, 1), (2, 4, None, 2, 1), (16, 1, None, 4, 2), (2, 32, None, 8, 4), (2, 2, 3, 3, 3)],
)
def test_what_an_update_draws_follows_its_rows(build, options, examples, size, micro, asked, anchored, mixed):
    from holdfast.training import GuardedTrainer

    defences = [
        Anchor(PROMPTS, per_step=asked, max_new_tokens=3),
        Mixing(PROMPTS, per_step=asked, max_new_tokens=3),
    ]
    arguments = options(max_steps=2, per_device_train_batch_size=size, gradient_accumulation_steps=micro)
    GuardedTrainer(build(), arguments, examples, defences=defences).train()
    assert [defences[0].state["anchored"], defences[1].state["drawn"]] == [2 * anchored, 2 * mixed]


def test_a_defence_that_looks_at_rows_says_so(build, options, examples):
    from holdfast.core.defence import UndeclaredReadError
    from holdfast.defences import Defence
    from holdfast.selection import OnlineSelection
    from holdfast.training import GuardedTrainer

    seen = []

    class Looks(Defence):
        name = "looks"
        needs = frozenset({"rows"})

        def see(self, rows):
            seen.append(rows)

    chosen = OnlineSelection(0.5, "random", "none")
    trainer = GuardedTrainer(build(), options(max_steps=2), examples, defences=[chosen, Looks()])
    trainer.train()
    assert [list(rows.ids) for rows in seen] == [row["kept_ids"] for row in trainer.selection_trace]
    ids = {example.id: example for example in examples}
    for row, name in enumerate(seen[0].ids):
        assert (
            tuple(seen[0].input_ids_BT[row][seen[0].attention_mask_BT[row] == 1].tolist()) == ids[name].input_ids
        )
    joined = list(seen)
    seen.clear()
    settings = {"max_steps": 2, "padding_free": True, "max_length": None}
    GuardedTrainer(build(), options(**settings), examples, defences=[chosen, Looks()]).train()
    assert [rows.ids for rows in seen] == [rows.ids for rows in joined]  # sequence by sequence
    with pytest.raises(UserError, match="'wrapped' cuts rows apart"):
        GuardedTrainer(build(), options(packing=True, packing_strategy="wrapped"), examples, defences=[Looks()])
    Looks.needs = frozenset()
    with pytest.raises(UndeclaredReadError, match="looks at rows"):
        GuardedTrainer(build(), options(max_steps=1), examples, defences=[Looks()]).train()


def test_material_of_a_rival_is_what_it_declares():
    with pytest.raises(Exception, match="no prompts"):
        build("mixing", None, prompts=())
    assert Material(frozenset({"prompts"}), ("a",)).prompts == ("a",)


def test_fisher_selection_drops_what_moves_the_skill_most(tiny_subject, examples):
    from holdfast.core.defence import PoolView
    from holdfast.defences.fisher_selection import shortest

    selection = begun("fisher-selection", tiny_subject, 0.5)
    model, rows = tiny_subject.model, list(examples[:6])
    batch = collate(rows, tiny_subject.pad_id)
    tokens = torch.tensor([row.completion_tokens for row in rows])
    kept = selection.choose(PoolView(selection.needs, 1, tokens, rows=batch)).indices
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}

    def gradient(example):
        mask = torch.tensor(example.completion_mask or [True] * len(example.completion_ids))
        log_p_sum = of_labels(tiny_subject, example)[mask].sum()
        found = torch.autograd.grad(log_p_sum, list(named.values()), allow_unused=True)
        pairs = zip(named.values(), found, strict=True)
        return torch.cat([(torch.zeros_like(p) if g is None else g).flatten().double() for p, g in pairs])

    again = begun("fisher-selection", tiny_subject, 0.5)
    answers = torch.stack([gradient(again._examples[k]) for k in again._deck.draw(8)])
    dots = torch.stack([-gradient(row) for row in rows]) @ answers.T
    left = list(range(6))
    while len(left) > 3:  # the update without each row in turn, squared along every answer
        moved = {row: float((dots[[k for k in left if k != row]].sum(0) ** 2).sum()) for row in left}
        left.remove(min(moved, key=moved.get))
    assert kept == tuple(left)
    assert shortest(dots.numpy()[[0, 0, 1]], 9) == [0, 1, 2]
    assert selection.notes["fisher_form_kept"] < 1
