"""A difference in one line: with its floor, without one, from summaries of before there was one."""

import pytest

from holdfast.report.wording import difference_sentence

SEEN = {"name": "refusals, guarded minus plain", "value": 0.5, "low": 0.25, "high": 0.75, "n": 40}
HELD = {**SEEN, "value": -0.05, "low": -0.15, "high": 0.05}
NUMBERS = "+50.0 points [+25.0, +75.0] over 40 prompts"


@pytest.mark.parametrize(
    ("difference", "said"),
    [
        ({**SEEN, "noise_floor": 0.2}, f"{NUMBERS}, the interval excludes 0 and the noise floor is 20.0 points"),
        ({**SEEN, "noise_floor": 0.6}, f"no difference seen: {NUMBERS}, below the noise floor of 60.0 points"),
        ({**SEEN, "noise_floor": 0.0}, f"{NUMBERS}, the interval excludes 0 and the noise floor is 0.0 points"),
        ({**SEEN, "noise_floor": None}, f"{NUMBERS}, the interval excludes 0; no noise floor was measured"),
        (SEEN, f"{NUMBERS}, the interval excludes 0; no noise floor was measured"),
        (HELD, "no difference seen: -5.0 points [-15.0, +5.0] over 40 prompts, the interval holds 0"),
        ({**SEEN, "low": None}, "not measured"),
        ({**SEEN, "value": None, "noise_floor": 0.1}, "not measured"),
    ],
)
def test_a_difference_says_what_may_be_said(difference, said):
    assert difference_sentence(difference) == f"refusals, guarded minus plain: {said}"
