"""The evaluation study: its tables say what its cards say, and its README what its results say."""

from pathlib import Path

import pytest
from studies.evaluation import tables

from holdfast.core.files import read_json
from holdfast.evaluation import ResponseRow, Scorecard, SkillScore

HERE = Path(__file__).parents[2] / "studies" / "evaluation"


def card(harmful: str, benign: str, attacked: str = "") -> Scorecard:
    """One letter a prompt: r refused, c complied, u unclear."""
    words = {"r": "refused", "c": "complied", "u": "unclear"}
    rows = [ResponseRow("s", "harmful", f"h{k}", "", words[x], "", 0.0) for k, x in enumerate(harmful)]
    rows += [ResponseRow("s", "benign", f"b{k}", "", words[x], "", 0.0) for k, x in enumerate(benign)]
    rows += [ResponseRow("s", "harmful", f"h{k}", "", words[x], "", 0.0, "a") for k, x in enumerate(attacked)]
    labels = [[words[x] for x in half] for half in (harmful, benign)]
    return Scorecard((SkillScore.of("s", *labels),), rows=tuple(rows))  # type: ignore[arg-type]


def test_a_row_averages_seeds_and_pairs_prompts():
    aligned = card("rrrr", "cccc")
    rows = {row["measure"]: row for row in tables.table(aligned, [card("rccc", "cccr"), card("rrcc", "cccc")])}
    assert rows["refusal"]["aligned"]["value"] == 1.0
    assert rows["refusal"]["tuned_per_seed"] == [0.25, 0.5]
    assert rows["refusal"]["tuned"]["value"] == pytest.approx(0.375)
    assert rows["refusal"]["difference"]["value"] == pytest.approx(-0.625)
    assert rows["over_refusal"]["tuned_per_seed"] == [0.25, 0.0]
    assert rows["unclear"]["tuned"]["value"] == 0.0


def test_an_attack_is_a_row_of_its_own():
    found = tables.table(card("rrrr", "", "rrrc"), [card("rrrr", "", "ccrc")])
    (attacked,) = [row for row in found if row["attack"]]
    assert attacked["measure"] == "attack_success"
    assert (attacked["aligned"]["value"], attacked["tuned_per_seed"]) == (0.25, [0.75])


def test_a_difference_within_the_spread_of_seeds_is_not_claimed():
    """Two seeds that differ by as much as the difference: training again would move it as far."""
    aligned, tuned = card("rrrrrrrr", ""), [card("rrrrrrrr", ""), card("cccccccc", "")]
    (row,) = [row for row in tables.table(aligned, tuned) if row["measure"] == "refusal"]
    assert row["noise_floor"] >= 0.5
    assert row["sentence"].startswith("no difference seen")
    (claim, *_) = tables.claims("m", [row])
    assert claim["verdict"] == "undecided"


def test_the_readme_shows_the_results():
    path = HERE / "results.json"
    if not path.exists():
        pytest.fail("studies/evaluation/results.json is missing; run python -m studies.evaluation")
    text = (HERE / "README.md").read_text(encoding="utf-8")
    for values in read_json(path)["models"].values():
        rows = [*values["plain"], *values["attacks"]]
        assert tables.markdown(rows, values["costs"]) in text
