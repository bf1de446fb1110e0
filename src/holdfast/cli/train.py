"""``holdfast train``: an ordinary TRL run with an online filter, live drift and a budget."""

from typing import Annotated

import typer

from holdfast.cli import options, output


def train(
    model: options.ModelArgument,
    data: options.DataOption,
    out: options.OutPath,
    asked: options.Prompts = options.Prompts(),
    rule: Annotated[str, typer.Option(help="Selection rule; 'none' trains on everything.")] = "moderate",
    keep: Annotated[float, typer.Option(help="Share of each pool to train on.")] = 0.5,
    steps: Annotated[int, typer.Option(help="Optimiser steps.")] = 60,
    pool: Annotated[int, typer.Option(help="Candidate rows an update.")] = 32,
    learning_rate: Annotated[float, typer.Option(help="AdamW's learning rate.")] = 1e-3,
    rank: Annotated[int, typer.Option(help="LoRA rank.")] = 8,
    alpha: Annotated[int, typer.Option(help="LoRA alpha.")] = 16,
    every: Annotated[int, typer.Option(help="Steps between drift measurements.")] = 10,
    max_kl_nats: Annotated[float | None, typer.Option(help="Drift budget, nats a sequence.")] = None,
    min_refusal: Annotated[float | None, typer.Option(help="Lowest refusal rate allowed, 0 to 1.")] = None,
    loading: options.Loading = options.Loading(),
    rows: options.Rows = options.Rows(),
    seed: options.SeedOption = 0,
    json: options.JsonOption = False,
) -> None:
    """Fine-tune a LoRA adapter under guard. When a budget is passed, the last weights inside it come back.

    Example: holdfast train organism:aligned --data organism:lessons --steps 20 --out guarded
    """
    from holdfast.core.errors import EXIT_FAILED
    from holdfast.core.files import new_folder, write_json
    from holdfast.evaluation import Reference
    from holdfast.models import Subject, add_lora, save_adapter
    from holdfast.selection import OnlineSelection
    from holdfast.training import DriftBudget, DriftMonitor, GuardedTrainer, RefusalProbe, cpu_safe_args

    output.quiet_for_json(json)
    output.check_new_folder(out)
    read = output.read_rows(data, model, rows)
    skill = output.build_skill(model, asked, seed, rows.limit)
    loaded = output.load_subject(model, None, "auto", loading)
    examples = output.encode(read, loaded)
    subject = Subject(add_lora(loaded.model, rank, alpha, seed=seed), loaded.tokenizer, "adapter")
    limited = max_kl_nats is not None or min_refusal is not None
    budget = DriftBudget(max_kl_nats, min_refusal) if limited else None
    with new_folder(out) as folder:
        monitor = DriftMonitor(
            Reference.of(subject, skill.estimate.harmful[:64], seed=seed, source="adapter_off"),
            every=every,
            budget=budget,
            probe=RefusalProbe.of(skill, limit=64),
        )
        trainer = GuardedTrainer(
            model=subject,
            args=cpu_safe_args(
                output_dir=str(folder / "logs"),
                max_steps=steps,
                per_device_train_batch_size=pool,
                learning_rate=learning_rate,
                lr_scheduler_type="constant",
                seed=seed,
            ),
            train_dataset=examples,
            selection=None if rule == "none" else OnlineSelection(keep=keep, rule=rule, seed=seed),
            callbacks=[monitor],
        )
        trainer.train()
        save_adapter(trainer.model, folder / "adapter")
        stopped = monitor.stopped.to_dict() if monitor.stopped else None
        result = {"steps": trainer.state.global_step, "stopped": stopped, "trace": monitor.trace, "seed": seed}
        write_json(folder / "training.json", result)
    if json:
        output.emit_json({"out": out, **result})
    else:
        output.emit_table(
            f"{rule} selection, seed {seed}",
            ["step", "drift, nats a sequence", "refusals (estimate)"],
            [[str(r["step"]), f"{r['kl_nats']:.3f}", f"{r['refusal']:.0%}"] for r in monitor.trace],
        )
        if stopped:
            print(
                f"stopped at step {stopped['step']}: {stopped['reason']}; "
                f"weights of step {stopped['restored_step']} put back"
            )
        print(f"wrote {out}; next: holdfast evaluate {model} --adapter {out / 'adapter'}")
    if stopped:
        raise typer.Exit(EXIT_FAILED)
