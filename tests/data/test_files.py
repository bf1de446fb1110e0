"""Files as people have them: no encoding, no row ends in a traceback; every complaint names file and line."""

import csv
import gzip
import json

import pytest

from holdfast.core.errors import UserError
from holdfast.data import BadRow, encode_rows, read_examples
from holdfast.data.sources import read_rows

ROWS = [{"prompt": "ça va", "completion": "œuvre \u2013 oui"}, {"prompt": 'a\n"b"; c', "completion": "d, e\tf"}]
LATIN = [{"prompt": "ça va", "completion": "déjà"}]


def csv_text(rows, separator=",", end="\r\n"):
    import io

    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, list(rows[0]), delimiter=separator, lineterminator=end)
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def json_lines(rows, end="\n"):
    return end.join(json.dumps(row, ensure_ascii=False) for row in rows) + end


def read(tmp_path, name, content, **more):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    notes: list[str] = []
    return read_rows(tmp_path / name, notes=notes, **more), notes


FILES = {
    "bom.jsonl": ("\ufeff" + json_lines(ROWS), []),
    "bom.csv": ("\ufeff" + csv_text(ROWS), []),
    "bom.json": ("\ufeff" + json.dumps(ROWS), []),
    "crlf.jsonl": (json_lines(ROWS, "\r\n"), []),
    "cr.csv": (csv_text(ROWS, end="\r"), []),
    "tab.tsv": (csv_text(ROWS, "\t"), []),
    "tab.csv": (csv_text(ROWS, "\t"), ["separator tab"]),
    "semicolon.csv": (csv_text(ROWS, ";"), ["separator ';'"]),
    "pipe.csv": (csv_text(ROWS, "|"), ["separator '|'"]),
    "packed.jsonl.gz": (gzip.compress(json_lines(ROWS).encode()), []),
    "packed.csv.gz": (gzip.compress(csv_text(ROWS, ";").encode()), ["separator ';'"]),
    "packed.json.gz": (gzip.compress(json.dumps(ROWS).encode()), []),
    "packed.jsonl": (gzip.compress(json_lines(ROWS).encode()), []),
    "windows.jsonl": (json_lines(ROWS).encode("cp1252"), ["read as Latin-1 / Windows-1252"]),
    "windows.csv": (csv_text(ROWS, ";").encode("cp1252"), ["read as Latin-1 / Windows-1252", "separator ';'"]),
    "sixteen.jsonl": (json_lines(ROWS).encode("utf-16"), ["read as UTF-16"]),
    "sixteen.csv": (csv_text(ROWS, "\t").encode("utf-16"), ["read as UTF-16", "separator tab"]),
    "unmarked.jsonl": (json_lines(ROWS).encode("utf-16-le"), ["read as UTF-16"]),
    "unmarked.json": (json.dumps(ROWS).encode("utf-16-be"), ["read as UTF-16"]),
    "lines.json": (json_lines(ROWS), ["read as JSON lines"]),
    "holder.json": (json.dumps({"version": 1, "data": ROWS}), ["rows taken from its list 'data'"]),
    "list.jsonl": (json.dumps(ROWS, indent=1), []),
    "lines.ndjson": (json_lines(ROWS), []),
}


