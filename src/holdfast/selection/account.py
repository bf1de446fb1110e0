"""What a selection did, for a reader: the rows at both ends as text, and what share is kept of which rows.

Knows: a selection, scores, what to call a row. Does not know: files, where a row's text comes from.

Texts are untrusted: they come out as one line each, without anything that a terminal would obey.

Source: selection.md 3.8 and 5.2 (3: coverage); dropping what a model finds strange can drop a whole kind of task.
Shapes: N samples, in the order of the selection.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from holdfast.selection.rules import DEFAULT_BY
from holdfast.selection.select import Selection

ENDS = 20  # rows shown at each end
_LONGEST = 300  # characters of a row
_BINS = 10


def account(
    selection: Selection,
    value_N: Any,
    tokens_N: Any,
    source_N: Sequence[str],
    row_of: Callable[[int], tuple[str, str]],
) -> str:
    """A page of plain text.

    Args:
        value_N: of the column ``selection.by``; samples whose value is not finite are at neither end.
        tokens_N: completion tokens.
        source_N: what each sample is of.
        row_of: from a sample's number to its place and its text.
    """
    value_N, tokens_N = np.asarray(value_N, dtype=np.float64), np.asarray(tokens_N)
    kept_N = np.zeros(len(selection.reasons), dtype=bool)
    kept_N[list(selection.indices)] = True
    order = [int(k) for k in np.argsort(value_N, kind="stable") if np.isfinite(value_N[k])]
    lines = [
        f"{len(selection.indices)} of {len(kept_N)} samples kept: rule {selection.rule}, keep {selection.keep:g}, "
        f"loss filter {selection.loss_filter}",
        *_shares("by source", [one_line(name) for name in source_N], kept_N),
        *_shares("by length, completion tokens", length_bins(tokens_N), kept_N),
    ]
    what = "gradient norms" if selection.by == DEFAULT_BY else f"values of {selection.by}"
    for title, chosen in (("highest", order[::-1][:ENDS]), ("lowest", order[:ENDS])):
        lines += ["", f"The {len(chosen)} {title} {what}"]
        for k in chosen:
            place, text = (one_line(part) for part in row_of(k))
            tokens = int(tokens_N[k])
            lines += [f"  {value_N[k]:.4g}, {tokens} tokens, {selection.reasons[k]}: {place}", f"    {text}"]
    return "\n".join(lines) + "\n"


def length_bins(tokens_N: Any) -> list[str]:
    """For each sample the tenth of the lengths that it lies in, "12 to 17"; fewer where lengths repeat."""
    tokens_N = np.asarray(tokens_N)
    if not len(tokens_N):
        return []
    edges = np.unique(np.quantile(tokens_N, np.linspace(0, 1, _BINS + 1)[1:-1], method="lower"))
    bin_N = np.searchsorted(edges, tokens_N, side="left")
    parts = {int(b): tokens_N[bin_N == b] for b in np.unique(bin_N)}
    width = len(str(int(tokens_N.max())))
    names = {b: f"{int(part.min()):{width}d} to {int(part.max()):{width}d}" for b, part in parts.items()}
    return [names[int(b)] for b in bin_N]


def one_line(text: str) -> str:
    """A text that can be shown: one line, nothing but printable characters, not too long."""
    plain = "".join(c if c.isprintable() else " " for c in text)
    words = " ".join(plain.split())
    return words if len(words) <= _LONGEST else f"{words[:_LONGEST]} ..."


def _shares(title: str, group_N: Sequence[str], kept_N: np.ndarray) -> list[str]:
    groups: dict[str, list[bool]] = {}
    for name, kept in zip(group_N, kept_N.tolist(), strict=True):
        groups.setdefault(name, []).append(kept)
    width = max((len(name) for name in groups), default=0)
    rows = [
        f"  {name:{width}s}  {sum(kept):6d} of {len(kept):6d}  {100 * sum(kept) / len(kept):5.1f} %"
        for name, kept in sorted(groups.items())
    ]
    return ["", f"Kept {title}", *rows]
