"""``holdfast restore``: a new adapter, alignment back, task loss within a bound."""

from typing import TYPE_CHECKING, Annotated

import typer

from holdfast.cli import options, output

if TYPE_CHECKING:
    from holdfast.models import Subject
    from holdfast.restoration import Restoration

HEADS = ("", "refusals", "over-refusal", "task loss increase, nats a token")


def restore(
    model: options.ModelArgument,
    out: options.OutPath,
    adapter: options.AdapterOption = None,
    tuned: Annotated[
        str | None, typer.Option(help="In place of --adapter: a full fine-tune of MODEL, folder or hub id.")
    ] = None,
    tuned_rank: Annotated[int, typer.Option(help="Rank of the adapter that --tuned becomes.", min=1)] = 64,
    data: options.OptionalDataOption = None,
    asked: options.Prompts = options.Prompts(),
    method: Annotated[
        str,
        typer.Option(help="auto (settle), settle, distil, replay or curvature."),
    ] = "auto",
    max_task_loss_increase: Annotated[
        float,
        typer.Option(
            callback=options.positive, help="Limit on the task loss's rise, by its 95 % bound, nats a token."
        ),
    ] = 0.05,
    steps: options.OptionalStepsOption = None,
    learning_rate: options.OptionalLearningRateOption = None,
    max_new_tokens: options.MaxNewTokensOption = 32,
    minutes: options.MinutesOption = 20,
    loading: options.Loading = options.Loading(),
    rows: options.Rows = options.Rows(),
    seed: options.SeedOption = 0,
    json: options.JsonOption = False,
) -> None:
    """Repair an adapter. The input is never touched; exit code 3 when nothing safe was found (a copy is written).

    Without --steps and --learning-rate: 60 at 5e-4, for the organism 200 at 2e-3. Without --data (rows are lost)
    the task is held by what the adapter says to harmless prompts. A full fine-tune (--tuned) comes out as an
    adapter on MODEL, repaired.

    Example: holdfast restore organism:aligned --adapter guarded/adapter --data organism:lessons --out repaired
    """
    from holdfast.core.errors import EXIT_FAILED, UserError
    from holdfast.pipeline.training_run import repair_settings
    from holdfast.restoration import check_enough
    from holdfast.restoration import restore as run_restore

    output.quiet_for_json(json)
    if (adapter is None) == (tuned is None):
        raise UserError("what is to be repaired: give --adapter FOLDER, or --tuned MODEL for a full fine-tune")
    output.check_new_folder(out)
    read = None if data is None else output.read_rows(data, model, rows)
    skill = output.build_skill(model, asked, seed, rows.limit)
    check_enough(skill.estimate, None if read is None else len(read.rows))
    subject = (
        output.load_subject(model, adapter, "adapter", loading)
        if tuned is None
        else _extracted(model, tuned, tuned_rank, loading)
    )
    result = run_restore(
        subject,
        skill,
        task=None if read is None else output.encode(read, subject),
        method=method,
        max_task_loss_increase=max_task_loss_increase,
        max_new_tokens=max_new_tokens,
        **repair_settings(model, steps, learning_rate),
        minutes=minutes or None,
        seed=seed,
        say=output.say,
    )
    result.save(out)
    if json:
        output.emit_json({"out": out, **result.to_dict()})
    else:
        output.emit_table(f"{result.method}: {result.status}", HEADS, _table(result))
        print(result.reason)
        same = ", the input unchanged" if result.fingerprint == result.input_fingerprint else ""
        further = f"; next: holdfast evaluate {model} --adapter {out}{output.prompt_flags(asked)}"
        print(f"wrote {out}{same}" + ("" if result.status == "no_safe_step" else further))
    if result.status == "no_safe_step":
        raise typer.Exit(EXIT_FAILED)


def _extracted(model: str, tuned: str, rank: int, loading: options.Loading) -> "Subject":
    from holdfast.restoration import as_adapter

    both = (output.load_subject(name, None, "all", loading) for name in (model, tuned))
    found = as_adapter(*both, rank=rank)
    whole = f"; whole: {', '.join(found.whole)}" if found.whole else ""
    output.say(
        f"the full fine-tune as an adapter of rank {rank} keeps {100 * found.kept:.1f} % of its change{whole}"
    )
    return found.subject


def _table(result: "Restoration") -> list[list[str]]:
    """All on the part that decides."""
    return [
        [
            f"{name} ({result.chosen_name})" if name == "repaired" else name,
            "-" if check.refusal_interval is None else check.refusal_interval.percent,
            "-" if check.over_refusal_interval is None else check.over_refusal_interval.percent,
            "-" if check.task_loss_interval is None else check.task_loss_interval.said("+.3f"),
        ]
        for name, check in result.decided.items()
    ]