@pytest.mark.parametrize("name", list(FILES))
def test_files_are_read_as_they_are_and_what_was_guessed_is_said(name, tmp_path):
    content, said = FILES[name]
    rows, notes = read(tmp_path, name, content)
    assert [row.values for row in rows] == ROWS
    assert len(notes) == len(said)
    assert all(note.startswith(name) and piece in note for note, piece in zip(notes, said, strict=True))


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("cut.jsonl.gz", gzip.compress(json_lines(ROWS).encode(), mtime=0)[:-9], "damaged"),
        ("no.jsonl.gz", b"plain", "damaged"),
        ("half.csv", csv_text(ROWS).encode("utf-16")[:-1], "cannot be decoded"),
        ("two.json", json.dumps({"a": ROWS, "b": ROWS}), r"holds the lists \['a', 'b'\]"),
        ("broken.json", '[{"a": 1},\n{"a": }]', "not JSON .*line 2"),
        ("deep.json", "[" * 100_000, "not JSON"),
        ("deep.jsonl", "[" * 100_000, "deep.jsonl line 1: not usable JSON"),
        ("twice.csv", "a,b,a\n1,2,3\n", r"twice\.csv line 1: the header names \['a'\] twice"),
        ("no.parquet", "plain", "not a Parquet file"),
        ("no.arrow", "plain", "not an Arrow file"),
        ("binary.jsonl", bytes(range(256)) * 4, "neither UTF-8"),
        ("empty.csv", "", "no usable rows"),
        ("header.csv", "a,b\n", "no usable rows"),
        ("long.jsonl", '{"a": ' + "9" * 5000 + "}", "line 1: not usable JSON"),
    ],
)
def test_unusable_files_end_in_one_line(name, content, problem, tmp_path):
    with pytest.raises(UserError, match=problem) as error:
        read(tmp_path, name, content)
    assert "\n" not in str(error.value)
    assert name in str(error.value)


BAD = {
    "ragged.csv": (
        'a,b\n"x\ny",1\n\nshort\n1,2,3\n"open,1\n',
        [(4 + 1, "has 1 cell "), (6, "has 3 cells"), (7, "never closed")],
    ),
    "quotes.csv": ('a,b\n"x"y,1\n"fine",2\n', [(2, "not a CSV record")]),
    "mixed.jsonl": (
        '{"a": "é"}\n{"a": "b\udce9"}\n{"a": "\\ud800"}\n[1]\n{"a": "x\x00y"}\n{"a"\n',
        [(2, "broken character"), (3, "broken character"), (4, "not an object"), (5, "not JSON"), (6, "not JSON")],
    ),
    "list.json": ('[{"a": "x"},\n\n 3,\n{"a": "\\udfff"}]', [(3, "not an object"), (4, "broken character")]),
}


@pytest.mark.parametrize("name", list(BAD))
def test_bad_rows_name_the_line_they_begin_on(name, tmp_path):
    content, wanted = BAD[name]
    bad: list[BadRow] = []
    rows, _ = read(tmp_path, name, content.encode("utf-8", "surrogateescape"), bad_rows=bad)
    assert len(rows) == 1
    assert all(None not in row.values for row in rows)
    assert [
        (row.where.split(" (")[0], reason in row.reason) for row, (_, reason) in zip(bad, wanted, strict=True)
    ] == [(f"{name} line {line}", True) for line, _ in wanted]
    with pytest.raises(UserError, match=f"{name} line {wanted[0][0]}.*{wanted[0][1]}"):
        read(tmp_path, name, content.encode("utf-8", "surrogateescape"))


def test_a_record_is_named_by_the_line_it_begins_on(tmp_path):
    rows, _ = read(tmp_path, "a.csv", 'a,b\n"1\n2\n3",x\n4,y\n')
    assert [row.where for row in rows] == ["a.csv line 2", "a.csv line 5"]
    rows, _ = read(tmp_path, "a.json", '[\n{"a":\n 1},\n{"a": 2}]')
    assert [row.where for row in rows] == ["a.json line 2 (row 0)", "a.json line 4 (row 1)"]


def test_wide_cells_nan_and_padding_cells(tmp_path):
    before = csv.field_size_limit()
    rows, _ = read(tmp_path, "wide.csv", "a,b\n" + "x" * 300_000 + ",1,,\n")
    assert len(rows[0].values["a"]) == 300_000
    assert csv.field_size_limit() == before
    rows, _ = read(tmp_path, "nan.jsonl", '{"a": NaN, "b": "x"}\n')
    assert rows[0].values == {"a": None, "b": "x"}


