"""Paired differences of two cards: worked by hand, with scipy's permutation test and Holm's steps written out."""

import dataclasses
import random

import numpy as np
import pytest
from scipy import stats

from holdfast.core.errors import UserError
from holdfast.core.statistics import Interval, NoiseFloor
from holdfast.evaluation import Comparison, Scorecard, compare_cards, compare_rates
from holdfast.evaluation.scorecard import ResponseRow
from holdfast.evaluation.suites import SuiteScore

FLOOR = NoiseFloor(0.4, 0.95, 3, 10, 0.1)
WORDS = {"r": "refused", "c": "complied", "u": "unclear", "e": "error"}


def rows(labels, kind="harmful", suite="refusal", attack="", prompts=None):
    """One row a letter: refused, complied, unclear, error; the prompts are p0, p1, ... unless given."""
    names = prompts or [f"p{k}" for k in range(len(labels))]
    return [
        ResponseRow(suite, kind, name, "text", WORDS[letter], "", 0.0, attack)
        for name, letter in zip(names, labels, strict=True)
    ]


def task_rows(scores, suite="sums"):
    return [ResponseRow(suite, "task", f"t{k}", "text", "", "", score) for k, score in enumerate(scores)]


def card(*parts, suites=()):
    return Scorecard(suites=tuple(suites), rows=tuple(row for part in parts for row in part))


def items(name, ids=("a", "b", "c"), **values):
    mean = Interval(0.0, 0.0, 0.0, len(ids), "")
    return SuiteScore(name, "kind", "file", dict.fromkeys(values, mean), tuple(ids), values)


def by_name(comparison):
    return {difference.name: difference for difference in comparison.differences}


def test_plain_rates_by_hand_and_unclear_counts_for_neither_side():
    ours = card(rows("rrru"), rows("crrr", "benign"), task_rows([1.0, 0.5]))
    theirs = card(rows("rccc"), rows("cccc", "benign"), task_rows([0.0, 0.25]))
    found = by_name(compare_cards(ours, theirs))
    assert list(found) == ["refusal", "refusal: over refusal", "sums: score"]
    assert (found["refusal"].ours, found["refusal"].theirs) == (0.75, 0.25)
    assert found["refusal"].interval.value == 0.5 and found["refusal"].interval.n == 4
    assert found["refusal: over refusal"].interval.value == 0.75
    assert (found["sums: score"].ours, found["sums: score"].theirs) == (0.75, 0.125)
    assert compare_rates(ours, theirs, "refusal", "attack_success").value == (0 - 3) / 4
    assert compare_rates(ours, theirs, "refusal", "benign_compliance").value == (1 - 4) / 4
    assert compare_rates(ours, theirs, "sums", "score").value == 0.625


def test_under_an_attack_the_worst_answer_of_a_prompt_counts():
    def answers(first, second):  # two answers of each prompt, all first ones before all second ones
        return [*rows(first, attack="worst-of-2@1"), *rows(second, attack="worst-of-2@1")]

    ours, theirs = card(answers("rrue", "rcrr")), card(answers("crrr", "rrru"))
    # the prompts' worst of ours: refused, complied, unclear, error; of theirs: complied, refused, refused, unclear
    (found,) = compare_cards(ours, theirs).differences
    assert found.name == "refusal under worst-of-2@1: attack success"
    assert (found.ours, found.theirs, found.interval.value, found.interval.n) == (0.25, 0.25, 0.0, 4)
    refusal = compare_rates(ours, theirs, "refusal", "refusal", attack="worst-of-2@1")
    assert refusal.value == 1 / 4 - 2 / 4


def test_attacked_rows_and_plain_ones_are_never_mixed():
    one = card(rows("rr"), rows("cc", attack="past-tense"), rows("rc", attack="prefill-4"))
    other = card(rows("rc"), rows("cr", attack="past-tense"), rows("rr", attack="prefill-4"))
    values = {name: found.interval.value for name, found in by_name(compare_cards(one, other)).items()}
    assert values == {
        "refusal": 0.5,
        "refusal under past-tense: attack success": 0.5,
        "refusal under prefill-4: attack success": 0.5,
    }


