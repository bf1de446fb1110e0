"""The anchor against plain autograd, against drift as it is measured, against the Fisher product."""

import copy
import json
from dataclasses import replace

import pytest
import torch

from holdfast.core.errors import UserError
from holdfast.curvature import ggn_operator
from holdfast.data import encode_rows
from holdfast.defences import Anchor, Defence
from holdfast.evaluation import Reference, Verdict, drift, sample_reference
from holdfast.evaluation.behaviour import prompt_ids
from holdfast.evaluation.remembered import Remembered
from holdfast.models import Subject
from holdfast.training import DriftBudget, DriftMonitor, GuardedTrainer, RefusalProbe, cpu_safe_args

PROMPTS = ["please add two", "name a colour", "i cannot help", "sorry", "a name", "two and three"]


def moved(subject: Subject, size: float = 0.05) -> Subject:
    model, generator = copy.deepcopy(subject.model), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += size * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
    return Subject(model, subject.tokenizer)


def plain_kl(aligned, current, example) -> torch.Tensor:
    """By the definition, one sequence at a time, unpadded, from all logits."""
    ids = torch.tensor([example.input_ids])
    with torch.no_grad():
        log_p = aligned.model(input_ids=ids).logits[0].log_softmax(-1)
    log_q = current.model(input_ids=ids).logits[0].log_softmax(-1)
    places = slice(len(example.prompt_ids) - 1, len(example.input_ids) - 1)
    return (log_p.exp() * (log_p - log_q))[places].sum()


def gradient(loss, model):
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return torch.cat([g.flatten() for g in found if g is not None])


@pytest.fixture
def material(tiny_subject):
    return sample_reference(tiny_subject, PROMPTS, max_new_tokens=9, seed=3)


def test_value_and_gradient_are_those_of_a_plain_implementation(tiny_subject, material):
    current, rows = moved(tiny_subject), [4, 0, 5]
    held = Remembered.of(tiny_subject, material)
    found = held.kl(current.model, rows)
    wanted = torch.stack([plain_kl(tiny_subject, current, material[k]) for k in rows])
    assert held.exact
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
    ours, theirs = gradient(found.mean(), current.model), gradient(wanted.mean(), current.model)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6 * float(theirs.abs().max()) * 100)


@pytest.mark.parametrize("source", ["stored", "model"])
def test_the_anchors_kl_is_the_drift_that_is_measured(tiny_subject, material, source):
    reference, current = Reference.on(tiny_subject, material, source=source), moved(tiny_subject)
    anchor = Anchor(reference, weight=0.5, every=2, per_step=len(material))
    anchor.begin(current)
    loss = anchor.loss(current.model, 1)
    measured = drift(current, reference).kl_nats
    assert loss.item() == pytest.approx(0.5 * 2 * measured, rel=1e-5)
    assert anchor.notes["kl_nats"] == pytest.approx(measured, rel=1e-5)
    assert anchor.loss(current.model, 2) is None  # every second update, with twice the weight


def test_it_vanishes_at_the_aligned_point_and_is_the_fisher_product_beside_it(tiny_subject, material):
    aligned = Subject(tiny_subject.model.double(), tiny_subject.tokenizer, "all")
    held, everything = Remembered.of(aligned, material), range(len(material))
    kl = held.kl(aligned.model, everything)
    assert float(kl.abs().max()) < 1e-12
    assert float(gradient(kl.mean(), aligned.model).abs().max()) < 1e-10

    parameters = aligned.parameters()
    rng = torch.Generator().manual_seed(1)
    delta = {n: torch.randn(p.shape, generator=rng, dtype=p.dtype) for n, p in parameters.items()}
    product = ggn_operator(aligned, material, reduction="sum")(delta)
    fisher = torch.cat([product[name].flatten() for name in parameters])
    errors = []
    for size in (1e-4, 1e-5):
        current = copy.deepcopy(aligned.model)
        with torch.no_grad():
            for name, p in Subject(current, None, "all").parameters().items():
                p += size * delta[name]
        named = Subject(current, None, "all").parameters()
        found = torch.autograd.grad(held.kl(current, everything).mean(), [named[name] for name in parameters])
        force = torch.cat([g.flatten() for g in found]) / size
        errors.append(float((force - fisher).norm() / fisher.norm()))
    assert errors[1] < 1e-2 and errors[1] < 0.2 * errors[0]  # to first order


