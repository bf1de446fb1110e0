"""Tables of scores that somebody has changed."""

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from holdfast.core.errors import UserError
from holdfast.gradients import ScoreTable


@pytest.mark.parametrize(
    ("name", "values", "words"),
    [
        ("grad_norm", ["high", "low"], "holds no numbers"),
        ("completion_tokens", [3, None], "has rows without a number"),
        ("row", [0, None], "has rows without a number"),
    ],
)
def test_a_column_without_numbers_is_the_users_to_mend(tmp_path, name, values, words):
    columns = {"id": ["a", "b"], "grad_norm": [1.0, 2.0], "loss_nats": [1.0, 2.0], "completion_tokens": [3, 4]}
    parquet.write_table(pa.table({**columns, name: values}), tmp_path / "scores.parquet")
    with pytest.raises(UserError, match=f"column '{name}' {words}"):
        ScoreTable.from_parquet(tmp_path / "scores.parquet")
