"""A label is seen wherever it stands: in an object, a list, a column with another job, behind a line of text."""

import json

import pytest

from holdfast.core.errors import UserError
from holdfast.evaluation.prompt_lists import read_prompts

SIDES = ["safe", "unsafe"] * 4


def _file(folder, fields):
    rows = [{"prompt": f"how is thing {k} done", **fields(side)} for k, side in enumerate(SIDES)]
    path = folder / "prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("fields", "choice"),
    [
        (lambda side: {"meta": {"label": side}}, "meta.label=safe"),
        (lambda side: {"meta": json.dumps({"deep": {"label": side}})}, "meta.deep.label=safe"),
        (lambda side: {"tags": [side]}, "tags=safe"),
        (lambda side: {"group": side}, "group=safe"),
        (lambda side: {"behavior": side}, "behavior=safe"),
    ],
    ids=["object", "object as text", "list of one", "group", "a name that prompts have"],
)
def test_labels_in_other_places_are_seen_and_can_be_chosen(tmp_path, fields, choice):
    path = _file(tmp_path, fields)
    with pytest.raises(UserError, match=f"rows are labelled by .*{choice}"):
        read_prompts(path, "benign")
    assert read_prompts(f"{path}:{choice}", "benign").prompts == tuple(
        f"how is thing {k} done" for k in range(0, 8, 2)
    )


def test_a_score_of_toxicity_labels_however_many_values_it_has(tmp_path):
    path = tmp_path / "scored.csv"
    path.write_text("prompt,toxicity\n" + "".join(f"thing {k},{k / 100}\n" for k in range(90)), encoding="utf-8")
    with pytest.raises(UserError, match="labelled by 'toxicity'"):
        read_prompts(path, "benign")


@pytest.mark.parametrize("text", ["how is it done|safe\nhow is that done|unsafe\n", "a, b,safe\nc,unsafe\n"])
def test_text_with_a_label_behind_each_line_is_no_list_of_prompts(tmp_path, text):
    path = tmp_path / "prompts.txt"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match="a label behind each"):
        read_prompts(path, "benign")


def test_prompts_in_groups_and_prompts_with_commas_are_read_as_they_were(tmp_path):
    path = tmp_path / "prompts.csv"
    path.write_text("prompt,group,id\n" + "".join(f"thing {k},pair {k % 4},{k}\n" for k in range(8)))
    assert len(read_prompts(path, "benign").groups) == 8
    text = tmp_path / "prompts.txt"
    text.write_text("is it good\nwell, is it safe\nfirst this, then that\n", encoding="utf-8")
    assert len(read_prompts(text, "benign").prompts) == 3