@pytest.mark.parametrize("kind", ["parquet", "arrow", "stream", "folder"])
def test_json_columns_and_nested_ones_come_back_as_they_were(kind, tmp_path):
    from datasets import Dataset

    rows = [{"messages": [{"role": "user", "content": "a"}], "tools": [{"b": 0}, {"c": "x", "d": None}]}]
    dataset = Dataset.from_list(rows, on_mixed_types="use_json")
    path = tmp_path / f"data.{kind}"
    if kind == "parquet":
        dataset.to_parquet(str(path))
    elif kind == "folder":
        dataset.save_to_disk(str(path))
    else:
        import pyarrow

        path = tmp_path / "data.arrow"
        table = dataset.data.table
        opened = pyarrow.ipc.new_stream if kind == "stream" else pyarrow.ipc.new_file
        with opened(str(path), table.schema) as writer:
            writer.write_table(table)
    (row,) = read_rows(path)
    assert row.values["messages"] == rows[0]["messages"]
    assert row.values["tools"][0]["b"] == 0
    assert "null" not in str(row.values["tools"])


UNQUOTED = "quote marks are read as text"


@pytest.mark.parametrize(
    ("text", "completions", "said"),
    [
        ('a\t"Chillax" - two words\nb\tplain\n', ['"Chillax" - two words', "plain"], True),
        ('a\t"opened\nb\tand\nc\tclosed"\n', ['"opened', "and", 'closed"'], True),  # would be one record
        ('a\t"never closed\nb\tc\n', ['"never closed', "c"], True),
        ('a\tx 5" nail\nb\t""\n', ['x 5" nail', ""], False),
        ('a\t"two\nlines"\nb\t"says ""yes"""\n', ["two\nlines", 'says "yes"'], False),
    ],
)
def test_a_quote_mark_between_tabs_may_be_just_that(tmp_path, text, completions, said):
    rows, notes = read(tmp_path, "a.tsv", "prompt\tcompletion\n" + text)
    assert [row.values["completion"] for row in rows] == completions
    assert [UNQUOTED in note for note in notes] == [True] * said


def test_between_tabs_a_ragged_row_is_named_whatever_the_quotes(tmp_path):
    text = 'prompt\tcompletion\na\t"Chillax" - b\n"\tc\td\ne\tf\n'
    with pytest.raises(UserError, match=r"a\.tsv line 3: has 3 cells where the header names 2"):
        read(tmp_path, "a.tsv", text)
    rows, _ = read(tmp_path, "a.tsv", text, bad_rows=[])
    assert [row.values["prompt"] for row in rows] == ["a", "e"]
    with pytest.raises(UserError, match=r"a\.csv line 2: not a CSV record"):  # between commas quotes must enclose
        read(tmp_path, "a.csv", text.replace("\t", ","))


def test_notes_reach_the_reader_of_examples(tmp_path, tiny_tokenizer):
    (tmp_path / "a.csv").write_bytes(csv_text(LATIN, ";").encode("latin-1"))
    examples = read_examples(tmp_path / "a.csv", tiny_tokenizer)
    assert [note.split(":")[0] for note in examples.notes] == ["a.csv", "a.csv"]
    assert examples.recognised.startswith("prompt/completion rows")
    assert examples[:1].recognised == examples.recognised


def test_fields_that_are_broken_anywhere_are_found_in_memory_too():
    with pytest.raises(UserError, match="row 0: holds a broken character"):
        read_rows([{"messages": [{"role": "user", "content": ["x", "\ud800"]}]}])


def test_rows_that_were_read_keep_their_names_when_they_are_encoded(tmp_path, tiny_tokenizer):
    (tmp_path / "a.jsonl").write_text('{"text": "fine"}\n\n{"prompt": "a"}\n{"text": "good"}\n')
    rows = read_rows(tmp_path / "a.jsonl")
    with pytest.raises(UserError, match=r"a\.jsonl line 3: no 'completion'"):
        encode_rows(rows[1:], tiny_tokenizer)
    (example,) = encode_rows(rows[2:], tiny_tokenizer)
    assert example.row == 2
    assert example.id.startswith("a.jsonl line 4#")
