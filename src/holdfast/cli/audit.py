"""``holdfast audit``: before training, where the alignment sits and how this task will pull at it."""

from typing import Annotated

import typer

from holdfast.cli import options, output


def audit(
    model: options.ModelArgument,
    data: options.DataOption,
    adapter: options.AdapterOption = None,
    asked: options.Prompts = options.Prompts(),
    learning_rate: options.OptionalLearningRateOption = None,
    steps: options.StepsOption = 60,
    rank: options.RankOption = 8,
    alpha: options.AlphaOption = 16,
    prompts: Annotated[int, typer.Option(min=1, help="Prompts of the skill's estimate half.")] = 64,
    minutes: options.MinutesOption = 10,
    loading: options.Loading = options.Loading(),
    rows: options.Rows = options.Rows(limit=64),
    seed: options.SeedOption = 0,
    out: options.OutOption = None,
    json: options.JsonOption = False,
) -> None:
    """Fisher spectrum, instability conditions, onset of drift and a ranking of risk, before a single step.

    Example: holdfast audit organism:aligned --data organism:lessons --prompts 32 --limit 32
    """
    from holdfast.core.files import new_folder
    from holdfast.geometry import audit as run_audit
    from holdfast.geometry.describe import describe
    from holdfast.models import Subject, add_lora
    from holdfast.pipeline.recipe import TrainingSection
    from holdfast.pipeline.training_run import definite

    output.quiet_for_json(json)
    output.check_new_folder(out)
    read = output.read_rows(data, model, rows)
    training = definite(TrainingSection(learning_rate=learning_rate, steps=steps), model, len(read.rows))
    rate = training.learning_rate
    assert rate is not None  # what `definite` is for
    skill = output.build_skill(model, asked, seed, min(prompts, rows.limit or prompts))
    subject = output.load_subject(model, adapter, "auto", loading)
    examples = output.encode(read, subject)
    if rank > 0 and adapter is None:
        subject = Subject(add_lora(subject.model, rank, alpha, seed=seed), subject.tokenizer, "adapter")
    result = run_audit(
        subject,
        skill,
        examples,
        optimizer="adamw",
        learning_rate=rate,
        steps=steps,
        seed=seed,
        minutes=minutes or None,
        say=output.say,
    )
    if out is not None:
        with new_folder(out) as folder:
            result.save(folder)
    if json:
        output.emit_json(result.to_dict())
        return
    output.emit_table(
        f"audit of {model} before {steps} steps at {rate:g}",
        ["quantity", "value", "meaning"],
        [[line.name, line.value, line.meaning] for line in describe(result)],
    )
    if out is not None:
        print(f"wrote {out}")
