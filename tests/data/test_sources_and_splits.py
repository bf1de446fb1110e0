"""Every format gives the same rows; splits do not leak."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.core.errors import UserError
from holdfast.data import near_duplicates, read_examples, split_by_group
from holdfast.data.sources import read_rows

ROWS = [{"prompt": f"p{k}", "completion": f"c {k}"} for k in range(5)]


def write(kind, tmp_path):
    import csv

    from datasets import Dataset

    path = tmp_path / f"data.{kind}"
    if kind == "jsonl":
        path.write_text("\n".join(map(json.dumps, ROWS)))
    elif kind == "json":
        path.write_text(json.dumps(ROWS))
    elif kind == "csv":
        with path.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, ["prompt", "completion"])
            writer.writeheader()
            writer.writerows(ROWS)
    elif kind == "parquet":
        Dataset.from_list(ROWS).to_parquet(str(path))
    else:
        Dataset.from_list(ROWS).save_to_disk(str(path))
    return path


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "parquet", "folder"])
def test_every_format_gives_the_same_rows(kind, tmp_path):
    rows = read_rows(write(kind, tmp_path))
    assert [row.values for row in rows] == ROWS
    assert rows[2].where.startswith("data.")


def test_a_dataset_in_memory_is_a_source(tiny_tokenizer):
    from datasets import Dataset

    assert len(read_examples(Dataset.from_list(ROWS), tiny_tokenizer, limit=3)) == 3


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("a.jsonl", "", "no usable rows"),
        ("a.xml", "<a/>", "unknown format '.xml'"),
        ("a.json", "{}", "not a list of rows"),
        ("a.jsonl", "[1]\n", "is not an object"),
    ],
)
def test_unusable_files_are_one_clear_line(name, content, problem, tmp_path):
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(UserError, match=problem):
        read_rows(path)


def test_missing_files_and_unreachable_hub_ids(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_rows(tmp_path / "none.jsonl")
    with pytest.raises(UserError, match=r"hub cannot be reached|no such repository"):
        read_rows("nobody/nothing")
    with pytest.raises(UserError, match=r"a folder without rows; give .*datasets' save_to_disk"):
        read_rows(tmp_path)


@given(st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=30, unique=True))
def test_a_split_is_disjoint_complete_and_does_not_move_when_texts_are_added(texts):
    estimate, evaluate = split_by_group(texts)
    assert sorted(estimate + evaluate) == list(range(len(texts)))
    more_estimate, _ = split_by_group([*texts, "another text entirely"])
    assert [k for k in more_estimate if k < len(texts)] == estimate


def test_a_group_stays_together():
    estimate, evaluate = split_by_group([f"text {k}" for k in range(40)], [f"group {k // 2}" for k in range(40)])
    for side in (set(estimate), set(evaluate)):
        assert all((k ^ 1) in side for k in side)


def test_near_duplicates_find_rewordings_and_leave_others():
    texts = ["How do I bake a large loaf of bread?", "Write a poem about the sea"]
    against = ["how do i bake a large loaf of bread", "Paint a fence"]
    assert [(i, j) for i, j, _ in near_duplicates(texts, against)] == [(0, 0)]
