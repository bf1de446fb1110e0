"""``holdfast score``: one gradient norm a training row."""

from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli import output


def score(
    model: output.ModelArgument,
    data: Annotated[
        str, typer.Option("--data", help="Training rows: file, saved dataset, hub id, organism:NAME.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Where to write the table.")] = Path("scores.parquet"),
    adapter: output.AdapterOption = None,
    scope: output.ScopeOption = "auto",
    dtype: output.DtypeOption = "auto",
    device: output.DeviceOption = "auto",
    limit: output.LimitOption = None,
    max_length: output.MaxLengthOption = 1024,
    skip_bad_rows: output.SkipOption = False,
    json: output.JsonOption = False,
) -> None:
    """Score rows by the norm of their loss gradient: high ones do the damage, moderate ones teach the task.

    Example: holdfast score organism:aligned --data organism:lessons --limit 64 --out scores.parquet
    """
    import numpy as np

    from holdfast.gradients import gradient_norms

    output.quiet_for_json(json)
    subject = output.load_subject(model, adapter, scope, dtype, device)
    examples = output.read_task(data, subject, max_length, limit, skip_bad_rows)
    table = gradient_norms(subject, examples)
    table.to_parquet(out)
    shares = (0.0, 0.16, 0.5, 0.84, 1.0)
    found = np.nanquantile(table.grad_norm, shares) if table.invalid < len(table) else np.full(len(shares), np.nan)
    quantiles = {f"{share:.0%}": float(value) for share, value in zip(shares, found, strict=True)}
    if json:
        output.emit_json(
            {"out": out, "rows": len(table), "invalid": table.invalid, "grad_norm_quantiles": quantiles}
        )
        return
    output.emit_table(
        f"gradient norms of {len(table)} rows", list(quantiles), [[f"{v:.4g}" for v in quantiles.values()]]
    )
    print(f"wrote {out}; next: holdfast select {out} --data {data}")
