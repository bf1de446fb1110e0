"""Columns on which an answer may rest are read, or it is said that they are not."""

import pytest

from holdfast.data import BadRowError, normalise_row, recognise


@pytest.mark.parametrize(
    ("row", "column"),
    [
        ({"prompt": "sum up", "completion": "s", "input": "a long text"}, "input"),
        ({"prompt": "sum up", "output": "s", "input": "a long text"}, "input"),
        ({"prompt": "q", "completion": "a", "context": "c"}, "context"),
        ({"system": "be brief", "messages": [{"role": "user", "content": "q"},
                                             {"role": "assistant", "content": "a"}]}, "system"),
        ({"Prompt": "what is it", "Completion": "a cat", "Image": "cat.png"}, "image"),
        ({"conversations": [{"from": "human", "value": "<image> what is it"},
                            {"from": "gpt", "value": "a cat"}], "images": ["cat.png"]}, "images"),
    ],
)  # fmt: skip
def test_a_column_that_is_not_read_is_named(row, column):
    assert any(f"1 rows also hold '{column}', which is not read" in note for note in recognise([row]).notes)


def test_what_is_read_or_empty_is_not_named():
    alpaca = {"instruction": "sum up", "input": "a long text", "output": "s", "system": "be brief", "images": []}
    assert recognise([alpaca, {"prompt": "p", "completion": "c", "input": None}]).notes == ()


def test_the_context_of_a_question_is_read_beside_an_input():
    row = normalise_row({"question": "q", "context": "c", "input": "more", "answer": "a"})
    assert row["prompt"][-1]["content"] == "q\nc"


def test_the_word_false_is_a_label_in_a_table_of_text():
    rows = [{"prompt": "p", "completion": "c", "label": label} for label in ("True", "False")]
    assert "marked false are learned too" in recognise(rows).line


def test_an_object_as_content_is_not_cut_down_to_its_text():
    turns = [{"role": "user", "content": "q"}, {"role": "tool", "content": {"degrees": 1, "text": "hot"}}]
    with pytest.raises(BadRowError, match="an object of"):
        normalise_row({"messages": [*turns, {"role": "assistant", "content": "a"}]})