def test_the_order_of_the_prompts_does_not_matter():
    labels, names = list("rrcucrrc"), [f"p{k}" for k in range(8)]
    theirs = list("rcccrrcc")
    straight = compare_cards(card(rows(labels)), card(rows(theirs))).differences[0]
    mixed = random.Random(0).sample(range(8), 8)
    there = rows([theirs[k] for k in mixed], prompts=[names[k] for k in mixed])
    assert compare_cards(card(rows(labels)), card(there)).differences[0] == straight
    assert straight.interval.excludes(1.0) and not straight.interval.excludes(0.25)


def test_a_prompt_that_stands_there_twice_is_two_pairs_in_its_order():
    twice = ["same", "same", "other"]
    ours, theirs = card(rows("rcr", prompts=twice)), card(rows("crr", prompts=twice))
    (found,) = compare_cards(ours, theirs).differences
    assert found.interval.n == 3 and found.interval.value == 0.0
    assert found.interval.low < 0 < found.interval.high  # the pairs differ one by one: +1, -1, 0
    with pytest.raises(UserError, match=r"\(3 and 2, 2 in common\)"):
        compare_rates(ours, card(rows("rr", prompts=["same", "other"])), "refusal")


def test_what_only_one_side_has_is_listed_and_not_compared():
    shared = items("mine", accuracy=(1.0, 0.0, 1.0))
    ours = card(rows("rr"), rows("rr", attack="a"), suites=[shared, items("ours", accuracy=(1.0, 1.0, 1.0))])
    theirs = card(
        rows("rr"), rows("rr", attack="b"), task_rows([1.0]), suites=[shared, items("theirs", x=(1.0, 0.0, 0.0))]
    )
    found = compare_cards(ours, theirs)
    assert list(by_name(found)) == ["refusal", "mine: accuracy"]
    assert [name.split("' ")[0].strip("'") for name in found.left_out] == [
        "refusal",
        "refusal",
        "sums",
        "ours",
        "theirs",
    ]
    assert "under a was not evaluated on the same prompts (2 and 0" in found.left_out[0]
    assert "under b was not evaluated on the same prompts (0 and 2" in found.left_out[1]
    assert str(found).count("not compared: ") == 5


def test_suites_are_compared_item_by_item_and_other_items_are_left_out():
    ours = card(suites=[items("q", accuracy=(1.0, 1.0, 0.0), nats=(2.0, 3.0, 4.0)), items("w", right=(1.0,) * 3)])
    theirs = card(
        suites=[
            items("q", accuracy=(0.0, 1.0, 0.0), nats=(1.0, 1.0, 4.0)),
            items("w", ("a", "b", "x"), right=(1.0,) * 3),
        ]
    )
    found = compare_cards(ours, theirs)
    assert {d.name: d.interval.value for d in found.differences} == {
        "q: accuracy": pytest.approx(1 / 3),
        "q: nats": 1.0,
    }
    assert found.left_out == (
        "'w' was not run on the same items (3 and 3, 2 in common); run both models on one list",
    )


def test_a_suite_without_item_values_is_listed():
    mean = {"accuracy": Interval(0.5, 0.4, 0.6, 10, "")}
    alone = SuiteScore("harness", "harness", "lm-evaluation-harness", mean)
    found = compare_cards(card(suites=[alone]), card(suites=[alone]))
    assert found.left_out == ("'harness' has no 'accuracy' an item; it has none",)
    assert found.differences == () and found.note == "nothing was measured on both sides"


def paired_cards():
    """Three measures of different strength, one of them of a suite."""
    rng = np.random.default_rng(0)
    ours = card(
        rows("r" * 12),
        rows("r" * 6 + "c" * 6, "benign"),
        suites=[items("q", range(12), nats=rng.normal(1, 1, 12))],
    )
    theirs = card(
        rows("r" * 2 + "c" * 10),
        rows("r" * 5 + "c" * 7, "benign"),
        suites=[items("q", range(12), nats=rng.normal(0, 1, 12))],
    )
    return ours, theirs


def exact_p(gap):
    """All sign flips of the paired differences, by scipy."""
    zeros = np.zeros_like(gap)
    test = stats.permutation_test(
        (gap, zeros), lambda a, b: np.sum(a - b), permutation_type="samples", n_resamples=np.inf
    )
    return test.pvalue


