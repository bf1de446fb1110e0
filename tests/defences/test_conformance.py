"""The suite passes honest defences and names the rule that a cheating one breaks; entry points are found."""

import sys
import textwrap

import pytest

from holdfast.core.errors import UserError
from holdfast.defences import Anchor, Material, build, check_conformance, names
from holdfast.defences import anchor as anchor_module
from holdfast.training import DriftBudget
from tests.defences import cheats


def broken(make, subject, needs=frozenset({"prompts"})):
    findings = check_conformance(make, needs, subject=subject)
    assert [finding.rule for finding in findings] == ["inputs", "deterministic", "resumes", "reads", "steps"]
    return {finding.rule: finding.problem for finding in findings if not finding.kept}


@pytest.fixture
def subject(build):
    return build(lora=True)


@pytest.mark.parametrize(
    "cheat, rule, problem",
    [
        (cheats.Meddler, "inputs", "choose() changed the pool"),
        (cheats.Gambler, "deterministic", "different weights"),
        (cheats.Amnesiac, "resumes", "other weights"),
        (cheats.Peeker, "reads", "norm"),
        (cheats.Sprinter, "steps", "loss() changed the weights"),
    ],
)
def test_a_cheating_defence_is_caught_by_the_rule_it_breaks(subject, cheat, rule, problem):
    found = broken(cheat, subject)
    assert problem in found.pop(rule)
    # What follows from it: no seed, no resuming; a step of its own is a weight and a step too many.
    allowed = {"deterministic": {"resumes"}, "inputs": {"deterministic"}}
    assert set(found) <= allowed.get(rule, set())


def test_what_it_is_made_from_is_watched_too(subject):
    assert set(broken(cheats.Honest, subject, frozenset())) == {"reads"}


def test_the_anchor_with_a_budget_passes_with_readings_at_every_step(subject, monkeypatch):
    monkeypatch.setattr(anchor_module, "WATCH_EVERY", 1)
    made = []

    def make(material):
        made.append(Anchor(material.prompts, budget=DriftBudget(1e-4), every=2, per_step=3, max_new_tokens=4))
        return made[-1]

    assert broken(make, subject) == {}
    assert made[0].weight != 1.0 and made[0].state == made[1].state == made[2].state


def test_another_packages_defence_is_found_by_its_entry_point(subject, tmp_path, monkeypatch):
    module = """
        from tests.defences.cheats import Honest

        class Lite(Honest):
            name = "lite"

        broken = 3
        """
    (tmp_path / "anchor_lite.py").write_text(textwrap.dedent(module))
    info = tmp_path / "anchor_lite-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: anchor-lite\nVersion: 1.0\n")
    entries = "[holdfast.defences]\nlite = anchor_lite:Lite\nodd = anchor_lite:broken\ngone = nowhere:Thing\n"
    (info / "entry_points.txt").write_text(entries)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert {"anchor", "lite", "odd"} <= set(names())
    assert build("lite", 0.5, prompts=("a",)).strength == 0.5
    assert not [finding for finding in check_conformance("lite", subject=subject) if not finding.kept]
    with pytest.raises(UserError, match="is no defence"):
        build("odd")
    with pytest.raises(UserError, match="cannot be imported"):
        build("gone")
    with pytest.raises(UserError, match="'lit': none of that name; use one of adversarial-kl, anchor"):
        build("lit")
    sys.modules.pop("anchor_lite")


def test_material_hands_out_what_is_declared():
    material = Material(frozenset({"controls"}), prompts=("a",), controls=("b",))
    assert material.controls == ("b",)
    with pytest.raises(Exception, match="does not declare"):
        _ = material.prompts
