"""From a table of scores to the samples worth training on, with a reason for every one left out.

Knows: score tables (anything with the columns), what a table says of its own origin.
Does not know: how scores were computed, trainers, which row of a data set is which (``matching``).
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
from holdfast.selection import matching
from holdfast.selection.rules import (
    BY,
    DEFAULT_BY,
    DEFAULT_KEEP,
    DEFAULT_LOSS_FILTER,
    DEFAULT_RULE,
    LENGTH_RULES,
    NORM_RULES,
    Pool,
    check_options,
    choose,
)

logger = logging.getLogger(__name__)

UNKNOWN = "unknown"
_SCORES = (*BY, "loss_nats", "completion_tokens", "id")
_ROWS = ("row", "row_hash", "content_hash")
_ORIGIN = ("reduction", "proxy", "scope", "model")


@dataclass(frozen=True)
class Selection(Result):
    """What was kept.

    Attributes:
        indices: kept positions, ascending.
        thresholds: the numbers that decided: pool, valid, candidates, count, loss_low, loss_high, median,
            kept_low, kept_high (those the rule and the filter have).
        reasons: per sample "kept", "loss_low", "loss_high", "g_low", "g_high", "long", "short", "not_drawn" or
            "invalid".
        rule, keep, loss_filter, seed: the options used.
        ids: names of the samples, in order; empty if the table had none.
        by: the column that a rule reading norms read.
        reduction, proxy, scope, model: what the norms were, as the table says; "unknown" where it does not.
        row, row_hash, content_hash: which source row and which token ids each sample is; empty if the table had
            none.
    """

    indices: tuple[int, ...]
    thresholds: dict[str, float]
    reasons: tuple[str, ...]
    rule: str
    keep: float
    loss_filter: str
    seed: int
    ids: tuple[str, ...] = field(default=(), repr=False)
    by: str = DEFAULT_BY
    reduction: str = UNKNOWN
    proxy: str = UNKNOWN
    scope: str = UNKNOWN
    model: str = UNKNOWN
    row: tuple[int, ...] = field(default=(), repr=False)
    row_hash: tuple[str, ...] = field(default=(), repr=False)
    content_hash: tuple[str, ...] = field(default=(), repr=False)

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

        It must be the data that was scored, in its order: examples are compared by their token ids, rows by
        their content, either by its id where the table knows no more. (``holdfast select`` finds rows by content
        wherever they stand.)

        Raises:
            UserError: the data set is not the one that was scored (other length, order or content; the first row
                that differs is named), or cannot be cut by position.
        """
        return matching.apply(self, dataset)

    def __repr__(self) -> str:
        return f"Selection(kept {len(self.indices)} of {len(self.reasons)} by '{self.rule}', {self.counts})"


def select(
    scores: Any,
    rule: str = DEFAULT_RULE,
    keep: float = DEFAULT_KEEP,
    loss_filter: str = DEFAULT_LOSS_FILTER,
    seed: int = 0,
    reduction: str = "mean",
    allow_proxy: bool = False,
    low: float | None = None,
    by: str = DEFAULT_BY,
) -> Selection:
    """Choose samples by their scores. A pure function in float64: equal input, equal result.

    Args:
        scores: a ScoreTable, a mapping or a data frame with the columns ``grad_norm``, ``loss_nats``,
            ``completion_tokens`` (those the rule needs) and optionally ``id``, or the path of ``scores.parquet``.
        rule: "moderate" (nearest the median norm), "low", "high", "drop_high" (all but the highest
            ``1 - keep`` of the candidates), "band" (a run of quantiles), "random",
            "inverse_length" (the moderate rule on 1/n, no model needed), "length_matched_random" (random
            with the lengths of the moderate choice), "none" (all candidates).
        keep: share of ALL samples, not only of those that pass the loss filter; at least one is kept.
        loss_filter: "sigma" (within one standard deviation), "quantile" (16th to 84th percentile) or "none".
            It applies to every rule, "random" included: pass "none" for an unfiltered baseline.
        seed: of the random rules.
        reduction: the loss whose gradient norms a rule is meant to read: "mean" over a sample's tokens, or "sum".
            They rank differently, so a table of the other kind is refused.
        allow_proxy: let a rule that reads norms read a proxy for them.
        by: the column that the rules that read norms read: "grad_norm", or one that ``holdfast score`` adds on
            request, "toward_base", "against_skill" or "sensitive_share"; meant for the rule "drop_high".
        low: of the rule "band": the share of the candidates, those of lowest norm, that is left out first; None
            leaves out as many below as above.

    Raises:
        UserError: unknown option, a column that the rule needs is missing, norms of another kind than asked for.

    Source: selection.md 1.3. Samples without completion tokens or with a loss or norm that is not finite are
    never candidates. Ties are broken by position. A table that does not say what its norms are is taken as it is.
    """
    check_options(rule, keep, loss_filter, low, by)
    if reduction not in ("mean", "sum"):
        raise UserError(f"reduction '{reduction}': unknown; use 'mean' or 'sum'")
    columns, origin = _read(scores)
    needs = {
        by: rule in NORM_RULES,
        "loss_nats": loss_filter != "none",
        "completion_tokens": rule in LENGTH_RULES,
    }
    missing = [name for name, needed in needs.items() if needed and columns.get(name) is None]
    if missing:
        again = f"; score again with {BY[by]}" if by in missing and BY[by] else ""
        raise UserError(
            f"the scores lack {missing}, needed by rule '{rule}' with loss_filter '{loss_filter}'{again}"
        )
    if rule in NORM_RULES and by == DEFAULT_BY:  # the others are cosines and shares of the gradient itself
        _check_origin(origin, rule, reduction, allow_proxy)
    return select_pool(
        columns["loss_nats"],
        columns[by],
        columns["completion_tokens"],
        rule=rule,
        keep=keep,
        loss_filter=loss_filter,
        seed=seed,
        low=low,
        ids=columns["id"],
        by=by,
        **origin,
        **{name: tuple(column) for name in _ROWS if (column := _plain(columns[name])) is not None},
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
    low: float | None = None,
    ids: Sequence[Any] | None = None,
    **known: Any,
) -> Selection:
    """:func:`select` on bare columns (None for one that was not measured); ``known`` goes into the result."""
    given = [_float64(column) for column in (loss, norm, tokens)]
    sizes = {column.size for column in given if column is not None} | ({len(ids)} if ids is not None else set())
    if len(sizes) != 1:
        raise UserError(f"the score columns have different lengths {sorted(sizes)}; give one row per sample")
    pool = Pool(sizes.pop(), *given)
    indices, reasons, thresholds = choose(pool, rule, keep, loss_filter, seed, low)
    if keep * pool.size < 1 - 1e-9 and pool.size:
        logger.warning("keep=%s of a pool of %d is less than one sample; one is kept", keep, pool.size)
    if thresholds["candidates"] < thresholds["count"] and rule != "none":
        logger.info("only %(candidates)d candidates for %(count)d places: all of them are kept", thresholds)
    names = tuple(str(name) for name in ids) if ids is not None else ()
    return Selection(tuple(indices), thresholds, tuple(reasons), rule, keep, loss_filter, seed, names, **known)