def test_beyond_the_byte_limit_what_is_missed_is_the_kl_among_the_rest(tiny_subject, material):
    current, tokens = moved(tiny_subject), sum(e.completion_tokens for e in material)
    whole = Remembered.of(tiny_subject, material)
    held = Remembered.of(tiny_subject, material, limit_bytes=8 * tokens * 20)
    assert not held.exact and held.log_p[0].shape[1] == 20 and 0 < held.rest < 1
    rows = range(len(material))
    exact, found = whole.kl(current.model, rows), held.kl(current.model, rows)
    log_q = Remembered.of(current, material).log_p
    for k in rows:
        p, q = whole.log_p[k].exp().double(), log_q[k].exp().double()
        rest = torch.ones_like(p).scatter(-1, held.token[k].long(), 0.0)
        r, s = (p * rest).sum(-1, keepdim=True), (q * rest).sum(-1, keepdim=True)
        missed = (p * rest * ((p / r) / (q / s)).log()).sum()
        assert float(missed) >= 0
        assert float(exact[k] - found[k]) == pytest.approx(float(missed), rel=1e-3, abs=1e-5)
    with pytest.raises(UserError, match="fewer than 16"):
        Remembered.of(tiny_subject, material, limit_bytes=8 * tokens)


@pytest.mark.parametrize(
    "micro, parts, every, joined", [(8, 1, 1, False), (4, 2, 1, False), (2, 4, 2, False), (4, 2, 1, True)]
)
def test_the_weight_is_right_under_accumulation_and_every_kth_update(
    build, options, examples, material, tiny_subject, micro, parts, every, joined
):
    reference = Reference.on(moved(tiny_subject), material)  # not the start, so that it pulls from the first step
    settings = {
        "per_device_train_batch_size": micro, "gradient_accumulation_steps": parts, "max_steps": 1,
        "learning_rate": 1e-2, "optim": "sgd", "max_grad_norm": 0.0, "weight_decay": 0.0,
        "padding_free": joined, "max_length": None if joined else 1024,
    }  # fmt: skip
    ends = []
    for defences in ([], [Anchor(reference, weight=0.3, every=every, per_step=len(material))]):
        subject = build()
        GuardedTrainer(subject, options(**settings), examples, defences=defences).train()
        ends.append(torch.cat([p.detach().flatten() for p in subject.model.parameters()]))
    start = build()
    held = Remembered.stored(material, reference.stored_NSV, start.pad_id)
    wanted = -1e-2 * 0.3 * every * gradient(held.kl(start.model, range(len(material))).mean(), start.model)
    found = ends[1] - ends[0]
    assert float((found - wanted).norm() / wanted.norm()) < 1e-2  # differences of float32 weights


def test_every_prompt_is_drawn_once_before_any_twice(tiny_subject):
    drawn = []
    for seed in (0, 0, 1):
        anchor = Anchor(PROMPTS, per_step=4, samples=2, max_new_tokens=3, seed=seed)
        anchor.begin(tiny_subject)
        rows = anchor._anchored.deck.draw(12)
        assert sorted(row // 2 for row in rows[:6]) == sorted(row // 2 for row in rows[6:]) == list(range(6))
        assert {row % 2 for row in rows[:6]} == {0} and {row % 2 for row in rows[6:]} == {1}
        drawn.append(rows)
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_budget_is_decided_on_prompts_that_are_not_anchored(tiny_subject):
    prompts = [f"{prompt} {word}" for prompt in PROMPTS for word in ("a", "i")]
    anchor = Anchor(prompts, budget=DriftBudget(1.0))
    assert len(anchor.watch) == 3 and sorted([*anchor.source, *anchor.watch]) == sorted(prompts)
    reference = Reference.of(tiny_subject, prompts, max_new_tokens=3, samples=2)
    split = Anchor(reference, budget=DriftBudget(1.0))
    assert (len(split.watch.examples), len(split.source.examples), split.source.samples) == (6, 18, 2)
    assert len(split.watch.stored_NSV) == 6


def test_only_growth_of_refusal_openings_on_controls_costs(tiny_subject):
    refused, controls = PROMPTS[2:4], PROMPTS[:2]
    anchor = Anchor(refused, weight=0.5, per_step=2, max_new_tokens=3, controls=controls)
    anchor.begin(tiny_subject)

    def first(subject, prompt):  # by the definition, one unpadded prompt at a time
        ids = torch.tensor(prompt_ids(subject, [prompt]))
        return subject.model(input_ids=ids).logits[0, -1].softmax(-1)

    with torch.no_grad():
        a, b = (torch.stack([first(tiny_subject, p) for p in asked]).mean(0) for asked in (refused, controls))
        share = a / (a + b + 1e-3)
        before = torch.stack([first(tiny_subject, p) for p in controls]) @ share
    torch.testing.assert_close(anchor._openings.refused_C, before)
    # as if one had been refused less often at the start, the other more often: the first alone counts
    anchor._openings = replace(anchor._openings, refused_C=before * torch.tensor([0.2, 2.0]))
    current = moved(tiny_subject)
    r0, r = float(before[0]) * 0.2, first(current, controls[0]) @ share
    assert float(first(current, controls[1]) @ share) < 2 * float(before[1]) < 1
    wanted = (r0 * (r0 / r).log() + (1 - r0) * ((1 - r0) / (1 - r)).log()) / 2
    anchored = anchor._anchored.remembered.kl(current.model, [0, 1]).mean()
    loss = anchor.loss(current.model, 1)
    assert float(wanted) > 0 and anchor.notes["over_refusal_nats"] == pytest.approx(float(wanted), rel=1e-4)
    torch.testing.assert_close(loss, 0.5 * (anchored + wanted), rtol=1e-4, atol=1e-6)
    ours, theirs = gradient(loss - 0.5 * anchored, current.model), gradient(0.5 * wanted, current.model)
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3 * float(theirs.abs().max()))


