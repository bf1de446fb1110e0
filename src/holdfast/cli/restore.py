"""``holdfast restore``: a new adapter, alignment back, task loss within a bound."""

from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli import output


def restore(
    model: output.ModelArgument,
    adapter: Annotated[Path, typer.Option("--adapter", help="Folder of the fine-tuned PEFT adapter.")],
    data: Annotated[str, typer.Option("--data", help="Rows of the fine-tuning task.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="New folder for the repaired adapter.")],
    harmful: output.HarmfulOption = "organism",
    benign: output.BenignOption = "organism",
    method: Annotated[str, typer.Option(help="auto (= replay), replay or ggn-cg.")] = "auto",
    max_task_loss_increase: Annotated[float, typer.Option(help="Limit, nats a token.")] = 0.05,
    max_new_tokens: Annotated[int, typer.Option(help="Longest generated answer.")] = 32,
    dtype: output.DtypeOption = "auto",
    device: output.DeviceOption = "auto",
    limit: output.LimitOption = None,
    max_length: output.MaxLengthOption = 1024,
    skip_bad_rows: output.SkipOption = False,
    seed: output.SeedOption = 0,
    json: output.JsonOption = False,
) -> None:
    """Repair an adapter. The input is never touched; exit code 3 when nothing safe was found.

    Example: holdfast restore organism:aligned --adapter guarded/adapter --data organism:lessons --out repaired
    """
    from holdfast.core.errors import EXIT_FAILED
    from holdfast.restoration import restore as run_restore

    output.quiet_for_json(json)
    subject = output.load_subject(model, adapter, "adapter", dtype, device)
    examples = output.read_task(data, subject, max_length, limit, skip_bad_rows)
    result = run_restore(
        subject,
        output.build_skill(harmful, benign, seed),
        task=examples,
        method=method,
        max_task_loss_increase=max_task_loss_increase,
        max_new_tokens=max_new_tokens,
        seed=seed,
    )
    result.save(out)
    if json:
        output.emit_json({"out": out, **result.to_dict()})
    else:
        rows = [*result.baselines.items(), ("repaired", result.chosen)]
        output.emit_table(
            f"{result.method}: {result.status}",
            ["", "refusals", "over-refusal", "task loss increase, nats a token"],
            [
                [name, f"{c.refusal:.0%}", f"{c.over_refusal:.0%}", f"{c.task_loss_increase:+.3f}"]
                for name, c in rows
            ],
        )
        print(result.reason)
        print(f"wrote {out}")
    if result.status == "no_safe_step":
        raise typer.Exit(EXIT_FAILED)
