"""The table of scores: one row a sample, the file ``scores.parquet`` of a run.

Knows: the columns, their units, Parquet.
Does not know: models, or which rows a rule would keep.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from holdfast.core.errors import UserError
from holdfast.core.files import write_table

if TYPE_CHECKING:
    import pandas

COLUMNS = ("id", "grad_norm", "loss_nats", "completion_tokens")


@dataclass(frozen=True)
class Score:
    """One sample's row."""

    id: str
    grad_norm: float
    loss_nats: float
    completion_tokens: int
    status: str


@dataclass(frozen=True, eq=False)
class ScoreTable(Sequence[Score]):
    """Scores in the order of the examples.

    Attributes:
        id: names of the examples.
        grad_norm: L2 norm of each sample's loss gradient over the scope, float64; NaN without completion tokens.
        loss_nats: mean negative log-likelihood per completion token, nats.
        completion_tokens: tokens that carry loss.
        reduction: loss a norm belongs to: "mean" over a sample's tokens, or "sum" (= tokens x mean).
    """

    id: tuple[str, ...]
    grad_norm: NDArray[np.float64]
    loss_nats: NDArray[np.float64]
    completion_tokens: NDArray[np.int64]
    reduction: str = "mean"

    @property
    def status(self) -> tuple[str, ...]:
        """Per row: "ok", "no_completion", or "not_finite" (a loss or norm that is NaN or infinite)."""
        finite = np.isfinite(self.grad_norm) & np.isfinite(self.loss_nats)
        return tuple(
            "no_completion" if tokens == 0 else "ok" if good else "not_finite"
            for tokens, good in zip(self.completion_tokens.tolist(), finite.tolist(), strict=True)
        )

    @property
    def invalid(self) -> int:
        """Rows that no rule may select."""
        return sum(status != "ok" for status in self.status)

    def __len__(self) -> int:
        return len(self.id)

    def __getitem__(self, index: Any) -> Any:
        """An int gives a :class:`Score`, a slice a table, a column name its array."""
        if isinstance(index, str):
            if index not in (*COLUMNS, "status"):
                raise KeyError(f"no column '{index}'; there are {', '.join(COLUMNS)}, status")
            return getattr(self, index)
        if isinstance(index, slice):
            return ScoreTable(
                self.id[index],
                self.grad_norm[index],
                self.loss_nats[index],
                self.completion_tokens[index],
                self.reduction,
            )
        position = range(len(self))[index]
        return Score(
            self.id[position],
            float(self.grad_norm[position]),
            float(self.loss_nats[position]),
            int(self.completion_tokens[position]),
            self.status[position],
        )

    def __repr__(self) -> str:
        good = self.grad_norm[np.isfinite(self.grad_norm)]
        median = f"median norm {np.median(good):.3g}" if good.size else "no finite norm"
        return f"ScoreTable({len(self)} samples, {median}, {self.invalid} invalid, reduction={self.reduction})"

    def to_pandas(self) -> "pandas.DataFrame":
        """The table as a data frame."""
        import pandas

        return pandas.DataFrame({name: self[name] for name in (*COLUMNS, "status")})

    def to_parquet(self, path: str | Path) -> None:
        """Write the table; the reduction is kept in the file's metadata."""
        import pyarrow

        table = pyarrow.table(
            {
                "id": pyarrow.array(self.id, pyarrow.string()),
                "grad_norm": pyarrow.array(self.grad_norm, pyarrow.float64()),
                "loss_nats": pyarrow.array(self.loss_nats, pyarrow.float64()),
                "completion_tokens": pyarrow.array(self.completion_tokens, pyarrow.int64()),
                "status": pyarrow.array(self.status, pyarrow.string()),
            }
        )
        write_table(path, table.replace_schema_metadata({"reduction": self.reduction}))

    @classmethod
    def from_parquet(cls, path: str | Path) -> Self:
        """Read what :meth:`to_parquet` wrote.

        Raises:
            UserError: no such file, not Parquet, or a column is missing.
        """
        import pyarrow.parquet as parquet

        try:
            table = parquet.read_table(str(path))
        except FileNotFoundError:
            raise UserError(f"{path}: no such file") from None
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: not a Parquet file ({error})") from None
        missing = [name for name in COLUMNS if name not in table.column_names]
        if missing:
            raise UserError(f"{path}: no column '{missing[0]}'; write it with `holdfast score`")
        metadata = table.schema.metadata or {}
        return cls(
            tuple(table["id"].to_pylist()),
            table["grad_norm"].to_numpy().astype(np.float64),
            table["loss_nats"].to_numpy().astype(np.float64),
            table["completion_tokens"].to_numpy().astype(np.int64),
            metadata.get(b"reduction", b"mean").decode(),
        )

    load = from_parquet