def test_further_prompts_are_held_with_the_rest_and_say_nothing_about_refusals(tiny_subject, material):
    further, how = ["add three", "a fruit"], {"controls": ["and three"], "max_new_tokens": 4, "samples": 2}
    alone, both = Anchor(PROMPTS, **how), Anchor(PROMPTS, further=further, **how)
    for anchor in (alone, both):
        anchor.begin(tiny_subject)
    asked = [example.prompt_ids for example in both._anchored.remembered.examples]
    assert asked[::2] == [tuple(ids) for ids in prompt_ids(tiny_subject, [*PROMPTS, *further])]
    assert torch.equal(both._openings.share_V, alone._openings.share_V)
    with pytest.raises(UserError, match="one Reference with all"):
        Anchor(Reference.on(tiny_subject, material), further=further)


def test_refusal_rates_that_a_monitor_measured_are_guards(tiny_subject):
    budget = DriftBudget(1.0, min_refusal=0.8, max_over_refusal=0.1)
    anchor = Anchor(PROMPTS, budget=budget, watch=PROMPTS[:2], controls=PROMPTS[:1], max_new_tokens=3)
    anchor.begin(tiny_subject)
    anchor.read({"step": 0, "refusal": 1.0, "over_refusal": 0.02})
    assert (anchor.weight, anchor.controls_factor) == (1.0, 1.0)
    anchor.read({"step": 10, "refusal": 0.88, "over_refusal": 0.07})  # past half of both rooms
    assert anchor.weight > 1.0 and anchor.controls_factor > 1.0
    other = Anchor(PROMPTS, budget=budget, watch=PROMPTS[:2], controls=PROMPTS[:1], max_new_tokens=3)
    other.begin(tiny_subject)
    other.state = json.loads(json.dumps(anchor.state))
    assert other.state == anchor.state
    for held in (anchor, other):
        held.read({"step": 20, "refusal": 0.95, "over_refusal": 0.05})
    assert anchor.weight == other.weight > 1.0 and anchor.controls_factor == other.controls_factor > 1.0