def _check_origin(origin: Mapping[str, str], rule: str, reduction: str, allow_proxy: bool) -> None:
    if origin["proxy"] not in ("full", UNKNOWN) and not allow_proxy:
        raise UserError(
            f"rule '{rule}' reads gradient norms but the table holds proxy '{origin['proxy']}', which ranks "
            "otherwise; score without --proxy, or allow it by name (--allow-proxy, allow_proxy=True)"
        )
    if origin["reduction"] not in (reduction, UNKNOWN):
        raise UserError(
            f"rule '{rule}' was to read norms of the {reduction} loss but the table holds those of the "
            f"{origin['reduction']}, which rank otherwise; score again, or ask for them by name "
            f"(--reduction {origin['reduction']}, reduction='{origin['reduction']}')"
        )


def _float64(column: Any) -> np.ndarray | None:
    if column is None:
        return None
    if hasattr(column, "detach"):
        column = column.detach().cpu().numpy()
    return np.asarray(column, dtype=np.float64).reshape(-1)


def _plain(column: Any) -> list[Any] | None:
    """The column as a list of Python values; None where it is absent or has gaps."""
    if column is None:
        return None
    plain = getattr(column, "to_pylist", getattr(column, "tolist", lambda: list(column)))()
    return plain if all(isinstance(value, (str, int)) for value in plain) else None


def _read(scores: Any) -> tuple[dict[str, Any], dict[str, str]]:
    """The columns of a table (None for those it lacks), and its origin ("unknown" where it does not say)."""
    where = "the scores"
    metadata: Mapping[bytes, bytes] | None = None
    if isinstance(scores, (str, Path)):
        where, scores = str(scores), _read_parquet(Path(scores))
    names = (*_SCORES, *_ROWS, *_ORIGIN)
    held = getattr(scores, "columns", None)  # data frames and Arrow tables also have attributes of other kinds
    if isinstance(scores, Mapping):
        columns = {name: scores.get(name) for name in names}
    elif held is not None and hasattr(scores, "__getitem__"):
        present = list(getattr(scores, "column_names", held))
        columns = {name: scores[name] if name in present else None for name in names}
        metadata = getattr(getattr(scores, "schema", None), "metadata", None)
    else:
        columns = {name: getattr(scores, name, None) for name in names}
    return columns, _origin(scores, columns, metadata or {}, where)


def _origin(
    scores: Any, columns: Mapping[str, Any], metadata: Mapping[bytes, bytes], where: str
) -> dict[str, str]:
    if isinstance(getattr(scores, "reduction", None), str):  # a ScoreTable has it once, not as columns
        found = {name: getattr(scores, name, None) for name in _ORIGIN}
    elif metadata or any(columns[name] is not None for name in _ORIGIN):
        from holdfast.gradients.scores import origin

        found = origin(columns, {k.decode(): v.decode(errors="replace") for k, v in metadata.items()}, where)
    else:
        found = {}
    return {name: found.get(name) or UNKNOWN for name in _ORIGIN}


def _read_parquet(path: Path) -> Any:
    import pyarrow.parquet as parquet

    try:
        return parquet.read_table(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run `holdfast score` first") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a Parquet table of scores ({error})") from None
