"""``holdfast select``: from scores to a filtered data set."""

import json as json_module
from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli import options, output


def select(
    scores: Annotated[Path, typer.Argument(help="Table that `holdfast score` wrote.")],
    data: options.DataOption,
    out: options.OutPath = Path("selected.jsonl"),
    rule: Annotated[str, typer.Option(help="moderate, low, high, random, inverse_length, ...")] = "moderate",
    keep: Annotated[float, typer.Option(help="Share of rows to keep.")] = 0.5,
    loss_filter: Annotated[str, typer.Option(help="sigma, quantile or none.")] = "sigma",
    seed: options.SeedOption = 0,
    json: options.JsonOption = False,
) -> None:
    """Keep the rows a rule names, as JSONL for any trainer.

    Example: holdfast select scores.parquet --data train.jsonl --keep 0.5 --out selected.jsonl
    """
    from holdfast.core.errors import UserError
    from holdfast.core.files import write_text
    from holdfast.gradients import ScoreTable
    from holdfast.selection import select as choose

    output.quiet_for_json(json)
    table = ScoreTable.from_parquet(scores)
    rows = output.raw_rows(data, limit=len(table))
    if len(rows) != len(table):
        raise UserError(f"{scores}: {len(table)} scores but {len(rows)} rows in {data}; score this data again")
    selection = choose(table, rule=rule, keep=keep, loss_filter=loss_filter, seed=seed)
    kept = [rows[k] for k in selection.indices]
    write_text(out, "".join(json_module.dumps(row, ensure_ascii=False, default=str) + "\n" for row in kept))
    if json:
        output.emit_json({"out": out, "kept": len(kept), "rows": len(rows), **selection.to_dict()})
        return
    output.emit_table(
        f"kept {len(kept)} of {len(rows)} rows by rule '{rule}'",
        ["outcome", "rows"],
        [[reason, str(count)] for reason, count in selection.counts.items()],
    )
    print(f"wrote {out}")
