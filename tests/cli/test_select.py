"""`holdfast select` finds the rows that were scored, or says which one it cannot find."""

import json
import random
from dataclasses import replace

import numpy as np
import pytest

from holdfast.cli import run
from holdfast.data import read_examples, row_key
from holdfast.gradients import ScoreTable
from holdfast.gradients.scores import source_columns
from tests.conftest import build_tokenizer

ROWS = [{"prompt": f"say {k}", "completion": f"it is {k}"} for k in range(12)]
BAD = {"prompt": "no answer"}


def write(path, rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def score(path, data, limit=None, **origin):
    examples = read_examples(data, build_tokenizer(), 128, limit=limit, skip_bad_rows=True)
    lines = [line for line in data.read_text().splitlines() if line.strip()]
    norms = [float(json.loads(lines[example.row])["prompt"].split()[1]) for example in examples]
    n = len(examples)
    columns = source_columns(examples) | {"scope": "all", "model": "m"} | origin
    names = tuple(example.id for example in examples)
    ScoreTable(names, np.array(norms), np.ones(n), np.full(n, 4), **columns).to_parquet(path)
    return path


@pytest.fixture
def data(tmp_path):
    return write(tmp_path / "train.jsonl", ROWS)


def select(scores, data, *more):
    """Exit code, and the numbers of the prompts that were written."""
    out = scores.parent / "kept.jsonl"
    code = run(["select", str(scores), "--data", str(data), "--out", str(out), "--rule", "low", *more])
    rows = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else None
    return code, rows and [int(row["prompt"].split()[1]) for row in rows]


def said(capsys):
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("holdfast:"))
    return line


def test_the_low_half_of_the_rows_is_written(tmp_path, data):
    assert select(score(tmp_path / "s.parquet", data), data) == (0, [0, 1, 2, 3, 4, 5])


@pytest.mark.parametrize("place", [0, 5, 12])
@pytest.mark.parametrize("bad", [BAD, "{not json", "[1, 2]", ""])
def test_a_row_that_was_skipped_moves_no_score_to_its_neighbour(tmp_path, place, bad):
    data = write(tmp_path / "train.jsonl", [*ROWS[:place], bad, *ROWS[place:]])
    assert select(score(tmp_path / "s.parquet", data), data) == (0, [0, 1, 2, 3, 4, 5])


@pytest.mark.parametrize("own", [{}, {"id": "mine"}])
def test_a_row_that_was_too_long_is_known_to_be_left_out(tmp_path, own):
    long = {"prompt": "word " * 300, "completion": "x"} | own
    data = write(tmp_path / "train.jsonl", [*ROWS[:3], long, *ROWS[3:]])
    assert select(score(tmp_path / "s.parquet", data), data) == (0, [0, 1, 2, 3, 4, 5])


def test_a_shuffled_file_gives_the_same_rows_in_its_own_order(tmp_path, data):
    scores = score(tmp_path / "s.parquet", data)
    rows = list(ROWS)
    random.Random(3).shuffle(rows)
    code, kept = select(scores, write(tmp_path / "shuffled.jsonl", rows))
    assert code == 0
    assert sorted(kept) == [0, 1, 2, 3, 4, 5]
    assert kept == [k for k in (int(row["prompt"].split()[1]) for row in rows) if k < 6]


def test_another_format_of_the_same_rows_is_the_same_data(tmp_path, data):
    import pyarrow
    import pyarrow.parquet

    scores = score(tmp_path / "s.parquet", data)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "train.parquet")
    assert select(scores, tmp_path / "train.parquet") == (0, [0, 1, 2, 3, 4, 5])


def test_a_csv_file_saved_again_by_a_data_frame_is_the_same_data(tmp_path, data):
    """In CSV all is text; a data frame makes numbers, booleans and gaps of it, each file in its own way."""
    import pandas

    frame = pandas.DataFrame(ROWS)
    frame["id"] = range(100, 112)
    frame["rating"] = [k / 2 for k in range(12)]
    frame["flag"] = [k % 2 == 0 for k in range(12)]
    frame["votes"] = [None if k % 3 == 0 else k for k in range(12)]
    frame["note"] = [None if k % 2 else "a" for k in range(12)]
    csv = tmp_path / "train.csv"
    frame.to_csv(csv, index=False)
    frame.to_json(data, orient="records", lines=True)
    scores = score(tmp_path / "s.parquet", data)
    pandas.read_csv(csv).to_parquet(tmp_path / "again.parquet")
    frame.astype({"votes": "Int64"}).to_csv(tmp_path / "whole.csv", index=False)
    for file in (csv, tmp_path / "again.parquet", tmp_path / "whole.csv"):
        assert select(scores, file, "--force") == (0, [0, 1, 2, 3, 4, 5]), file.name


