"""Where the task's examples are lost, too few answers in their place are said before anything is repaired."""

import pytest

from holdfast.core.errors import UserError
from holdfast.restoration.material import check_samples


@pytest.mark.parametrize("sizes", [(0, 0, 0), (4, 2, 1), (4, 1, 2), (0, 2, 2)])
def test_too_few_answers_are_an_error(sizes):
    with pytest.raises(UserError, match=f"{sizes[0]}, {sizes[1]} and {sizes[2]} that are no refusals"):
        check_samples([[None] * size for size in sizes])


def test_enough_answers_pass():
    check_samples([[None], [None] * 2, [None] * 2])
