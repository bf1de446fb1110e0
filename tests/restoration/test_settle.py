"""What settles: the rate that falls, the checks on its way, and which of them is a candidate."""

import sys

import pytest

from holdfast.models import adapter_parameters
from holdfast.restoration import restore
from holdfast.restoration.attempt import Attempt
from holdfast.restoration.tuning import Schedule

from .test_restore import SMALL, check


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
    monkeypatch.setattr(module, "conclude", conclude)
    restore(subject, skill, task, method="settle", **SMALL)
    assert seen == [True, names]