@pytest.mark.parametrize(
    ("then", "now"),
    [
        (BAD, {**BAD, "completion": "now it has one"}),
        ("{broken", {"prompt": "mended", "completion": "a"}),
        (
            {"prompt": "word " * 300, "completion": "x", "id": "a"},
            {"prompt": "short", "completion": "x", "id": "a"},
        ),
    ],
)
def test_a_row_that_was_left_out_and_mended_since_is_one_that_was_not_scored(tmp_path, capsys, then, now):
    data = write(tmp_path / "train.jsonl", [*ROWS[:3], then, *ROWS[3:]])
    scores = score(tmp_path / "s.parquet", data)
    assert select(scores, data, "--unscored", "drop")[0] == 0
    (tmp_path / "kept.jsonl").unlink()
    write(data, [*ROWS[:3], now, *ROWS[3:]])
    assert select(scores, data) == (2, None)
    assert "1 of 13 rows were not scored, first train.jsonl line 4" in said(capsys)


def test_a_table_of_which_nothing_can_be_kept_writes_no_empty_file(tmp_path, capsys, data):
    scores = score(tmp_path / "s.parquet", data)
    table = ScoreTable.from_parquet(scores)
    replace(table, grad_norm=np.full(12, np.nan)).to_parquet(scores)
    assert select(scores, data) == (2, None)
    assert "no row is left to keep (invalid 12;" in said(capsys)


@pytest.mark.parametrize("place", [0, 7, 12])
def test_a_row_put_in_later_is_refused_until_it_is_decided(tmp_path, capsys, data, place):
    scores = score(tmp_path / "s.parquet", data)
    write(data, [*ROWS[:place], {"prompt": "say 99", "completion": "new"}, *ROWS[place:]])
    assert select(scores, data) == (2, None)
    line = said(capsys)
    assert f"1 of 13 rows were not scored, first train.jsonl line {place + 1}" in line
    assert "--unscored drop, or --unscored keep" in line
    assert select(scores, data, "--unscored", "drop") == (0, [0, 1, 2, 3, 4, 5])
    code, kept = select(scores, data, "--unscored", "keep", "--force")
    assert (code, sorted(kept)) == (0, [0, 1, 2, 3, 4, 5, 99])


def test_a_table_of_some_rows_does_not_let_the_others_vanish(tmp_path, capsys, data):
    scores = score(tmp_path / "s.parquet", data, limit=4)
    assert select(scores, data) == (2, None)
    assert "8 of 12 rows were not scored, first train.jsonl line 5" in said(capsys)
    code, kept = select(scores, data, "--unscored", "keep", "--json")
    assert (code, kept) == (0, [0, 1, *range(4, 12)])
    assert json.loads(capsys.readouterr().out)["counts"]["not scored"] == 8


@pytest.mark.parametrize("unscored", ["stop", "drop", "keep"])
def test_other_data_is_refused_whatever_is_said_of_unscored_rows(tmp_path, capsys, data, unscored):
    scores = score(tmp_path / "s.parquet", data)
    write(data, [{"prompt": f"p{k}", "completion": "c"} for k in range(12)])
    assert select(scores, data, "--unscored", unscored) == (2, None)
    assert "12 of 12 scored rows are not in it, first 'train.jsonl line 1#" in said(capsys)


@pytest.mark.parametrize("change", [{"completion": "it is 7!"}, {"prompt": "say 70"}, {"source": "added"}])
def test_a_changed_row_is_named(tmp_path, capsys, data, change):
    scores = score(tmp_path / "s.parquet", data)
    write(data, [*ROWS[:7], ROWS[7] | change, *ROWS[8:]])
    assert select(scores, data) == (2, None)
    line = said(capsys)
    assert "1 of 12 scored rows are not in it, first 'train.jsonl line 8#" in line
    assert "its place was that of train.jsonl line 8, which says something else" in line


def test_a_row_taken_out_is_named(tmp_path, capsys, data):
    scores = score(tmp_path / "s.parquet", data)
    write(data, [*ROWS[:3], *ROWS[4:]])
    assert select(scores, data) == (2, None)
    assert "1 of 12 scored rows are not in it, first 'train.jsonl line 4#" in said(capsys)


def test_equal_rows_are_each_their_own(tmp_path):
    data = write(tmp_path / "train.jsonl", [*ROWS[:4], ROWS[0], ROWS[3]])
    assert select(score(tmp_path / "s.parquet", data), data) == (0, [0, 1, 0])


def test_an_output_is_replaced_only_when_asked_and_an_input_never(tmp_path, capsys, data):
    scores = score(tmp_path / "s.parquet", data)
    out = tmp_path / "kept.jsonl"
    out.write_text("mine")
    command = ["select", str(scores), "--data", str(data), "--out"]
    assert run([*command, str(out)]) == 2
    assert "kept.jsonl: exists; choose another --out, or replace it with --force" in said(capsys)
    assert out.read_text() == "mine"
    assert run([*command, str(out), "--force"]) == 0
    assert len(out.read_text().splitlines()) == 6
    for taken, what in ((data, "the data file"), (scores, "the table of scores")):
        before = taken.read_bytes()
        assert run([*command, str(taken), "--force"]) == 2
        assert f"--out is {what} itself" in said(capsys)
        assert taken.read_bytes() == before
    assert run([*command, str(tmp_path)]) == 2
    assert "is a folder" in said(capsys)


