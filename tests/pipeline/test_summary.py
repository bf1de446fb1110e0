"""What a summary says of several seeds: means with intervals that cover seeds and prompts, and noise floors."""

from dataclasses import replace
from types import SimpleNamespace

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
from holdfast.pipeline import recipe_from_dict
from holdfast.pipeline.summary import _asked_again, _difference, _floor, _row

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


def test_differences_are_paired_by_seed_and_prompt():
    rng = np.random.default_rng(0)
    a, b = ((rng.random((3, 40)) < rate).astype(float) for rate in (0.7, 0.5))
    found, expected = _difference(a, b, 5), paired_seeds_and_prompts(a.tolist(), b.tolist(), 5)
    assert found == expected and found.value == pytest.approx((a - b).mean())
    same = _difference(a, a, 5)
    assert same.low < 0 == same.value < same.high  # forty prompts that agree are not certainty
    assert _difference(a[:1], b[:1], 5).method == "tango"
    scores = rng.random((2, 20))
    assert _difference(scores, scores / 2, 0) == paired_seeds_and_prompts(scores.tolist(), (scores / 2).tolist())


def test_a_floor_that_was_measured_by_asking_again_counts_for_refusals(tmp_path):
    """Of every card of both sides; only where the recipe asks for it."""
    sides = {"plain": cards("rrcc", "rccc"), "guarded": cards("rrrc")}
    floors = iter((0.1, 0.3, 0.2))
    for name, found in sides.items():
        for seed in found:
            folder = tmp_path / f"evaluate-{name}-{seed}"
            folder.mkdir()
            write_json(folder / "noise.json", {"refusal: refusal": {"floor": next(floors)}})

    def run_with(noise):
        recipe = recipe_from_dict({"evaluate": {"noise": noise}})
        return SimpleNamespace(recipe=recipe, stage=lambda name: tmp_path / name)

    assert _asked_again(run_with(3), sides) == [0.1, 0.3, 0.2] and _asked_again(run_with(0), sides) == []
    with pytest.raises(UserError, match=r"evaluate\.noise: one re-run shows no noise"):
        run_with(1)
