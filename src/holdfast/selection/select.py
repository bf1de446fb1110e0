"""From a table of scores to the samples worth training on, with a reason for every one left out.

Knows: score tables (anything with the columns), data sets that can be cut by position.
Does not know: how scores were computed, trainers.
"""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from holdfast.core.errors import UserError
from holdfast.core.results import Result
from holdfast.selection.rules import LENGTH_RULES, NORM_RULES, Pool, check_options, choose

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Selection(Result):
    """What was kept.

    Attributes:
        indices: kept positions, ascending.
        thresholds: the numbers that decided: pool, valid, candidates, count, loss_low, loss_high, median,
            kept_low, kept_high (those the rule and the filter have).
        reasons: per sample "kept", "loss_low", "loss_high", "g_low", "g_high", "long", "short", "not_drawn" or
            "invalid".
        ids: names of the samples, in order; empty if the table had none.
        rule, keep, loss_filter, seed: the options used.
    """

    indices: tuple[int, ...]
    thresholds: dict[str, float]
    reasons: tuple[str, ...]
    rule: str
    keep: float
    loss_filter: str
    seed: int
    ids: tuple[str, ...] = field(default=(), repr=False)

    @property
    def counts(self) -> dict[str, int]:
        """How many samples had each reason."""
        return dict(sorted(Counter(self.reasons).items()))

    @property
    def kept_share(self) -> float:
        """Kept samples over all."""
        return len(self.indices) / len(self.reasons) if self.reasons else float("nan")

    def apply(self, dataset: Any) -> Any:
        """The kept part of ``dataset``: a ``datasets.Dataset``, or any sequence (given back as a list).

        Raises:
            UserError: the data set is not the one that was scored (other length, other ids).
        """
        if len(dataset) != len(self.reasons):
            raise UserError(
                f"the data set has {len(dataset)} rows but {len(self.reasons)} were scored; "
                "score this data set, or pass the one that was scored"
            )
        if hasattr(dataset, "select") and hasattr(dataset, "column_names"):
            return dataset.select(list(self.indices))
        if self.ids:
            for position, (name, row) in enumerate(zip(self.ids, dataset, strict=True)):
                if isinstance(getattr(row, "id", None), str) and row.id != name:
                    raise UserError(
                        f"row {position} is '{row.id}' but '{name}' was scored there; "
                        "keep the order of the data set between scoring and selecting"
                    )
        return [dataset[position] for position in self.indices]

    def __repr__(self) -> str:
        return f"Selection(kept {len(self.indices)} of {len(self.reasons)} by '{self.rule}', {self.counts})"


def select(
    scores: Any,
    rule: str = "moderate",
    keep: float = 0.5,
    loss_filter: str = "sigma",
    seed: int = 0,
) -> Selection:
    """Choose samples by their scores. A pure function in float64: equal input, equal result.

    Args:
        scores: a ScoreTable, a mapping or a data frame with the columns ``grad_norm``, ``loss_nats``,
            ``completion_tokens`` (and ``id``), or the path of a Parquet file of them. A rule needs only its own
            columns.
        rule: "moderate" (nearest the median norm), "low", "high", "drop_high" (all but the highest
            ``1 - keep`` of the candidates), "random", "inverse_length" (the moderate rule on 1/n, no model
            needed), "length_matched_random" (random with the lengths of the moderate choice), "none" (all
            candidates).
        keep: share of ALL samples, not only of those that pass the loss filter; at least one is kept.
        loss_filter: "sigma" (within one standard deviation), "quantile" (16th to 84th percentile) or "none".
            It applies to every rule, "random" included: pass "none" for an unfiltered baseline.
        seed: of the random rules.

    Raises:
        UserError: unknown option, a column that the rule needs is missing.

    Source: selection.md 1.3. Samples without completion tokens or with a loss or norm that is not finite are
    never candidates. Ties are broken by position.
    """
    check_options(rule, keep, loss_filter)
    columns = _columns(scores)
    needs = {
        "grad_norm": rule in NORM_RULES,
        "loss_nats": loss_filter != "none",
        "completion_tokens": rule in LENGTH_RULES,
    }
    missing = [name for name, needed in needs.items() if needed and columns.get(name) is None]
    if missing:
        raise UserError(f"the scores lack {missing}, needed by rule '{rule}' with loss_filter '{loss_filter}'")
    return select_pool(
        columns.get("loss_nats"),
        columns.get("grad_norm"),
        columns.get("completion_tokens"),
        rule=rule,
        keep=keep,
        loss_filter=loss_filter,
        seed=seed,
        ids=columns.get("id"),
    )


def select_pool(
    loss: Any,
    norm: Any,
    tokens: Any,
    *,
    rule: str,
    keep: float,
    loss_filter: str,
    seed: int,
    ids: Sequence[Any] | None = None,
) -> Selection:
    """:func:`select` on bare columns (None for one that was not measured)."""
    given = [_float64(column) for column in (loss, norm, tokens)]
    sizes = {column.size for column in given if column is not None} | ({len(ids)} if ids is not None else set())
    if len(sizes) != 1:
        raise UserError(f"the score columns have different lengths {sorted(sizes)}; give one row per sample")
    pool = Pool(sizes.pop(), *given)
    indices, reasons, thresholds = choose(pool, rule, keep, loss_filter, seed)
    if keep * pool.size < 1 - 1e-9 and pool.size:
        logger.warning("keep=%s of a pool of %d is less than one sample; one is kept", keep, pool.size)
    if thresholds["candidates"] < thresholds["count"] and rule != "none":
        logger.info("only %(candidates)d candidates for %(count)d places: all of them are kept", thresholds)
    names = tuple(str(name) for name in ids) if ids is not None else ()
    return Selection(tuple(indices), thresholds, tuple(reasons), rule, keep, loss_filter, seed, names)


def _float64(column: Any) -> np.ndarray | None:
    if column is None:
        return None
    if hasattr(column, "detach"):
        column = column.detach().cpu().numpy()
    return np.asarray(column, dtype=np.float64).reshape(-1)


def _columns(scores: Any) -> dict[str, Any]:
    names = ("grad_norm", "loss_nats", "completion_tokens", "id")
    if isinstance(scores, (str, Path)):
        scores = _read_parquet(Path(scores))
    if isinstance(scores, Mapping):
        return {name: scores.get(name) for name in names}
    held = getattr(scores, "columns", None)  # data frames and Arrow tables also have attributes of other kinds
    if held is not None and hasattr(scores, "__getitem__"):
        present = list(getattr(scores, "column_names", held))
        return {name: scores[name] if name in present else None for name in names}
    return {name: getattr(scores, name, None) for name in names}


def _read_parquet(path: Path) -> dict[str, list[Any]]:
    import pyarrow.parquet as parquet

    try:
        return parquet.read_table(path).to_pydict()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run `holdfast score` first") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a Parquet table of scores ({error})") from None