def test_a_table_of_an_older_version_must_be_scored_again(tmp_path, capsys, data):
    n = len(ROWS)
    ScoreTable(("a",) * n, np.ones(n), np.ones(n), np.full(n, 4)).to_parquet(tmp_path / "s.parquet")
    assert select(tmp_path / "s.parquet", data) == (2, None)
    assert "score again" in said(capsys)


def test_proxies_and_sums_are_read_only_when_named(tmp_path, capsys, data):
    proxy = score(tmp_path / "p.parquet", data, proxy="head")
    assert select(proxy, data) == (2, None)
    assert "the table holds proxy 'head'" in said(capsys)
    assert select(proxy, data, "--rule", "random", "--loss-filter", "none")[0] == 0  # reads no norm
    assert select(proxy, data, "--allow-proxy", "--force") == (0, [0, 1, 2, 3, 4, 5])
    total = score(tmp_path / "t.parquet", data, reduction="sum")
    assert select(total, data, "--force")[0] == 2
    capsys.readouterr()
    assert select(total, data, "--force", "--reduction", "sum", "--json")[0] == 0
    found = json.loads(capsys.readouterr().out)
    assert [found[name] for name in ("reduction", "proxy", "scope", "model")] == ["sum", "full", "all", "m"]


def test_scoring_and_selecting_agree_about_a_file_with_a_bad_row(tmp_path, capsys):
    """The whole way with a model: what is written are the rows whose norms the table calls low."""
    from holdfast import organism

    rows = [{k: row[k] for k in ("prompt", "completion")} for row in organism.task_rows("lessons", "train", 8, 0)]
    data, scores = write(tmp_path / "d.jsonl", [BAD, *rows[:3], BAD, *rows[3:]]), tmp_path / "s.parquet"
    assert run(["score", "organism:aligned", "--data", str(data), "--out", str(scores), "--skip-bad-rows"]) == 0
    found = ScoreTable.from_parquet(scores)
    assert found.row is not None and found.row.tolist() == [1, 2, 3, 5, 6, 7, 8, 9]
    assert found.skipped == (row_key(BAD), row_key(BAD))
    out = tmp_path / "k.jsonl"
    command = ["select", str(scores), "--data", str(data), "--out", str(out), "--rule", "low"]
    assert run([*command, "--keep", "0.25", "--loss-filter", "none"]) == 0
    lowest = sorted(np.argsort(found.grad_norm)[:2])
    assert [json.loads(line) for line in out.read_text().splitlines()] == [rows[k] for k in lowest]
    assert run(["score", "organism:aligned", "--data", str(data), "--out", str(scores), "--skip-bad-rows"]) == 2
    assert "s.parquet: exists; choose another --out, or replace it with --fresh" in capsys.readouterr().err


def test_the_organisms_rows_are_drawn_as_they_were_scored(tmp_path):
    examples = read_examples(_organism_rows(10), build_tokenizer())
    columns = np.arange(10.0), np.ones(10), np.full(10, 4)
    names = tuple(example.id for example in examples)
    ScoreTable(names, *columns, **source_columns(examples)).to_parquet(tmp_path / "s.parquet")
    out = tmp_path / "k.jsonl"
    command = ["select", str(tmp_path / "s.parquet"), "--data", "organism:lessons", "--out", str(out)]
    assert run([*command, "--rule", "low"]) == 0
    assert [json.loads(line) for line in out.read_text().splitlines()] == _organism_rows(10)[:5]


def _organism_rows(n):
    from holdfast import organism

    return organism.task_rows("lessons", "train", n, 0)


def test_the_report_shows_both_ends_and_is_not_written_over(tmp_path, capsys):
    rows = [row | {"source": "a\x1b[2J" if k < 3 else "b"} for k, row in enumerate(ROWS)]
    data, report = write(tmp_path / "train.jsonl", rows), tmp_path / "report.txt"
    scores = score(tmp_path / "s.parquet", data)
    assert select(scores, data, "--report", str(report))[0] == 0
    page = report.read_text()
    assert "6 of 12 samples kept: rule low" in page and "a [2J       3 of      3  100.0 %" in page
    assert page.index("train.jsonl line 12") < page.index("train.jsonl line 11") < page.index("12 lowest")
    assert '{"prompt": "say 11", "completion": "it is 11", "source": "b"}' in page
    assert select(scores, data, "--report", str(report))[0] == 2
    assert select(scores, data, "--report", str(report), "--force")[0] == 0