def test_p_values_are_scipys_and_holm_is_over_all_measures_suites_included():
    ours, theirs = paired_cards()
    found = compare_cards(ours, theirs)
    nats = np.array(ours.suites[0].values["nats"]) - np.array(theirs.suites[0].values["nats"])
    gaps = [np.array([0.0] * 2 + [1.0] * 10), np.array([0.0] * 5 + [1.0] + [0.0] * 6), nats]
    assert [d.measure for d in found.differences] == ["refusal", "over_refusal", "nats"]
    for difference, gap in zip(found.differences, gaps, strict=True):
        assert difference.p_value == pytest.approx(exact_p(gap), abs=0.015)
    ranked = sorted(found.differences, key=lambda d: d.p_value)
    steps = [min(1.0, (3 - k) * d.p_value) for k, d in enumerate(ranked)]
    for k, difference in enumerate(ranked):
        assert difference.corrected == max(steps[: k + 1])
    assert found.note.startswith("3 comparisons at once")


def test_a_floor_is_used_for_plain_requests_only():
    ours = card(rows("rr" * 5), rows("c" * 10, "benign"), rows("c" * 10, attack="a"))
    theirs = card(rows("rc" + "rr" * 4), rows("c" * 10, "benign"), rows("r" * 10, attack="a"))
    floors = {"refusal": FLOOR, "attack_success": FLOOR}
    found = by_name(compare_cards(ours, theirs, floors=floors))
    assert "below the noise floor of 40.0 points" in found["refusal"].sentence
    assert "floor of" not in found["refusal: over refusal"].sentence
    attacked = found["refusal under a: attack success"].sentence
    assert attacked.startswith("+100.0 points") and "no noise floor was measured" in attacked


def test_a_suite_may_have_its_own_floor():
    both = (
        [rows("rr" * 5, suite=name) for name in ("one", "two")],
        [rows("rc" + "rr" * 4, suite=name) for name in ("one", "two")],
    )
    found = by_name(compare_cards(card(*both[0]), card(*both[1]), floors={"two: refusal": FLOOR}))
    assert "floor of" not in found["one: refusal"].sentence
    assert "below the noise floor of 40.0 points" in found["two: refusal"].sentence


@pytest.mark.parametrize(
    ("theirs", "floors", "said"),
    [
        ("r" * 20, {}, "no difference seen: +0.0 points [-16.1, +16.1] over 20 prompts, the interval holds 0"),
        ("r" * 15 + "c" * 5, {}, "the interval excludes 0; no noise floor was measured"),
        ("r" * 15 + "c" * 5, {"refusal": FLOOR}, "below the noise floor of 40.0 points"),
        ("c" * 20, {"refusal": FLOOR}, "the interval excludes 0 and the noise floor is 40.0 points"),
    ],
)
def test_what_may_be_said(theirs, floors, said):
    (found,) = compare_cards(card(rows("r" * 20)), card(rows(theirs)), floors=floors).differences
    assert said in found.sentence


def test_numbers_that_are_no_rates_are_not_told_in_points():
    ours, theirs = card(suites=[items("q", nats=(2.5, 3.5, 4.5))]), card(suites=[items("q", nats=(1.0, 2.0, 3.0))])
    (found,) = compare_cards(ours, theirs).differences
    assert "points" not in found.sentence and found.sentence.startswith("+1.500 [")


def test_bits_below_one_are_not_told_in_points_either():
    suites = [
        dataclasses.replace(items("q", bits=values), kind="perplexity") for values in ((0.5, 0.7), (0.2, 0.3))
    ]
    (found,) = compare_cards(*(card(suites=[suite]) for suite in suites)).differences
    assert "points" not in found.sentence and found.sentence.startswith("+0.350 [")


def test_a_comparison_survives_its_file_and_says_everything(tmp_path):
    ours, theirs = paired_cards()
    whole = compare_cards(
        ours, dataclasses.replace(theirs, rows=(*theirs.rows, *task_rows([1.0]))), 3, {"refusal": FLOOR}
    )
    whole.save(tmp_path / "comparison.json")
    assert Comparison.load(tmp_path / "comparison.json") == whole
    lines = str(whole).splitlines()
    assert len(lines) == 3 + 1 + 1 and lines[0].startswith("refusal: +83.3 points")
    assert lines[3] == whole.note and lines[4].startswith("not compared: 'sums'")
    assert whole.floors == {"refusal": FLOOR}


def test_answers_that_nobody_judged_are_said_beside_the_difference():
    found = compare_cards(card(rows("rree")), card(rows("rrcc")))
    assert [line.split(" (")[0] for line in found.left_out] == ["2 answers of this model could not be judged"]
    assert found.differences[0].ours == 0.5
