"""Which scored sample is which row of a data set: by what it says, never by where it stands.

Knows: hashes and ids of samples and rows, data sets that can be cut by position.
Does not know: scores, rules, files.

A source row may have become several samples (a conversation trained turn by turn): as a row it is kept when at
least half of them are.
"""

import logging
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from holdfast.core.errors import UserError

if TYPE_CHECKING:
    from holdfast.selection.select import Selection

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Scored:
    """A row, or a sample, that was scored: how it is recognised, what a reader calls it, whether it is kept."""

    key: str
    name: str
    kept: bool


@dataclass(frozen=True)
class Located:
    """Where scored rows stand in a data set.

    Attributes:
        kept: positions of the rows that the selection keeps, ascending.
        unscored: positions of rows that were not scored.
        missing: scored rows that are not there.
    """

    kept: tuple[int, ...]
    unscored: tuple[int, ...]
    missing: tuple[Scored, ...]


def locate(selection: "Selection", keys: Sequence[str]) -> Located:
    """Find the scored rows among rows with these :func:`holdfast.data.row_key`; equal rows go by their order.

    Raises:
        UserError: the selection does not know which rows were scored.
    """
    if not selection.row_hash or len(selection.row) != len(selection.row_hash):
        raise UserError(
            "the scores do not say which rows they belong to (no columns 'row', 'row_hash'); score again"
        )
    waiting: dict[str, deque[Scored]] = defaultdict(deque)
    for scored in scored_rows(selection):
        waiting[scored.key].append(scored)
    kept, unscored = [], []
    for position, key in enumerate(keys):
        if not waiting.get(key):
            unscored.append(position)
        elif waiting[key].popleft().kept:
            kept.append(position)
    missing = [scored for left in waiting.values() for scored in left]
    return Located(tuple(kept), tuple(unscored), tuple(missing))


def scored_rows(selection: "Selection") -> list[Scored]:
    """The source rows of a selection, in the order in which they were scored."""
    chosen, votes = set(selection.indices), defaultdict[tuple[int, str], list[int]](list)
    for sample, row in enumerate(zip(selection.row, selection.row_hash, strict=True)):
        votes[row].append(sample)
    return [
        Scored(key, selection.ids[samples[0]] if selection.ids else f"row {row}", _most(samples, chosen))
        for (row, key), samples in votes.items()
    ]


def _most(samples: Sequence[int], chosen: set[int]) -> bool:
    return 2 * sum(sample in chosen for sample in samples) >= len(samples)


_WAY_OUT = "score this data set, or pass the one that was scored"


def apply(selection: "Selection", dataset: Any) -> Any:
    """:meth:`holdfast.selection.Selection.apply`."""
    listed = hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")
    if isinstance(dataset, (Mapping, str)) or hasattr(dataset, "iloc") or not listed:
        raise UserError(
            f"a {type(dataset).__name__} cannot be cut by position; give the datasets.Dataset or the list of rows "
            "that was scored (of a data frame: to_dict('records'))"
        )
    rows = list(dataset)
    scored, found = _compared(selection, rows)
    _refuse_differences(scored, found)
    if hasattr(dataset, "select") and hasattr(dataset, "column_names"):
        return dataset.select([position for position, row in enumerate(scored) if row.kept])
    return [row for row, match in zip(rows, scored, strict=True) if match.kept]


def _compared(selection: "Selection", rows: Sequence[Any]) -> tuple[list[Scored], Sequence[str | None]]:
    """What was scored, and the key of every row of the same kind; None for a row that carries none."""
    from holdfast.data import Example, row_key

    first = rows[0] if rows else None
    if isinstance(first, Mapping) and selection.row_hash and selection.row:
        return scored_rows(selection), [row_key(row) if isinstance(row, Mapping) else "" for row in rows]
    keys: Sequence[str] = selection.ids
    if isinstance(first, Example) and selection.content_hash:
        keys = selection.content_hash
        found = [row.content_hash if isinstance(row, Example) else "" for row in rows]
    else:
        found = [_own_id(row) if selection.ids else None for row in rows]
        if None in found:
            logger.warning("rows without an id or content to compare are taken by their position alone")
    chosen, total = set(selection.indices), len(selection.reasons)
    names = selection.ids or tuple(f"row {sample}" for sample in range(total))
    keys = keys or ("",) * total
    return [Scored(keys[k], names[k], k in chosen) for k in range(total)], found


def _own_id(row: Any) -> str | None:
    name = row.get("id") if isinstance(row, Mapping) else getattr(row, "id", None)
    return None if name in (None, "") else str(name)


def _refuse_differences(scored: Sequence[Scored], found: Sequence[str | None]) -> None:
    """Raise UserError naming the first row that is not what was scored in its place."""
    sizes, known = f"the data set has {len(found)} rows but {len(scored)} were scored", {row.key for row in scored}
    pairs = enumerate(zip(scored, found, strict=False))
    place = next((k for k, (row, key) in pairs if key is not None and key != row.key), None)
    if place is not None:
        what = f"row {place} is not '{scored[place].name}', which was scored there"
        if len(found) != len(scored):
            raise UserError(f"{sizes}, and {what}; {_WAY_OUT}")
        if found[place] in known:
            raise UserError(
                f"{what}, but another row; keep the order of the data set between scoring and selecting"
            )
        raise UserError(f"{what}: its content is another; {_WAY_OUT}")
    if len(found) > len(scored):
        raise UserError(f"{sizes}: row {len(scored)} was not; {_WAY_OUT}")
    if len(found) < len(scored):
        raise UserError(f"{sizes}: '{scored[len(found)].name}' is missing; {_WAY_OUT}")