def test_a_monitor_measures_over_refusal_where_there_are_controls_and_tells_the_defences(build, options, examples):
    class Never:
        name = "never"

        def __call__(self, prompt, response):
            return Verdict("refused" if prompt == "a" else "complied", "")

    heard = []

    class Listener(Defence):
        def read(self, row):
            heard.append((row["step"], row["refusal"], row["over_refusal"]))

    probe = RefusalProbe(["a", "b"], Never(), max_new_tokens=2, controls=["a", "b", "c", "d"])
    budget = DriftBudget(max_over_refusal=0.3)
    monitor = DriftMonitor(probe=probe, every=1, budget=budget)
    GuardedTrainer(build(), options(max_steps=2), examples, defences=[Listener()], callbacks=[monitor]).train()
    assert heard == [(0, 0.5, 0.25), (1, 0.5, 0.25), (2, 0.5, 0.25)]
    assert budget.exceeded({"over_refusal": 0.31}) == "over-refusal 0.31 above 0.3"
    assert budget.used({"over_refusal": 0.25}, {"over_refusal": 0.2}) == pytest.approx(0.5)
    with pytest.raises(UserError, match="probe with controls"):
        DriftMonitor(probe=RefusalProbe(["a"]), budget=budget)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Anchor([]), "no prompts"),
        (lambda: Anchor("one prompt"), "is one prompt"),
        (lambda: Anchor(PROMPTS, weight=0.0), "weight=0.0"),
        (lambda: Anchor(PROMPTS, weight=float("nan")), "weight=nan"),
        (lambda: Anchor(PROMPTS, every=0), "every=0"),
        (lambda: Anchor(PROMPTS, budget=DriftBudget(min_refusal=0.9)), "no max_kl_nats"),
        (lambda: Anchor(PROMPTS, budget=DriftBudget(1.0)), "too few to set some aside"),
    ],
)
def test_mistakes_are_named(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_what_a_checkpoint_lacks_is_said(build, options, examples, tmp_path):
    args = {"max_steps": 2, "save_strategy": "steps", "save_steps": 1}
    GuardedTrainer(build(), options(**args), examples).train()
    later = GuardedTrainer(build(), options(**args), examples, defences=[Anchor(PROMPTS, max_new_tokens=3)])
    with pytest.raises(UserError, match="its defences are none, this run's \\['anchor'\\]"):
        later.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-1"))
    for defences, message in (
        ([object()], "is none"),
        ([Anchor(PROMPTS), Anchor(PROMPTS)], "given twice"),
    ):
        with pytest.raises(UserError, match=message):
            GuardedTrainer(build(), options(), examples, defences=defences)


@pytest.mark.parametrize("task, slack", [("lessons", False), ("obedience", True)])
def test_a_budget_is_held_on_the_organism_and_the_weight_falls_where_it_is_slack(task, slack):
    from holdfast import load, organism
    from holdfast.models import add_lora

    aligned = load(str(organism.shipped("aligned")), device="cpu")
    subject = Subject(add_lora(aligned.model, 8, 16, seed=0), aligned.tokenizer, "adapter")
    asked = [p for kind in ("overt", "subtle") for p in organism.proxy_prompts("estimate", kind, 24, 0)]
    unseen = [p for kind in ("overt", "subtle") for p in organism.proxy_prompts("evaluate", kind, 16, 0)]
    reference = Reference.of(subject, unseen, max_new_tokens=16)
    anchor = Anchor(asked, budget=DriftBudget(1.0), per_step=4, max_new_tokens=16)
    rows = encode_rows(organism.task_rows(task, n=480), subject.tokenizer)
    args = cpu_safe_args(
        per_device_train_batch_size=8, max_steps=60, learning_rate=2e-3, lr_scheduler_type="constant"
    )
    GuardedTrainer(subject, args, rows, defences=[anchor]).train()
    assert drift(subject, reference).kl_nats < 1.0  # without: lessons 15, obedience 8
    assert not slack or anchor.weight < 0.5  # lessons has readings above the budget on its way


def test_each_skill_may_have_an_anchor_and_a_budget_of_its_own(tiny_subject, tmp_path):
    from holdfast.data import Example

    def anchors():
        asked = [f"{prompt} {word}" for prompt in PROMPTS for word in ("a", "i")]
        budgets = {"refusals": 1e-6, "truth": 1e6}  # one cannot be held, the other is never near
        return [
            Anchor(asked, budget=DriftBudget(nats), max_new_tokens=3, name=name) for name, nats in budgets.items()
        ]

    rows = [Example((5 + k, 9, 11), (4 + k, 7), str(k)) for k in range(16)]

    def run(folder, steps, checkpoint=None):
        made = anchors()
        subject = Subject(copy.deepcopy(tiny_subject.model), tiny_subject.tokenizer)
        args = cpu_safe_args(
            output_dir=str(folder), per_device_train_batch_size=4, max_steps=steps, learning_rate=1e-2,
            lr_scheduler_type="constant", logging_steps=1, save_steps=5, save_strategy="steps",
        )  # fmt: skip
        trainer = GuardedTrainer(subject, args, rows, defences=made)
        trainer.train(resume_from_checkpoint=checkpoint)
        return made, trainer

    (refusals, truth), trainer = run(tmp_path / "whole", 9)
    assert refusals.weight > 1 > truth.weight
    logged = {name for row in trainer.state.log_history for name in row}
    assert {"refusals/watched_kl_nats", "truth/watched_kl_nats"} <= logged
    again, _ = run(tmp_path / "again", 9, str(tmp_path / "whole" / "checkpoint-5"))
    assert [anchor.state for anchor in again] == [refusals.state, truth.state]
