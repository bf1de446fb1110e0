"""``holdfast train``: an ordinary TRL run with an online filter, live drift and a budget."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.cli import options, output

if TYPE_CHECKING:
    from holdfast.pipeline.training_folder import TrainingFolder
    from holdfast.pipeline.training_run import RunSpec

HELD_OUT_ROWS = 200  # at most; of rows that are not given with --task


def train(
    model: options.ModelArgument,
    data: options.DataOption,
    out: options.OutPath,
    asked: options.Prompts = options.Prompts(),
    task: options.TaskOption = None,
    rule: Annotated[str, typer.Option(help="Selection rule; 'none' trains on everything.")] = "moderate",
    keep: Annotated[
        float | None, typer.Option(help="Share of each pool to train on; a half, without a rule all.")
    ] = None,
    loss_filter: Annotated[
        str | None, typer.Option(help="sigma, quantile or none; sigma, without a rule none.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps, instead of epochs.")] = None,
    epochs: Annotated[float | None, typer.Option(help="Passes over the rows; 3, for the organism 60 steps.")] = None,
    pool: Annotated[int, typer.Option(help="Candidate rows an update.")] = 32,
    micro_batch: Annotated[str, typer.Option(help="Rows in memory at once: auto, or a number.")] = "auto",
    learning_rate: Annotated[
        float | None, typer.Option(help="AdamW's; 2e-4, for the organism 1e-3.")
    ] = None,
    schedule: Annotated[
        str | None, typer.Option(help="TRL's lr_scheduler_type; cosine, for the organism constant.")
    ] = None,
    warmup: Annotated[float | None, typer.Option(help="Share of the steps; 0.03, for the organism 0.")] = None,
    weight_decay: Annotated[float, typer.Option(help="AdamW's.")] = 0.0,
    rank: Annotated[int, typer.Option(help="LoRA rank.")] = 8,
    alpha: Annotated[int, typer.Option(help="LoRA alpha.")] = 16,
    quantize: Annotated[str | None, typer.Option(help="4bit or 8bit: QLoRA, with bitsandbytes.")] = None,
    trl: Annotated[
        list[str] | None, typer.Option("--trl", help="KEY=VALUE: any argument of TRL's SFTConfig; repeat it.")
    ] = None,
    every: Annotated[int, typer.Option(help="Steps between drift measurements.")] = 10,
    max_kl_nats: Annotated[float | None, typer.Option(help="Drift budget, nats a sequence.")] = None,
    min_refusal: Annotated[float | None, typer.Option(help="Lowest refusal rate allowed, 0 to 1.")] = None,
    max_task_loss: Annotated[
        float | None, typer.Option(help="Highest loss allowed on held-out rows, nats a token.")
    ] = None,
    max_new_tokens: options.MaxNewTokensOption = 32,
    checkpoint_every: Annotated[
        int | None, typer.Option(help="Steps between checkpoints; as often as drift is measured.")
    ] = None,
    fresh: options.FreshOption = False,
    loading: options.Loading = options.Loading(),
    rows: options.Rows = options.Rows(),
    seed: options.SeedOption = 0,
    json: options.JsonOption = False,
) -> None:
    """Fine-tune a LoRA adapter under guard. When a budget is passed, the last weights inside it come back.

    Stopped or killed, the same command goes on from the last checkpoint.

    Example: holdfast train organism:aligned --data organism:lessons --steps 20 --out guarded
    """
    from holdfast.core.errors import EXIT_FAILED
    from holdfast.core.files import read_json
    from holdfast.models import save_adapter
    from holdfast.pipeline.training_folder import RESULT, TrainingFolder

    output.quiet_for_json(json)
    folder = TrainingFolder(out)
    spec = _spec(
        model,
        {
            "adapter": {"rank": rank, "alpha": alpha, "quantize": quantize},
            "training": {
                "steps": steps, "epochs": epochs, "pool": pool, "learning_rate": learning_rate,
                "micro_batch": _number(micro_batch), "schedule": schedule, "warmup": warmup,
                "weight_decay": weight_decay, "checkpoint_every": checkpoint_every, "trl": _pairs(trl),
            },
            "arm": {
                "name": "train", "rule": rule, "keep": keep if keep is not None else 1.0 if rule == "none" else 0.5,
                **({} if loss_filter is None else {"loss_filter": loss_filter}),
                "budget": {"max_kl_nats": max_kl_nats, "min_refusal": min_refusal, "max_task_loss": max_task_loss},
            },
            "monitor": {"every": every},
        },
        seed,
        max_new_tokens,
    )  # fmt: skip
    result = _train(model, data, task, asked, loading, rows, spec, folder, fresh, save_adapter)
    result = read_json(out / RESULT) if result is None else result
    if json:
        output.emit_json({"out": out, **result})
    else:
        _show(result, model, folder)
    if result["stopped"]:
        raise typer.Exit(EXIT_FAILED)


def _spec(model: str, values: dict[str, Any], seed: int, max_new_tokens: int) -> "RunSpec":
    """The same sections as a recipe's, checked by the same code."""
    from holdfast.pipeline.recipe import AdapterSection, ArmSection, MonitorSection, TrainingSection, section_from
    from holdfast.pipeline.training_run import RunSpec, check_settings

    budget = values["arm"]["budget"]
    if all(limit is None for limit in budget.values()):
        values["arm"]["budget"] = None
    training = section_from(TrainingSection, values["training"])
    adapter = section_from(AdapterSection, values["adapter"])
    check_settings(training, adapter, model)
    arm, monitor = section_from(ArmSection, values["arm"]), section_from(MonitorSection, values["monitor"])
    return RunSpec(adapter, training, arm, monitor, seed, 0, max_new_tokens)
