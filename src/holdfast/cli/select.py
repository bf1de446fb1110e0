"""``holdfast select``: from scores to a filtered data set."""

import json as json_module
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from holdfast.cli import options, output
from holdfast.selection.rules import BY, DEFAULT_BY, DEFAULT_KEEP, DEFAULT_LOSS_FILTER, DEFAULT_RULE

if TYPE_CHECKING:
    from holdfast.data.sources import Row
    from holdfast.gradients import ScoreTable
    from holdfast.selection import Selection

Unscored = Literal["stop", "drop", "keep"]
_SHOWN = 20


WORDS = {
    "g_high": "score too high for the rule",
    "g_low": "score too low for the rule",
    "loss_high": "loss above the filter",
    "loss_low": "loss below the filter",
    "long": "too long for the rule",
    "short": "too short for the rule",
    "not_drawn": "not drawn",
    "invalid": "no usable score",
}


def select(
    scores: Annotated[Path, typer.Argument(help="Table that `holdfast score` wrote.")],
    data: options.DataOption,
    out: options.OutPath = Path("selected.jsonl"),
    rule: options.RuleOption = DEFAULT_RULE,
    keep: options.KeepOption = DEFAULT_KEEP,
    by: Annotated[
        str, typer.Option(help=f"Column that a rule reads in the place of norms: {', '.join(BY)}.")
    ] = DEFAULT_BY,
    low: options.LowOption = None,
    loss_filter: options.LossFilterOption = DEFAULT_LOSS_FILTER,
    unscored: Annotated[
        Unscored, typer.Option(help="Rows of --data that were not scored: stop, drop them, or keep them.")
    ] = "stop",
    reduction: Annotated[str, typer.Option(help="Loss of the norms to read: mean or sum.")] = "mean",
    allow_proxy: Annotated[
        bool, typer.Option("--allow-proxy", help="Let the rule read a proxy where it reads norms.")
    ] = False,
    report: Annotated[
        Path | None,
        typer.Option(help="Text file for the rows at both ends and the kept share by source and length."),
    ] = None,
    force: options.ForceOption = False,
    seed: options.SeedOption = 0,
    json: options.JsonOption = False,
) -> None:
    """Keep the rows a rule names, as JSONL for any trainer.

    The rows of --data are found by what they say, in any order and in any of the formats that can be read.

    Example: holdfast select scores.parquet --data train.jsonl --keep 0.5 --out selected.jsonl

    Example: holdfast select scores.parquet --data train.jsonl --rule drop_high --by against_skill --keep 0.9
    """
    from holdfast.core.files import write_text
    from holdfast.gradients import ScoreTable
    from holdfast.selection import locate
    from holdfast.selection import select as choose

    output.quiet_for_json(json)
    read = {"the data file": data, "the table of scores": scores}
    output.check_new_file(out, force, "--force", read)
    if report is not None:
        output.check_new_file(report, force, "--force", read | {"the selected rows": out})
    table = ScoreTable.from_parquet(scores)
    selection = choose(table, rule, keep, loss_filter, seed, reduction, allow_proxy, low, by)
    rows, unreadable = _rows(data, table)
    if not selection.indices:
        _refuse_nothing(scores, selection)
    keys = _keys(rows)
    found = locate(selection, keys)
    if found.missing:
        _refuse_other_data(data, rows, table, selection, len(found.missing), found.missing[0].name)
    left_out = set(table.skipped)  # by what they say: a row that was mended since is a row that was not scored
    skipped = [k for k in found.unscored if keys[k] in left_out]
    left = [k for k in found.unscored if keys[k] not in left_out]
    if left and unscored == "stop":
        _refuse_unscored(data, rows, left)
    positions = sorted({*found.kept, *(left if unscored == "keep" else ())})
    lines = [json_module.dumps(rows[k].values, ensure_ascii=False, default=str) for k in positions]
    write_text(out, "".join(line + "\n" for line in lines))
    if report is not None:
        write_text(report, _account(table, selection, rows, keys))
        output.say(f"wrote {report}")
    counts = {**selection.counts, "not scored": len(left), "left out by scoring": len(skipped) + unreadable}
    if json:
        _emit(out, len(positions), len(rows) + unreadable, counts, selection)
        return
    output.emit_table(
        f"kept {len(positions)} of {len(rows) + unreadable} rows by rule '{rule}'",
        ["outcome", "rows"],
        [[WORDS.get(reason, reason), str(count)] for reason, count in counts.items() if count],
    )
    if left:
        verb = "kept, unjudged" if unscored == "keep" else "left out"
        output.say(f"{len(left)} rows of {data} were not scored: {verb}")
    for row in [rows[k] for k in skipped][:_SHOWN]:
        output.say(f"left out {output.printable(row.where)}: bad or too long when the rows were scored")
    print(f"wrote {out}")


