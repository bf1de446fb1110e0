"""A score belongs to what a row says, wherever the row stands; what does not match is refused by name."""

import logging
import math
import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.core.errors import UserError
from holdfast.data import Example, encode_rows, row_key
from holdfast.gradients import ScoreTable
from holdfast.gradients.scores import source_columns
from holdfast.selection import Selection, locate, select
from tests.conftest import build_tokenizer

ROWS = [{"prompt": f"say {k}", "completion": f"it is {k} " * (1 + k % 3)} for k in range(9)]
NORMS = (5.0, 1.0, 9.0, 4.0, 5.8, 30.0, 5.5, 0.1, 4.5)
KEPT = (0, 4, 6, 8)  # nearest the median, 5


def table_of(examples, norms=NORMS):
    n = len(examples)
    columns = np.asarray(norms[:n]), np.ones(n), np.full(n, 5)
    return ScoreTable(tuple(e.id for e in examples), *columns, **source_columns(examples))


@pytest.fixture(scope="module")
def examples():
    return encode_rows(ROWS, build_tokenizer())


@pytest.fixture(scope="module")
def chosen(examples):
    return select(table_of(examples))


def kept(rows, chosen):
    return [rows[k] for k in locate(chosen, [row_key(row) for row in rows]).kept]


def test_the_same_rows_in_the_same_order_are_cut_whatever_holds_them(chosen, examples):
    from datasets import Dataset

    assert chosen.indices == KEPT
    wanted = [ROWS[k] for k in KEPT]
    assert chosen.apply(ROWS) == wanted
    assert chosen.apply(tuple(ROWS)) == wanted
    assert chosen.apply(Dataset.from_list(ROWS)).to_list() == wanted
    assert chosen.apply(examples) == [examples[k] for k in KEPT]
    assert chosen.apply(list(examples)) == [examples[k] for k in KEPT]
    assert chosen.apply([{**row, "source": math.nan} for row in ROWS])[0]["prompt"] == ROWS[0]["prompt"]
    with_nulls = [{**row, "id": None} for row in ROWS]  # as tables fill what a row lacks
    assert chosen.apply(with_nulls) == [with_nulls[k] for k in KEPT]


def other(name):
    """The same data in one other state each, with what must be said about it."""
    changed = [dict(row) for row in ROWS]
    changed[3]["completion"] += "!"
    return {
        "reordered": (ROWS[::-1], "row 0 is not 'row 0#.*keep the order"),
        "two swapped": ([ROWS[1], ROWS[0], *ROWS[2:]], "row 0 is not .*keep the order"),
        "one put on top": ([{"prompt": "new", "completion": "new"}, *ROWS], "10 rows but 9 .*row 0 is not"),
        "one at the end": ([*ROWS, {"prompt": "new", "completion": "new"}], "10 rows but 9 were scored: row 9"),
        "one missing": (ROWS[:4] + ROWS[5:], "8 rows but 9 .*row 4 is not"),
        "cut off": (ROWS[:6], "6 rows but 9 .*'row 6#.*' is missing"),
        "one changed": (changed, "row 3 is not 'row 3#.*its content is another"),
        "other data": ([{"prompt": f"p{k}", "completion": "c"} for k in range(9)], "row 0 is not .*another"),
        "not rows at all": ([{"input_ids": [1, 2]}] * 9, "row 0 is not"),
        "rows and something else": ([*ROWS[:8], "a line"], "row 8 is not"),
    }[name]


STATES = ["reordered", "two swapped", "one put on top", "one at the end", "one missing", "cut off", "one changed"]


@pytest.mark.parametrize("name", [*STATES, "other data", "not rows at all", "rows and something else"])
@pytest.mark.parametrize("kind", ["list", "dataset"])
def test_other_rows_are_refused_with_the_row_named(chosen, name, kind):
    from datasets import Dataset

    rows, said = other(name)
    if kind == "dataset" and name != "rows and something else":
        rows = Dataset.from_list(rows)
    with pytest.raises(UserError, match=said):
        chosen.apply(rows)


@pytest.mark.parametrize("name", [*STATES, "other data"])
def test_other_examples_are_refused_too(chosen, name):
    rows, _ = other(name)
    with pytest.raises(UserError, match=r"row \d+ is not|were scored: |is missing"):
        chosen.apply(encode_rows(rows, build_tokenizer()))


def test_an_example_with_the_same_name_and_other_tokens_is_another(chosen, examples):
    cut = [replace(examples[0], prompt_ids=examples[0].prompt_ids[1:]), *list(examples)[1:]]
    with pytest.raises(UserError, match=r"row 0 is not .*its content is another"):
        chosen.apply(cut)


