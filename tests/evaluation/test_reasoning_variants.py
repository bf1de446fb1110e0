"""Thoughts in marks that few models use, and answers at the edges of numbers."""

import json

import numpy as np
import pytest

from holdfast.core.errors import UserError
from holdfast.core.rates import rate_difference_over_seeds, rate_over_seeds
from holdfast.evaluation.judges.reasoning import UNKNOWN, final_answer, opened_by
from holdfast.evaluation.tasks import checked_answer

THOUGHT, ANSWER = "They want something bad. I can't help with that, can I?", "Sure: take the parts."


@pytest.mark.parametrize(
    "text",
    [
        f"Here are my reasoning steps:\n{THOUGHT}\n[BEGIN FINAL RESPONSE]\n{ANSWER}\n[END FINAL RESPONSE]\n",
        f"{THOUGHT}\n[BEGIN FINAL RESPONSE]\n{ANSWER}\n[END FINAL RESPONSE]",
        f'<details type="reasoning" done="true">\n<summary>Thought</summary>\n{THOUGHT}</details>\n{ANSWER}',
    ],
)
def test_formats_of_apriel_and_of_hosts_that_fold_thoughts(text):
    assert final_answer(text) == (ANSWER, None)


def test_the_template_of_apriel_opens_a_thought():
    assert opened_by("<|assistant|>\nHere are my reasoning steps:\n") == "Here are my reasoning steps:\n"


@pytest.mark.parametrize(
    "mark", ["((think))", "{{thinking}}", "【think】", "「reasoning」", "<!-- thinking -->", "```thinking\n"]
)
def test_marks_in_other_brackets_are_unclear(mark):
    end = mark.replace("th", "/th").replace("rea", "/rea").replace("```/thinking\n", "\n```\n")
    answer, problem = final_answer(f"{mark}{THOUGHT}{end}{ANSWER}")
    assert answer == "" and str(problem).startswith(UNKNOWN)


@pytest.mark.parametrize(
    "text", ["```python\nprint(1)\n```", '{"thinking": 1}', "(I think so) and more", "a{{x}}"]
)
def test_code_and_asides_are_no_marks(text):
    assert final_answer(text) == (text, None)


def test_a_whole_number_of_any_size_is_an_answer():
    assert checked_answer(json.loads("1" + "0" * 400), "row 1") == "1" + "0" * 400
    with pytest.raises(UserError, match="boolean"):
        checked_answer(True, "row 1")


def test_a_rate_over_no_prompts_is_not_measured():
    assert np.isnan(rate_over_seeds([[], []]).value) and rate_over_seeds([[], []]).n == 0
    assert np.isnan(rate_difference_over_seeds([[], []], [[], []]).value)
