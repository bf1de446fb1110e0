"""A row is known by its content wherever it stands; names are unique; equal token sequences share a hash."""

import json

from hypothesis import given
from hypothesis import strategies as st

from holdfast.data import Example, read_examples, row_key
from holdfast.data.sources import read_rows

ROWS = [{"prompt": f"name {k}", "completion": f"two {k}"} for k in range(4)]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=4), VALUES, max_size=4))
def test_a_key_depends_on_content_only_not_on_order_or_nulls(row):
    assert row_key(dict(reversed(list(row.items())))) == row_key(row) == row_key({**row, "filled in": None})
    assert row_key({**row, "more": 1}) != row_key(row)


def test_the_same_rows_have_the_same_keys_in_parquet_and_jsonl(tmp_path):
    from datasets import Dataset

    rows = [{"messages": [{"role": "user", "content": "a"}], "n": 3, "extra": 0.5}, {"messages": [], "n": None}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    Dataset.from_list(rows).to_parquet(str(tmp_path / "a.parquet"))
    keys = [[row_key(row.values) for row in read_rows(tmp_path / f"a.{kind}")] for kind in ("jsonl", "parquet")]
    assert keys[0] == keys[1] == [row_key(row) for row in rows]


def test_an_example_remembers_its_row_past_bad_ones(tmp_path, tiny_tokenizer):
    lines = [json.dumps(ROWS[0]), "{broken", json.dumps({"prompt": "a"}), json.dumps(ROWS[1])]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    examples = read_examples(tmp_path / "a.jsonl", tiny_tokenizer, skip_bad_rows=True)
    assert [example.row for example in examples] == [0, 3]
    assert [example.row_hash for example in examples] == [row_key(ROWS[0]), row_key(ROWS[1])]


def test_ids_are_unique_and_a_repeated_one_is_said(tiny_tokenizer):
    rows = [{**row, "id": name} for row, name in zip(ROWS, ["a", "a", "a#2", "a"], strict=True)]
    examples = read_examples(rows, tiny_tokenizer)
    assert [example.id for example in examples] == ["a", "a#3", "a#2", "a#4"]
    assert any("2 rows share the id" in note for note in examples.notes)
    same = read_examples([ROWS[0], ROWS[0]], tiny_tokenizer)
    assert same[0].id != same[1].id
    assert same[0].row_hash == same[1].row_hash


def test_the_content_hash_sees_tokens_and_mask_not_names(tiny_tokenizer):
    plain = Example((1, 2), (3, 4), "a")
    assert plain.content_hash == Example((1,), (2, 3, 4), "b", (False, True, True)).content_hash
    assert plain.content_hash != Example((1, 2, 3), (4,), "a").content_hash
    assert plain.content_hash != Example((1, 2), (3, 5), "a").content_hash
    one, other = (read_examples(rows, tiny_tokenizer).rendering_hash for rows in (ROWS, ROWS[::-1]))
    assert one != other
    assert read_examples(ROWS, tiny_tokenizer).rendering_hash == one