def test_tables_that_know_only_ids_compare_ids_and_without_them_say_so(caplog):
    by_id = select({"grad_norm": [1.0, 2.0, 3.0], "loss_nats": [1.0] * 3, "id": [7, 8, 9]}, keep=1.0)
    rows = [{"id": k, "text": "t"} for k in (7, 8, 9)]
    assert by_id.apply(rows) == rows
    with pytest.raises(UserError, match="row 0 is not '7'"):
        by_id.apply(rows[::-1])
    assert "by their position" not in caplog.text
    with caplog.at_level(logging.WARNING):
        by_id.apply(["a", "b", "c"])
    assert "taken by their position alone" in caplog.text
    with pytest.raises(UserError, match="2 rows but 3"):
        by_id.apply(["a", "b"])


@pytest.mark.parametrize("what", [{"train": ROWS}, iter(ROWS), "train.jsonl"])
def test_what_cannot_be_cut_by_position_is_refused(chosen, what):
    with pytest.raises(UserError, match="cannot be cut by position"):
        chosen.apply(what)


def test_a_data_frame_is_told_how(chosen):
    import pandas

    with pytest.raises(UserError, match="to_dict"):
        chosen.apply(pandas.DataFrame(ROWS))


@settings(max_examples=40, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(0, 4))
def test_locating_finds_every_row_in_any_order_among_any_others(random, more):
    scored = list(encode_rows(ROWS, build_tokenizer()))
    rows = [*ROWS, *({"prompt": f"other {k}", "completion": "x"} for k in range(more))]
    random.shuffle(rows)
    found = locate(select(table_of(scored)), [row_key(row) for row in rows])
    assert {rows[k]["prompt"] for k in found.kept} == {ROWS[k]["prompt"] for k in KEPT}
    assert [rows[k]["prompt"].startswith("other") for k in found.unscored] == [True] * more
    assert found.missing == ()


def test_rows_said_twice_are_told_apart_by_their_order():
    rows = [ROWS[0], ROWS[1], ROWS[0], ROWS[0]]
    scored = list(encode_rows(rows, build_tokenizer()))
    for take in ((0,), (2,), (0, 3), (1, 2)):
        chosen = replace(select(table_of(scored)), indices=take)
        assert locate(chosen, [row_key(row) for row in rows]).kept == take
        assert chosen.apply(rows) == [rows[k] for k in take]
    keys = [row_key(row) for row in [*rows, ROWS[0]]]
    assert locate(chosen, keys).unscored == (4,)  # a fourth copy was never scored
    assert [row.name for row in locate(chosen, keys[1:3]).missing] == [scored[2].id, scored[3].id]


def test_missing_rows_are_named(chosen):
    found = locate(chosen, [row_key(row) for row in ROWS[2:]])
    assert [row.name.split("#")[0] for row in found.missing] == ["row 0", "row 1"]


def test_a_row_of_several_samples_is_kept_when_at_least_half_of_them_are():
    rows = ROWS[:3]
    parts = [Example((1, 2), (k, 3), f"{k}", row=k // 3, row_hash=row_key(rows[k // 3])) for k in range(9)]
    chosen = replace(select(table_of(parts)), indices=(0, 4, 5, 7))
    assert chosen.apply(rows) == [rows[1]]
    assert kept(rows[::-1], chosen) == [rows[1]]
    assert chosen.apply(parts) == [parts[k] for k in (0, 4, 5, 7)]
    two = select(table_of(parts[:2] + parts[3:5]))
    assert replace(two, indices=(1, 2)).apply(rows[:2]) == rows[:2]


def test_a_selection_without_hashes_cannot_be_located(tmp_path):
    with pytest.raises(UserError, match="score again"):
        locate(select({"grad_norm": [1.0], "loss_nats": [1.0]}), ["x"])


def test_a_selection_and_a_table_bring_the_rows_back_from_their_files(chosen, examples, tmp_path):
    chosen.save(tmp_path / "selection.json")
    assert Selection.load(tmp_path / "selection.json") == chosen
    table = replace(table_of(examples), skipped=("train.jsonl line 3",))
    table.to_parquet(tmp_path / "s.parquet")
    back = ScoreTable.from_parquet(tmp_path / "s.parquet")
    assert back.row_hash == tuple(row_key(row) for row in ROWS)
    assert back.content_hash == tuple(example.content_hash for example in examples)
    assert back.row is not None and back.row.tolist() == list(range(9))
    assert back.skipped == ("train.jsonl line 3",)
    assert back[2:4].row_hash == back.row_hash[2:4] and back[2:4].row.tolist() == [2, 3]
    for scores in (tmp_path / "s.parquet", back, back.to_pandas(), {name: back[name] for name in back.columns}):
        assert select(scores).apply(ROWS) == [ROWS[k] for k in KEPT]


def test_shuffling_the_table_moves_nothing(examples):
    order = list(range(9))
    random.Random(1).shuffle(order)
    moved = select(table_of([examples[k] for k in order], [NORMS[k] for k in order]))
    assert kept(ROWS, moved) == [ROWS[k] for k in KEPT]