def _rows(data: str, table: "ScoreTable") -> tuple[Sequence["Row"], int]:
    """All rows that can be read, and how many cannot."""
    from holdfast.pipeline.inputs import read_named

    limit = None
    if data.startswith("organism:") and table.row is not None:  # it draws other rows for another number of them
        limit = len(set(table.row.tolist())) + len(table.skipped)
    read = read_named(data, options.Rows(limit=limit, skip_bad_rows=True))
    for row in read.bad[:_SHOWN]:
        output.say(f"skipped {output.printable(row.where)}: {output.printable(row.reason)}")
    return read.rows, len(read.bad)


def _account(table: "ScoreTable", selection: "Selection", rows: Sequence["Row"], keys: Sequence[str]) -> str:
    """Rows are named by their place in --data; their source is their own column, or the scored file."""
    from holdfast.selection.account import account

    row_at = dict(zip(reversed(keys), reversed(rows), strict=True))  # of equal rows the first
    found = [row_at[key] for key in selection.row_hash]
    scored = table.dataset or ("",) * len(found)
    source = [str(row.values.get("source") or name) for row, name in zip(found, scored, strict=True)]

    def row_of(k: int) -> tuple[str, str]:
        return found[k].where, json_module.dumps(found[k].values, ensure_ascii=False, default=str)

    return account(selection, table[selection.by], table.completion_tokens, source, row_of)


def _keys(rows: Sequence["Row"]) -> list[str]:
    from holdfast.data import row_key

    return [row_key(row.values) for row in rows]


def _refuse_other_data(
    data: str, rows: Sequence["Row"], table: "ScoreTable", selection: "Selection", missing: int, name: str
) -> None:
    from holdfast.core.errors import UserError

    place, where = selection.ids.index(name), ""
    assert table.row is not None
    there = [row.where for row in rows if row.position == table.row[place]]
    if there:
        where = f"; its place was that of {there[0]}, which says something else"
    raise UserError(
        f"{data}: {missing} of {len(set(selection.row))} scored rows are not in it, first '{name}'{where}; "
        "give the data that was scored, or score this data"
    )


def _refuse_nothing(scores: Path, selection: "Selection") -> None:
    from holdfast.core.errors import UserError

    reasons = ", ".join(f"{reason} {count}" for reason, count in selection.counts.items())
    raise UserError(
        f"{scores}: no row is left to keep ({reasons or 'it has no rows'}; invalid: a loss or norm that is not "
        "finite, or no completion tokens); look at the model's losses on these rows, then score again"
    )


def _refuse_unscored(data: str, rows: Sequence["Row"], left: Sequence[int]) -> None:
    from holdfast.core.errors import UserError

    raise UserError(
        f"{data}: {len(left)} of {len(rows)} rows were not scored, first {rows[left[0]].where}; score all of "
        "them, or say what becomes of them: --unscored drop, or --unscored keep"
    )


def _emit(out: Path, kept: int, rows: int, counts: dict[str, int], selection: "Selection") -> None:
    hidden = ("row", "row_hash", "content_hash")
    said = {name: value for name, value in selection.to_dict().items() if name not in hidden}
    output.emit_json({"out": out, "kept": kept, "rows": rows, "counts": counts, **said})
