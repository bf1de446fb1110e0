"""The table of scores: one row a sample, the file ``scores.parquet`` of a run.

Knows: the columns, their units, Parquet.
Does not know: models, or which rows a rule would keep.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from holdfast.core.errors import UserError
from holdfast.core.files import write_table
from holdfast.data import Example

if TYPE_CHECKING:
    import pandas
    import pyarrow

COLUMNS = ("id", "grad_norm", "loss_nats", "completion_tokens")
# How a row lies to directions that were given (directions.py).
DIRECTIONS = ("toward_base", "against_skill", "sensitive_share")
OPTIONAL = ("dataset", "n_prompt", "row", "row_hash", "content_hash", *DIRECTIONS)
# One value for the whole table. They are columns of the file as well as attributes, so that no way of reading or
# joining tables can lose them.
ORIGIN = ("reduction", "proxy", "scope", "model")
STRINGS = frozenset({"id", "status", "dataset", "row_hash", "content_hash", *ORIGIN})
INTEGERS = frozenset({"completion_tokens", "n_prompt", "row"})
SQUARE = "square_"  # and the name of a group of parameters


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
        dataset: name of the data set of each row; None where it was not given.
        n_prompt: prompt tokens; None where they were not counted.
        squares: per group of parameters the squared norms, float64; they add up to ``grad_norm ** 2``. Empty
            unless asked for. Column ``square_GROUP`` of the file.
        proxy: what stands in for the norm in ``grad_norm``; "full" where it is the norm itself.
        scope: parameters the norm is over: "all", "adapter" or a name pattern; None where not recorded.
        model: hash of the weights and configuration; None where not computed.
        row: position of each sample's source record, from 0; None where samples come from no source.
        row_hash: :func:`holdfast.data.row_key` of that record; None likewise.
        content_hash: of each sample's token ids and loss mask; None where not computed.
        skipped: :func:`holdfast.data.row_key` of the source's rows that were left out as bad or too long.
        toward_base, against_skill, sensitive_share: float64, as :mod:`holdfast.gradients.directions` defines them;
            None unless asked for.
    """

    id: tuple[str, ...]
    grad_norm: NDArray[np.float64]
    loss_nats: NDArray[np.float64]
    completion_tokens: NDArray[np.int64]
    reduction: str = "mean"
    dataset: tuple[str, ...] | None = None
    n_prompt: NDArray[np.int64] | None = None
    squares: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    proxy: str = "full"
    scope: str | None = None
    model: str | None = None
    row: NDArray[np.int64] | None = None
    row_hash: tuple[str, ...] | None = None
    content_hash: tuple[str, ...] | None = None
    skipped: tuple[str, ...] = ()
    toward_base: NDArray[np.float64] | None = None
    against_skill: NDArray[np.float64] | None = None
    sensitive_share: NDArray[np.float64] | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns that this table has, in the order of its file."""
        optional = (name for name in OPTIONAL if getattr(self, name) is not None)
        plain = self.scope is None and self.model is None and (self.reduction, self.proxy) == ("mean", "full")
        origin = () if plain else (name for name in ORIGIN if getattr(self, name) is not None)
        return (*COLUMNS, "status", *optional, *origin, *(SQUARE + group for group in self.squares))

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
            if index not in self.columns:
                raise KeyError(f"no column '{index}'; there are {', '.join(self.columns)}")
            group = index.removeprefix(SQUARE)
            if index in ORIGIN:
                return (getattr(self, index),) * len(self)
            return self.squares[group] if group != index else getattr(self, index)
        if isinstance(index, slice):
            columns = {name: getattr(self, name) for name in (*COLUMNS, *OPTIONAL)}
            cut = {name: column[index] for name, column in columns.items() if column is not None}
            squares = {group: square[index] for group, square in self.squares.items()}
            return replace(self, **cut, squares=squares)
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

        return pandas.DataFrame({name: self[name] for name in self.columns})

    def to_parquet(self, path: str | Path) -> None:
        """Write the table; what is no column (skipped rows, and ORIGIN once more) is in the file's metadata."""
        import pyarrow

        types = {
            **dict.fromkeys(STRINGS, pyarrow.string()),
            **dict.fromkeys(INTEGERS, pyarrow.int64()),
        }
        table = pyarrow.table(
            {name: pyarrow.array(self[name], types.get(name, pyarrow.float64())) for name in self.columns}
        )
        metadata = {name: str(value) for name in ORIGIN if (value := getattr(self, name)) is not None}
        if self.skipped:
            metadata["skipped"] = json.dumps(self.skipped)
        write_table(path, table.replace_schema_metadata(metadata))

    @classmethod
    def from_parquet(cls, path: str | Path) -> Self:
        """Read what :meth:`to_parquet` wrote.

        Raises:
            UserError: no such file, not Parquet, a column is missing, or rows of several kinds (two proxies, two
                models, ...) stand in one table.
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
        return cls(**_read(table, str(path)))

    load = from_parquet


def source_columns(examples: Sequence[Example]) -> dict[str, Any]:
    """The attributes of a table that say which rows were scored, and which were left out.

    Rows and their hashes are None unless every example has a source row.
    """
    rows = [example.row for example in examples]
    known = bool(rows) and all(example.row is not None and example.row_hash for example in examples)
    return {
        "row": np.array(rows, dtype=np.int64) if known else None,
        "row_hash": tuple(example.row_hash for example in examples) if known else None,
        "content_hash": tuple(example.content_hash for example in examples),
        "skipped": tuple(getattr(examples, "left_out", ())),
    }


def origin(columns: Mapping[str, Any], metadata: Mapping[str, str], where: str) -> dict[str, str | None]:
    """The values of :data:`ORIGIN` that a table carries, as columns or, failing that, in its metadata.

    Raises:
        UserError: a column holds two values.
    """
    found: dict[str, str | None] = {}
    for name in ORIGIN:
        column = columns.get(name)
        values = set() if column is None else {_text(v) for v in ([column] if isinstance(column, str) else column)}
        if len(values) > 1:
            several = " and ".join(sorted("not recorded" if value is None else value for value in values))
            raise UserError(
                f"{where}: scores of more than one {name} ({several}) do not compare; select from each"
            )
        found[name] = values.pop() if values else metadata.get(name)
    return found


def _text(value: Any) -> str | None:
    value = value.as_py() if hasattr(value, "as_py") else value
    return value if isinstance(value, str) else None  # data frames fill what is missing with NaN


def _read(table: "pyarrow.Table", where: str) -> dict[str, Any]:
    metadata = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    present = table.column_names

    def numbers(name: str) -> np.ndarray:
        try:
            found = table[name].to_numpy().astype(np.float64)
        except (ValueError, TypeError):
            raise UserError(f"{where}: column '{name}' holds no numbers; write it with `holdfast score`") from None
        if name not in INTEGERS:
            return found
        if not np.isfinite(found).all():
            raise UserError(f"{where}: column '{name}' has rows without a number; write it with `holdfast score`")
        return found.astype(np.int64)

    values: dict[str, Any] = {
        name: tuple(table[name].to_pylist()) if name in STRINGS else numbers(name)
        for name in (*COLUMNS, *OPTIONAL)
        if name in present
    }
    groups = [name.removeprefix(SQUARE) for name in present if name.startswith(SQUARE)]
    values["squares"] = {group: numbers(SQUARE + group) for group in groups}
    named = {name: table[name].to_pylist() for name in ORIGIN if name in present}
    found = origin(named, metadata, where)
    values |= {name: value for name, value in found.items() if value is not None}
    values["skipped"] = tuple(json.loads(metadata.get("skipped", "[]")))
    return values
