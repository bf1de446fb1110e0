"""Files that no tutorial shows: odd folders, columns and encodings, rows that say nothing."""

import json
from datetime import date

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from holdfast.core.errors import UserError
from holdfast.data import normalise_row, read_examples
from holdfast.data.sources import read_rows

PAIR = {"prompt": "say two", "completion": "two"}
COLUMNS = {"prompt": ["say two", "say three"], "completion": ["two", "three"]}


def written(path, **columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({**COLUMNS, **columns}), path)
    return path


def test_a_folder_is_read_if_it_holds_one_file_or_all_parts_of_one_split(tmp_path):
    parts = [written(tmp_path / "hub" / "data" / f"train-0000{k}-of-00002.parquet") for k in (0, 1)]
    (tmp_path / "hub" / "README.md").write_text("# about")
    notes: list[str] = []
    rows = read_rows(str(tmp_path / "hub"), notes=notes)
    assert [row.where for row in rows] == [f"{part.name} row {k}" for part in parts for k in (0, 1)]
    assert [row.position for row in rows] == [0, 1, 2, 3] and "train-00001-of-00002" in notes[0]
    parts[1].unlink()
    with pytest.raises(UserError, match="all parts of one split"):
        read_rows(str(tmp_path / "hub"))
    with pytest.raises(UserError, match=r"train-00000-of-00002.*validation"):
        written(parts[1])
        written(tmp_path / "hub" / "data" / "validation-00000-of-00001.parquet")
        read_rows(str(tmp_path / "hub"))
    (tmp_path / "nothing").mkdir()
    with pytest.raises(UserError, match="a folder without rows"):
        read_rows(str(tmp_path / "nothing"))
    with pytest.raises(UserError, match="rows cannot be read from ''"):
        read_rows("")


def test_a_saved_data_set_without_rows(tmp_path):
    from datasets import Dataset

    Dataset.from_dict(COLUMNS).select([]).save_to_disk(str(tmp_path / "none"))
    with pytest.raises(UserError, match="no usable rows"):
        read_rows(str(tmp_path / "none"))


def test_columns_beside_the_text_do_not_matter(tmp_path):
    columns = {
        "day": pa.array([date(2020, 1, 1)] * 2),
        "map": pa.array([[("a", 1)], []], pa.map_(pa.string(), pa.int64())),
        "raw": [b"\xff", b""],
    }
    assert [row.values["prompt"] for row in read_rows(written(tmp_path / "a.parquet", **columns))] == [
        "say two",
        "say three",
    ]
    picture = pa.array(
        [{"bytes": b"", "path": "x"}] * 2, pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    )
    table = pa.table({**COLUMNS, "picture": picture})
    kinds = {name: {"dtype": "string", "_type": "Value"} for name in COLUMNS} | {"picture": {"_type": "Image"}}
    about = {"huggingface": json.dumps({"info": {"features": kinds}})}
    pq.write_table(table.replace_schema_metadata(about), tmp_path / "b.parquet")
    notes: list[str] = []
    assert read_rows(tmp_path / "b.parquet", notes=notes)[1].values == {
        "prompt": "say three",
        "completion": "three",
    }
    assert notes == ["b.parquet: columns ['picture'] hold pictures or sound, which are not read"]
    twice = pa.Table.from_arrays([pa.array(["a"])] * 3, names=["prompt", "prompt", "completion"])
    pq.write_table(twice, tmp_path / "c.parquet")
    with pytest.raises(UserError, match=r"names the columns \['prompt'\] twice"):
        read_rows(tmp_path / "c.parquet")


@pytest.mark.parametrize(
    ("name", "content", "note"),
    [
        (
            "a.csv",
            "prompt,completion\n日本日本日本日本日本,日本日本日本日本日本日本日本\n".encode("utf-16-le"),
            "UTF-16",
        ),
        (
            "b.csv",
            "prompt,completion\n日本日本日本日本日本,日本日本日本日本日本日本日本\n".encode("utf-16-be"),
            "UTF-16",
        ),
        ("c.jsonl", json.dumps(PAIR).encode("utf-32-le"), "UTF-32"),
        ("d.csv", b"sep=;\r\nprompt;completion\r\nsay, two;two\r\n", "separator ';'"),
    ],
)
def test_encodings_and_separators_that_are_told_by_the_first_characters(name, content, note, tmp_path):
    (tmp_path / name).write_bytes(content)
    notes: list[str] = []
    (row,) = read_rows(tmp_path / name, notes=notes)
    assert set(row.values) == {"prompt", "completion"} and note in notes[0]
    assert name != "d.csv" or row.where == "d.csv line 3"


def test_bytes_of_another_alphabet_are_no_latin(tmp_path):
    (tmp_path / "a.csv").write_bytes("prompt,completion\nこんにちは,世界\n".encode("shift-jis"))
    with pytest.raises(UserError, match="neither UTF-8 nor UTF-16 nor Latin-1"):
        read_rows(tmp_path / "a.csv")


@pytest.mark.parametrize("depth", [101, 900, 100_000])
def test_a_row_nested_without_end_is_a_bad_row(depth, tmp_path):
    (tmp_path / "a.jsonl").write_text(
        '{"prompt": "a", "completion": "b", "x": ' + "[" * depth + "]" * depth + "}\n"
    )
    with pytest.raises(UserError, match=r"line 1: .*(nested|recursion)"):
        read_rows(tmp_path / "a.jsonl")


@pytest.mark.parametrize(
    "row",
    [
        {"Prompt": "say two", "Completion": "two"},
        {"INSTRUCTION": "say two", "Output": "two", "Input": None},
        {"Question": "say two", "Answer": "two"},
        {"Messages": [{"role": "user", "content": "say two"}, {"role": "assistant", "content": "two"}]},
    ],
)
def test_letters_of_a_column_do_not_matter(row, tiny_tokenizer):
    (one,), (other,) = (read_examples([values], tiny_tokenizer) for values in (row, PAIR))
    assert (one.input_ids, one.loss_mask) == (other.input_ids, other.loss_mask)


def test_a_column_of_the_exact_name_goes_first():
    assert normalise_row({"Prompt": "no", "prompt": "yes", "completion": "a"})["prompt"] == "yes"


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": " \n"}]},
        {"prompt": [{"role": "user", "content": "a"}], "completion": [{"role": "assistant", "content": ""}]},
        {
            "chosen": [{"role": "user", "content": "a"}, {"role": "assistant", "content": ""}],
            "rejected": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
        },
    ],
)
def test_silence_is_not_learned(row):
    with pytest.raises(UserError, match="only empty assistant turns"):
        normalise_row(row)


def test_a_turn_that_only_thinks_or_calls_is_no_silence():
    user = {"role": "user", "content": "a"}
    call = {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}
    for turn in (call, {"role": "assistant", "content": "", "reasoning_content": "hm"}):
        assert normalise_row({"messages": [user, turn]})["messages"][1]["role"] == "assistant"
