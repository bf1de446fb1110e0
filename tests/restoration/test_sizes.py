"""What a repair may have in a given time."""

import pytest

from holdfast.restoration import restore, sizes
from holdfast.restoration.sizes import Sizes, Units, seconds
from holdfast.restoration.tuning import most_checks

from .conftest import build_drifted, judge

ASKED = Sizes((16, 16), (32, 32), 200)
UNITS = Units(answer=1.0, loss=0.1, gradient=0.5)


def test_the_estimate_counts_what_a_repair_runs():
    data = (20, 20, 100)  # of each kind of prompts 10 to check and 10 to fit; 32 examples to check
    checks = (20 + 7 + 2) * (10 * UNITS.answer + (32 + 10) / 2 * UNITS.loss)
    assert seconds(Sizes((16, 16), (32, 32), 200, 8), UNITS, data, "replay") == pytest.approx(
        30 * UNITS.answer + checks + 200 * 24 * UNITS.gradient
    )


def test_checks_by_method():
    assert [most_checks(m, 200) for m in ("replay", "distil", "settle", "curvature")] == [20, 20, 4, 200]


def test_a_cut_keeps_what_a_repair_needs():
    assert ASKED.cut(0.5, 60) == Sizes((8, 8), (16, 16), 100, 4)
    assert ASKED.cut(0.05, 60) == Sizes((8, 8), (8, 8), 60, 2)
    assert Sizes((16, 16), (32, 32), 20).cut(0.05, 60).steps == 20


def test_sixty_steps_of_a_real_model_fit_a_quarter_of_an_hour():
    """Half a second an answer and one a row's gradient: its steps hold the time, so their rows are what is cut."""
    asked, units = Sizes((64, 32), (128, 64), 60), Units(answer=0.5, loss=0.3, gradient=1.0)
    least = seconds(asked.cut(0.05, 60), units, (100, 100, 400), "settle")
    assert least < 60 * 20 < seconds(Sizes((8, 8), (8, 8), 60), units, (100, 100, 400), "settle")


@pytest.fixture
def small(toy):
    subject, skill, task = build_drifted(toy)
    return subject, skill, task


def run(small, minutes, units, monkeypatch):
    monkeypatch.setattr(sizes, "measure_units", lambda *_: units)
    said = []
    settings = {"judge": judge, "prompts": (16, 16), "task_examples": (32, 32), "max_new_tokens": 6}
    result = restore(*small, steps=20, minutes=minutes, say=said.append, progress=False, **settings)
    return result, said


def test_a_repair_is_cut_to_its_time_and_says_so(small, monkeypatch):
    result, said = run(small, 1.0, UNITS, monkeypatch)
    assert result.settings["prompts"] == (8, 8) and result.settings["task_examples"] == (8, 8)
    assert any("cut as far as it goes" in words and "(16, 16)" in words for words in said)


def test_what_fits_is_what_was_asked_for(small, monkeypatch):
    result, said = run(small, 1.0, Units(0.0, 0.0, 0.0), monkeypatch)
    assert result.settings["prompts"] == (16, 16) and not any("cut" in words for words in said)


def test_timing_leaves_no_gradient_behind(small):
    subject, skill, task = small
    for parameter in subject.parameters().values():
        parameter.requires_grad_(True)
    units = sizes.measure_units(subject, skill.estimate.harmful, task, 4)
    assert min(units.answer, units.loss, units.gradient) > 0
    assert all(parameter.grad is None for parameter in subject.model.parameters())
