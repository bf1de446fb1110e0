"""``holdfast restore``: a new adapter, alignment back, task loss within a bound."""

from typing import Annotated

import typer

from holdfast.cli import options, output


def restore(
    model: options.ModelArgument,
    adapter: options.AdapterPath,
    data: options.DataOption,
    out: options.OutPath,
    asked: options.Prompts = options.Prompts(),
    method: Annotated[str, typer.Option(help="auto (= replay), replay or ggn-cg.")] = "auto",
    max_task_loss_increase: Annotated[float, typer.Option(help="Limit, nats a token.")] = 0.05,
    max_new_tokens: options.MaxNewTokensOption = 32,
    loading: options.Loading = options.Loading(),
    rows: options.Rows = options.Rows(),
    seed: options.SeedOption = 0,
    json: options.JsonOption = False,
) -> None:
    """Repair an adapter. The input is never touched; exit code 3 when nothing safe was found.

    Example: holdfast restore organism:aligned --adapter guarded/adapter --data organism:lessons --out repaired
    """
    from holdfast.core.errors import EXIT_FAILED
    from holdfast.restoration import restore as run_restore

    output.quiet_for_json(json)
    output.check_new_folder(out)
    read = output.read_rows(data, model, rows)
    skill = output.build_skill(model, asked, seed, rows.limit)
    subject = output.load_subject(model, adapter, "adapter", loading)
    examples = output.encode(read, subject)
    result = run_restore(
        subject,
        skill,
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
