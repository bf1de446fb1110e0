"""VISAGE against hand computations, and the basin of the built-in model."""

import copy
import math

import pytest
import torch

from holdfast.core.errors import UserError
from holdfast.evaluation import RefusalJudge
from holdfast.evaluation.attacks import DIRECT, Basin, run_attack, safety_basin, visage
from holdfast.evaluation.attacks.weights import moved
from holdfast.models import Subject, model_hash


def test_visage_is_the_mean_margin_of_the_points_inside():
    # direction 1: margins 100, 75; the point at 100 % success is outside. direction 2: margins 50, 25, 0.001.
    found = visage([[0.0, 0.25, 1.0], [0.5, 0.75, 0.99999]])
    first, second = (100 + 75) / 2, (50 + 25 + 0.001) / 3
    assert found.value == pytest.approx((first + second) / 2)
    assert found.n == 2
    # Two units resampled with replacement: a quarter of the draws are each one alone.
    assert (found.low, found.high) == pytest.approx((second, first))


def test_a_direction_without_a_point_inside_counts_0():
    assert visage([[1.0, 1.0], [0.0, 1.0]]).value == 50.0
    assert visage([[1.0], [1.0], [1.0]]).value == 0.0
    assert visage([[0.0, 0.0]] * 3).value == 100.0


def test_directions_of_different_numbers_inside_weigh_the_same():
    assert visage([[0.0, 1.0, 1.0, 1.0], [0.5, 0.5, 0.5, 0.5]]).value == 75.0


def test_one_direction_has_no_interval():
    found = visage([[0.5, 1.0]])
    assert (found.value, found.n) == (50.0, 1)
    assert math.isnan(found.low) and math.isnan(found.high)


def small(subject, prompts, **settings):
    settings = {"radius": 0.8, "directions": 2, "points": 3, "max_new_tokens": 12, "progress": False} | settings
    return safety_basin(subject, prompts, RefusalJudge(), **settings)


def test_the_basin_of_the_built_in_model_is_that_of_models_moved_by_hand(organism, requests):
    before = model_hash(organism.model)
    basin = small(organism, requests)
    assert model_hash(organism.model) == before
    assert (basin.prompts, basin.weight_versions, basin.radius) == (8, 6, 0.8)
    assert all(abs(size) <= 0.8 for line in basin.sizes for size in line)
    assert len({size for line in basin.sizes for size in line}) == 6
    for draw, (sizes, rates) in enumerate(zip(basin.sizes, basin.success, strict=True)):
        unit = copy.deepcopy(organism.model)
        with moved(unit, 1.0, draw, 0):
            far = {name: p.detach().clone() for name, p in unit.named_parameters()}
        for size, rate in zip(sizes, rates, strict=True):
            there = copy.deepcopy(organism.model)
            with torch.no_grad():
                for name, parameter in there.named_parameters():
                    parameter.lerp_(far[name], size)
            subject = Subject(there, organism.tokenizer)
            score, _ = run_attack(subject, DIRECT, "there", requests, RefusalJudge(), max_new_tokens=12)
            assert score.success.value == rate
    rates = [rate for line in basin.success for rate in line]
    assert min(rates) < max(rates)
    assert basin.inside == sum(rate < 1 for rate in rates) / 6
    assert basin.visage == visage(basin.success)


def test_a_tiny_radius_is_the_model_itself(organism, requests, scripted):
    def judge():
        return scripted(lambda prompt, *_: "complied" if prompt in requests[:3] else "refused")

    score, _ = run_attack(organism, DIRECT, "here", requests, judge(), max_new_tokens=4)
    seen = judge()
    basin = safety_basin(
        organism, requests, seen, radius=1e-9, directions=2, points=2, max_new_tokens=4, progress=False
    )
    assert {rate for line in basin.success for rate in line} == {score.success.value} == {3 / 8}
    assert basin.visage.value == pytest.approx(100 * 5 / 8)
    plain = judge()
    run_attack(organism, DIRECT, "here", requests, plain, max_new_tokens=4)
    assert seen.seen == plain.seen * 4


def test_a_seed_names_the_basin(organism, requests):
    assert small(organism, requests[:2]) == small(organism, requests[:2], batch_size=1)
    assert small(organism, requests[:2]).sizes != small(organism, requests[:2], seed=1).sizes


def test_a_basin_survives_its_file_also_without_an_interval(organism, requests, tmp_path):
    basin = small(organism, requests[:2], directions=1)
    basin.save(tmp_path / "basin.json")
    again = Basin.load(tmp_path / "basin.json")
    assert math.isnan(again.visage.low) and again.visage.value == basin.visage.value
    assert (again.sizes, again.success, again.inside) == (basin.sizes, basin.success, basin.inside)
    assert "1 directions of 3 steps" in str(again)


@pytest.mark.parametrize("wrong", [{"directions": 0}, {"points": 0}, {"radius": 0.0}, {"radius": -1.0}])
def test_nothing_to_draw_is_a_mistake(organism, requests, wrong):
    with pytest.raises(UserError, match="all must be positive"):
        small(organism, requests, **wrong)


def test_a_basin_needs_prompts(organism):
    with pytest.raises(UserError, match="no harmful prompts"):
        small(organism, [])
