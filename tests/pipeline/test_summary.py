"""The floor beside a difference in a summary: from the seeds of both sides, prompt by prompt."""

import pytest

from holdfast.core.statistics import noise_floor
from holdfast.evaluation import Scorecard
from holdfast.evaluation.scorecard import ResponseRow
from holdfast.pipeline.summary import _floor

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
