"""The score table is a value: it survives a file, and names what is wrong with a foreign one."""

import numpy as np
import pytest

from holdfast.core.errors import UserError
from holdfast.gradients import ScoreTable


@pytest.fixture
def table():
    return ScoreTable(
        ("a", "b", "c"), np.array([1.5, np.nan, np.inf]), np.array([0.25, np.nan, 3.0]), np.array([4, 0, 2])
    )


def test_parquet_gives_back_the_same_table(table, tmp_path):
    table.to_parquet(tmp_path / "scores.parquet")
    back = ScoreTable.from_parquet(tmp_path / "scores.parquet")
    assert back.id == table.id
    assert back.reduction == "mean"
    assert back.status == ("ok", "no_completion", "not_finite")
    for name in ("grad_norm", "loss_nats", "completion_tokens"):
        np.testing.assert_array_equal(back[name], table[name])


def test_equal_tables_give_equal_files(table, tmp_path):
    table.to_parquet(tmp_path / "one.parquet")
    table.to_parquet(tmp_path / "two.parquet")
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "two.parquet").read_bytes()


def test_indexing_by_row_slice_and_column(table):
    assert table[0].grad_norm == 1.5
    assert table[-1].id == "c"
    assert table[1:].id == ("b", "c")
    assert len(table) == 3
    assert table.invalid == 2
    with pytest.raises(KeyError, match="no column 'norm'"):
        table["norm"]
    with pytest.raises(IndexError):
        table[3]


def test_pandas_has_the_contract_columns(table):
    assert list(table.to_pandas().columns) == ["id", "grad_norm", "loss_nats", "completion_tokens", "status"]


def test_a_missing_file_and_a_foreign_one_are_named(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        ScoreTable.from_parquet(tmp_path / "none.parquet")
    (tmp_path / "text.parquet").write_text("hello")
    with pytest.raises(UserError, match="not a Parquet file"):
        ScoreTable.from_parquet(tmp_path / "text.parquet")
