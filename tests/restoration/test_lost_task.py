"""Too few prompts: said before anything is repaired, and where they could not have shown a drift."""

import pytest

from holdfast.core.errors import UserError
from holdfast.core.rates import paired_rates
from holdfast.restoration.material import check_samples
from holdfast.restoration.verdict import no_drift_sentence


@pytest.mark.parametrize("sizes", [(0, 0, 0), (4, 2, 1), (4, 1, 2), (0, 2, 2)])
def test_too_few_answers_are_an_error(sizes):
    with pytest.raises(UserError, match=f"{sizes[0]}, {sizes[1]} and {sizes[2]} that are no refusals"):
        check_samples([[None] * size for size in sizes])


def test_enough_answers_pass():
    check_samples([[None], [None] * 2, [None] * 2])


@pytest.mark.parametrize(("prompts", "said"), [(4, True), (200, False)])
def test_no_drift_over_few_prompts_says_what_is_not_excluded(prompts, said):
    lost = paired_rates([1.0] * prompts, [1.0] * prompts)
    assert ("not excluded" in no_drift_sentence((lost, lost))) == said
