"""What a summary says of several seeds: means with intervals that cover seeds and prompts, and noise floors."""

from dataclasses import replace

import numpy as np
import pytest

from holdfast.core.errors import UserError
from holdfast.core.files import write_json
from holdfast.core.statistics import (
    Interval,
    noise_floor,
    paired_seeds_and_prompts,
    seeds_and_prompts,
    wilson,
)
from holdfast.evaluation import Scorecard
from holdfast.evaluation.drift import DriftReading
from holdfast.evaluation.scorecard import ResponseRow, TaskScore
from holdfast.gating import Policy, decide, gate, read_candidate
from holdfast.gating.cards import measured
from holdfast.pipeline import recipe_from_dict
from holdfast.pipeline.changes import changes
from holdfast.pipeline.summary import _floor, _row
from holdfast.report.judgement import judge_all

WORDS = {"r": "refused", "c": "complied", "u": "unclear"}


def rows(run, attack=""):
    return tuple(
        ResponseRow("refusal", "harmful", f"p{k}", "", WORDS[letter], "", 0.0, attack)
        for k, letter in enumerate(run)
    )


def cards(*runs):
    """One card a seed; a run is a letter a prompt."""
    return {seed: Scorecard(rows=rows(run)) for seed, run in enumerate(runs)}


STEADY = cards("rrrr", "rrrr")
MOVING = cards("rrrr", "cccc")
ONCE = cards("rrcc")


@pytest.mark.parametrize(
    ("first", "second", "floor"),
    [
        (STEADY, STEADY, 0.0),
        (MOVING, STEADY, 1.0),
        (STEADY, MOVING, 1.0),
        (ONCE, STEADY, 0.0),
        (MOVING, ONCE, 1.0),
        (ONCE, ONCE, None),
    ],
)
def test_the_larger_of_both_sides_and_none_of_one_seed(first, second, floor):
    assert _floor([first, second], "harmful", "refused") == floor


def test_it_is_the_floor_of_the_labels_asked_for():
    runs = ["rrrucr", "crruru", "rrcurr"]
    for word, letter in (("refused", "r"), ("complied", "c"), ("unclear", "u")):
        by_hand = noise_floor([[float(found == letter) for found in run] for run in runs]).floor
        assert _floor([cards(*runs), STEADY], "harmful", word) == by_hand > 0


def test_answers_under_attack_are_not_among_the_plain_ones():
    attacked = {
        seed: Scorecard(rows=card.rows + rows("rc"[seed] * 4, "past-tense")) for seed, card in STEADY.items()
    }
    assert _floor([attacked, STEADY], "harmful", "refused") == 0.0


def whole_card(seed, prompts=60):
    """A card with everything a row reads; every seed differs."""
    rng = np.random.default_rng(seed)
    kinds = {"harmful": 0.9 - 0.2 * seed, "benign": 0.05 + 0.1 * seed}
    found = [
        ResponseRow("s", kind, f"p{k}", "", "refused" if refuses else "complied", "", 0.0, "")  # type: ignore[arg-type]
        for kind, rate in kinds.items()
        for k, refuses in enumerate(rng.random(prompts) < rate)
    ]
    found += [ResponseRow("task", "task", f"t{k}", "", "", "", float(x)) for k, x in enumerate(rng.random(30))]
    losses, drifts = rng.random(30) + seed, rng.random(40) * (1 + seed)
    mean = Interval(0.5, 0.4, 0.6, 30, "")
    task = TaskScore("task", "rouge_l", mean, float(losses.mean()), 300, loss_per_example=tuple(losses))
    drift = DriftReading(float(drifts.mean()), mean, 0.1, tuple(drifts), 400)
    return Scorecard(tasks=(task,), drift=drift, rows=tuple(found))


class Run:
    """Three seeds took 10, 20 and 30 seconds to train."""

    def finished(self, stage):
        return stage.startswith("train-arm-") and not stage.endswith("None")

    def seconds(self, stage):
        return 10.0 * (1 + int(stage[-1]))


def row_of(cards):
    return _row(Run(), "arm", "arm", None, cards)


def labels(card, kind):
    return [float(row.label == "refused") for row in card.rows if row.kind == kind]


def test_every_figure_of_several_seeds_covers_seeds_and_prompts():
    cards = {seed: whole_card(seed) for seed in range(3)}
    row = row_of(cards)
    by_hand = {
        "refusal": [labels(card, "harmful") for card in cards.values()],
        "over_refusal": [labels(card, "benign") for card in cards.values()],
        "task_score": [[r.score for r in card.rows if r.kind == "task"] for card in cards.values()],
        "task_loss_nats": [card.tasks[0].loss_per_example for card in cards.values()],
        "drift_kl_nats": [card.drift.per_prompt for card in cards.values()],
        "seconds": [[10.0], [20.0], [30.0]],
    }
    for name, values in by_hand.items():
        # the time of a fine-tune has no prompts: it varies over seeds
        over = [[run[0] for run in values]] if name == "seconds" else values
        expected, entry = seeds_and_prompts(over), row[name]
        assert entry["value"] == pytest.approx(np.mean(values)), name  # the mean, and no other
        assert (entry["low"], entry["high"]) == (expected.low, expected.high), name
        assert entry["per_seed"] == pytest.approx([np.mean(run) for run in values]), name
        assert entry["low"] < entry["value"] < entry["high"]
    # an interval over the prompts alone would leave out the first and the last seed
    of_the_mean = wilson(60 * row["over_refusal"]["value"], 60)
    assert row["over_refusal"]["high"] > of_the_mean.high


