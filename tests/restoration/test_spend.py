"""How far a repaired update is scaled down, and what of a falling rate is a candidate."""

import sys

import pytest
import torch

from holdfast.core import trees
from holdfast.models import adapter_parameters
from holdfast.restoration import restore
from holdfast.restoration.attempt import Attempt, Best
from holdfast.restoration.spend import SCALES, spend
from holdfast.restoration.tuning import Schedule
from holdfast.restoration.validation import Check

from .test_restore import SMALL, check


class Paid:
    """Validation whose bound is ``cost`` times what was taken off the update."""

    def __init__(self, subject, cost):
        self.adapter, self.cost, self.checked = adapter_parameters(subject.model), cost, []
        self.whole = self.size()

    def size(self):
        return float(sum(p.norm() for n, p in self.adapter.items() if "lora_B" in n).detach())

    def scale(self):
        return self.size() / self.whole

    def task_bound(self):
        return self.cost * (1 - self.scale())

    def check(self, step):
        self.checked.append(round(self.scale(), 4))
        return Check(step, 0.0, self.task_bound(), 1 - self.scale() / 2, 0.0, self.scale())


@pytest.mark.parametrize(
    ("cost", "expected"),
    [(0.1, [0.9, 0.8]), (0.5, []), (0.401, []), (0.395, [0.95]), (0.0, [0.8, 0.6])],
)
def test_the_update_is_scaled_down_while_two_fifths_of_the_limit_hold(drifted, cost, expected):
    subject, *_ = drifted
    before = trees.clone(adapter_parameters(subject.model))
    validation, best = Paid(subject, cost), Best(check(), check(refusal=1.0), 0.05)
    found = spend(subject, validation, best, check(step=40))
    assert validation.checked == expected and len(found) == len(expected)
    names = [candidate.name for candidate in best.candidates]
    assert names == [f"step 40 at scale {scale:g}" for scale in reversed(sorted(expected, reverse=True))]
    assert all(torch.equal(p, before[n]) for n, p in adapter_parameters(subject.model).items())
    assert min(SCALES) == 0.6


def test_a_falling_rate_is_the_same_on_the_average_and_ends_near_nothing():
    falling = Schedule(steps=100, learning_rate=2e-3, falling=True)
    rates = [falling.rate(step) for step in range(1, 101)]
    assert rates[0] == pytest.approx(4e-3) and rates[-1] == pytest.approx(4e-5)
    assert sum(rates) / 100 == pytest.approx(2e-3, rel=0.02) and rates == sorted(rates, reverse=True)
    assert Schedule(steps=100, learning_rate=2e-3).rate(77) == 2e-3
    assert falling.apart == 25 and Schedule(steps=100).apart == 10 == Schedule(steps=20, falling=True).apart


@pytest.mark.parametrize(("bound", "names"), [(0.01, ["step 60"]), (1.0, ["step 10"])])
def test_a_step_on_the_way_is_a_candidate_only_where_the_last_breaks_the_limit(drifted, monkeypatch, bound, names):
    module, seen = sys.modules["holdfast.restoration.restore"], []
    subject, skill, task = drifted

    def distil(subject, material, teachers, validation, best, schedule, **how):
        here = adapter_parameters(subject.model)
        best.offer(check(step=10, bound=0.01, refusal=1.0, loss=0.1), here)
        best.offer(last := check(step=60, bound=bound, refusal=0.9, loss=0.2), here)
        seen.append(schedule.falling)
        return Attempt((best.start, last))

    def conclude(subject, best, *args):
        seen.append([c.name for c in best.candidates if c.check.step])
        return original(subject, best, *args)

    original = module.conclude
    monkeypatch.setattr(module, "distil", distil)
    monkeypatch.setattr(module, "spend", lambda *args: ())
    monkeypatch.setattr(module, "conclude", conclude)
    restore(subject, skill, task, method="settle", **SMALL)
    assert seen == [True, names]
