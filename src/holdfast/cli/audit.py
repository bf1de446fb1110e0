"""``holdfast audit``: before training, where the alignment sits and how this task will pull at it."""

from typing import Annotated

import typer

from holdfast.cli import output


def audit(
    model: output.ModelArgument,
    data: Annotated[str, typer.Option("--data", help="Rows of the fine-tuning task.")],
    harmful: output.HarmfulOption = "organism",
    benign: output.BenignOption = "organism",
    learning_rate: Annotated[float, typer.Option(help="Of the planned run.")] = 1e-3,
    steps: Annotated[int, typer.Option(help="Of the planned run.")] = 60,
    rank: Annotated[int, typer.Option(help="LoRA rank of the planned run; 0 audits all parameters.")] = 8,
    alpha: Annotated[int, typer.Option(help="LoRA alpha.")] = 16,
    prompts: Annotated[int, typer.Option(help="Prompts of the skill's estimate half.")] = 64,
    dtype: output.DtypeOption = "auto",
    device: output.DeviceOption = "auto",
    limit: output.LimitOption = 64,
    max_length: output.MaxLengthOption = 1024,
    seed: output.SeedOption = 0,
    out: output.OutOption = None,
    json: output.JsonOption = False,
) -> None:
    """Fisher spectrum, instability conditions, onset of drift and a ranking of risk, before a single step.

    Example: holdfast audit organism:aligned --data organism:lessons --prompts 32 --limit 32
    """
    from holdfast.core.files import new_folder
    from holdfast.evaluation import Skill, SkillSplit
    from holdfast.geometry import audit as run_audit
    from holdfast.geometry.describe import describe
    from holdfast.models import Subject, add_lora

    output.quiet_for_json(json)
    subject = output.load_subject(model, None, "all", dtype, device)
    examples = output.read_task(data, subject, max_length, limit, False)
    skill = output.build_skill(harmful, benign, seed)
    estimate = SkillSplit(skill.estimate.harmful[:prompts], skill.estimate.benign[:prompts])
    skill = Skill(skill.name, estimate=estimate, evaluate=skill.evaluate, counts=skill.counts)
    if rank > 0:
        subject = Subject(add_lora(subject.model, rank, alpha, seed=seed), subject.tokenizer, "adapter")
    result = run_audit(
        subject, skill, examples, optimizer="adamw", learning_rate=learning_rate, steps=steps, seed=seed
    )
    if out is not None:
        with new_folder(out) as folder:
            result.save(folder)
    if json:
        output.emit_json(result.to_dict())
        return
    output.emit_table(
        f"audit of {model} before {steps} steps at {learning_rate:g}",
        ["quantity", "value", "meaning"],
        [[line.name, line.value, line.meaning] for line in describe(result)],
    )
    if out is not None:
        print(f"wrote {out}")