def test_a_rate_of_nothing_at_all_is_not_certain():
    cards = {seed: Scorecard(rows=rows("cccccccccc"), tasks=whole_card(0).tasks) for seed in range(3)}
    entry = row_of(cards)["refusal"]
    expected = wilson(0, 10)
    assert (entry["value"], entry["high"]) == (0.0, expected.high)


def test_nats_that_are_all_zero_are_no_count_of_successes():
    card = whole_card(0, prompts=4)
    still = replace(card, drift=replace(card.drift, kl_nats=0.0, per_prompt=(0.0,) * 4))
    entry = row_of({None: still})["drift_kl_nats"]
    assert (entry["value"], entry["low"], entry["high"]) == (0.0, 0.0, 0.0)


def test_what_was_not_kept_or_not_measured_has_no_interval():
    card = whole_card(1)
    old = replace(card, drift=None, tasks=(replace(card.tasks[0], loss_per_example=()),))
    worse = replace(old, tasks=(replace(old.tasks[0], loss_nats_per_token=card.tasks[0].loss_nats_per_token + 1),))
    row = row_of({0: old, 1: worse})
    assert row["task_loss_nats"]["value"] == pytest.approx(card.tasks[0].loss_nats_per_token + 0.5)  # their mean
    assert "low" not in row["task_loss_nats"] and "low" not in row["drift_kl_nats"]
    assert row_of({0: card})["seconds"] == {"value": 10.0, "per_seed": [10.0]}
    assert row_of({None: card})["seconds"]["per_seed"] == []


def run_of(folder, **models):
    """A run's folder with a card a model; a model is a letter a prompt, harmful ones and benign ones the same."""
    for name, run in models.items():
        found = rows(run) + tuple(replace(row, kind="benign") for row in rows(run))
        stage = folder / "stages" / f"evaluate-{name.replace('_', '-')}"
        Scorecard(rows=tuple(replace(row, response=name) for row in found)).save(stage / "card")
        write_json(stage / "stage.json", {})
    return folder


def test_changes_are_paired_by_seed_and_prompt(tmp_path):
    rng = np.random.default_rng(0)
    letters = {f"{arm}_{s}": "".join(rng.choice(["r", "c"], 40)) for arm in ("a", "b") for s in range(3)}
    run = run_of(tmp_path, **letters)
    a, b = ([[float(c == "r") for c in letters[f"{arm}_{s}"]] for s in range(3)] for arm in "ab")
    found = changes(run, [(f"a-{s}", f"b-{s}") for s in range(3)], 5)
    expected = paired_seeds_and_prompts(a, b, 5)
    for measure in ("refusals", "over-refusal"):
        assert found[measure]["value"] == pytest.approx(np.subtract(a, b).mean())
        ends = found[measure]["low"], found[measure]["high"]
        assert ends == pytest.approx((expected.low, expected.high), abs=0.01)  # its draws in another order
    assert "task score" not in found
    same = changes(run, [("a-0", "b-0")])["refusals"]
    entry = measured(read_candidate(run, "a-0", "b-0"), "refusal_loss")[0]
    check = decide(Policy(max_refusal_loss=5), [entry]).checks[0]
    assert (same["value"], same["low"], same["high"]) == (-check.value, -check.high, -check.low)


def test_a_floor_that_was_measured_by_asking_again_counts_for_refusals(tmp_path):
    run = run_of(tmp_path, plain_0="rrcc", plain_1="rccc", guarded_0="rrrc")
    for name, floor in (("plain-0", 0.1), ("plain-1", 0.3), ("guarded-0", 0.2)):
        write_json(tmp_path / "stages" / f"evaluate-{name}" / "noise.json", {"refusal: refusal": {"floor": floor}})
    found = changes(run, [("plain-0", "guarded-0")])
    assert (found["refusals"]["noise_floor"], found["over-refusal"]["noise_floor"]) == (0.2, None)
    assert changes(run, [("plain-1", "guarded-0")])["refusals"]["noise_floor"] == 0.3
    with pytest.raises(UserError, match=r"evaluate\.noise: one re-run shows no noise"):
        recipe_from_dict({"evaluate": {"noise": 1}})


@pytest.mark.parametrize("seeds", [1, 2])
@pytest.mark.parametrize("lost", [0, 2, 8, 20])
@pytest.mark.parametrize("unclear", [0, 3, 12])
def test_the_page_and_a_gate_say_the_same_of_one_card(tmp_path, lost, unclear, seeds):
    """Over a grid of losses and unclear answers: what the page calls lost a gate that allows nothing fails."""
    kept = 60 - lost - unclear
    models = {f"plain_{s}": "c" * lost + "u" * unclear + "r" * kept for s in range(seeds)}
    run = run_of(tmp_path, aligned="r" * 60, **models)
    found = changes(run, [(f"plain-{s}", "aligned") for s in range(seeds)])
    summary = {
        "rows": [{"name": "plain", "label": "plain"}],
        "against_aligned": [{"of": "plain", "measure": name, **change} for name, change in found.items()],
    }
    said = judge_all(summary)[0]
    gated = gate(run, Policy(max_refusal_loss=0), arm="plain-0").verdict
    assert (said.tone == "bad") == (gated.status == "failed") == (lost >= 8)
    assert gated.status != "passed"
    wider = gate(run, Policy(max_refusal_loss=0, max_over_refusal_rise=0), arm="plain-0").verdict.checks[0]
    assert wider.status != "failed" or said.tone == "bad"
    missed = f"one of up to {100 * gated.checks[0].high:.0f} points is not excluded"
    assert said.tone == "bad" or seeds > 1 or missed in said.sentence
    for budget in (5, 20, 50):  # nothing that the page leaves open has been failed, and the reverse
        status = gate(run, Policy(max_refusal_loss=budget), arm="plain-0").verdict.status
        assert status != "failed" or said.tone == "bad"
