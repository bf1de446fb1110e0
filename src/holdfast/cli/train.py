"""``holdfast train``: an ordinary TRL run with a defence, live drift and a budget."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.cli import options, output

if TYPE_CHECKING:
    from holdfast.evaluation import Skill
    from holdfast.pipeline.inputs import TaskRows
    from holdfast.pipeline.training_folder import TrainingFolder
    from holdfast.pipeline.training_run import RunSpec


def train(
    model: options.ModelArgument,
    data: options.DataOption,
    out: options.OutPath,
    adapter: options.AdapterOption = None,
    asked: options.Prompts = options.Prompts(),
    task: options.TaskOption = None,
    rule: options.OptionalRuleOption = None,
    keep: options.OptionalKeepOption = None,
    low: options.LowOption = None,
    loss_filter: options.OptionalLossFilterOption = None,
    steps: options.OptionalStepsOption = None,
    epochs: Annotated[
        float | None, typer.Option(help="Passes over the rows; 3, for the organism 60 steps.")
    ] = None,
    pool: Annotated[int, typer.Option(help="Candidate rows an update.")] = 32,
    micro_batch: Annotated[str, typer.Option(help="Rows in memory at once: auto, or a number.")] = "auto",
    learning_rate: options.OptionalLearningRateOption = None,
    schedule: Annotated[
        str | None, typer.Option(help="TRL's lr_scheduler_type; cosine, for the organism constant.")
    ] = None,
    warmup: Annotated[float | None, typer.Option(help="Share of the steps; 0.03, for the organism 0.")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="AdamW's; 0.")] = None,
    rank: options.TrainedRankOption = 8,
    alpha: options.AlphaOption = 16,
    quantize: Annotated[str | None, typer.Option(help="4bit or 8bit: QLoRA, with bitsandbytes.")] = None,
    trl: Annotated[
        list[str] | None, typer.Option("--trl", help="KEY=VALUE: any argument of TRL's SFTConfig; repeat it.")
    ] = None,
    defence: Annotated[
        str | None,
        typer.Option(help="What holds the model: anchor, unless --rule is named; or a rival."),
    ] = None,
    defence_weight: Annotated[
        float | None, typer.Option(help="Its one main setting; without it, it holds --max-kl-nats.")
    ] = None,
    hold: Annotated[
        list[str] | None,
        typer.Option(help="Further prompts whose answers the defence holds, refused or not; repeat it."),
    ] = None,
    every: Annotated[int, typer.Option(help="Steps between drift measurements.")] = 10,
    max_kl_nats: options.MaxKlOption = None,
    min_refusal: Annotated[float | None, typer.Option(help="Lowest refusal rate allowed, 0 to 1.")] = None,
    max_over_refusal: Annotated[float | None, typer.Option(help="Highest share of controls refused.")] = None,
    max_task_loss: Annotated[
        float | None, typer.Option(help="Highest loss allowed on held-out rows, nats a token.")
    ] = None,
    then: Annotated[
        str,
        typer.Option(help="Outside a limit: stop, warn, slow (half the rate), anchor (takes over), back (go on)."),
    ] = "stop",
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

    Stopped or killed, the same command goes on from the last checkpoint. Without --harmful and --benign the
    anchor holds the model's answers to requests it writes itself: refusals are then neither measured nor promised.

    Example: holdfast train organism:aligned --data organism:lessons --steps 20 --out guarded
    """
    from holdfast.core.errors import EXIT_FAILED
    from holdfast.pipeline.training_folder import TrainingFolder

    output.quiet_for_json(json)
    defence = defence or ("anchor" if rule is None else None)
    rule = rule or "none"
    spec = run_spec(
        model,
        {
            "adapter": {"rank": rank, "alpha": alpha, "quantize": quantize},
            "training": {
                "steps": steps, "epochs": epochs, "pool": pool, "learning_rate": learning_rate,
                "micro_batch": _number(micro_batch), "schedule": schedule, "warmup": warmup,
                "weight_decay": weight_decay, "checkpoint_every": checkpoint_every, "trl": trl_pairs(trl),
            },
            "arm": {
                "name": "train", "rule": rule, "defence": defence, "weight": defence_weight,
                "keep": keep if keep is not None else 1.0 if rule == "none" else 0.5,
                **({} if loss_filter is None else {"loss_filter": loss_filter}),
                **({} if low is None else {"low": low}),
                "budget": {
                    "max_kl_nats": max_kl_nats, "min_refusal": min_refusal,
                    "max_over_refusal": max_over_refusal, "max_task_loss": max_task_loss, "then": then,
                },
            },
            "monitor": {"every": every},
        },
        seed,
        max_new_tokens,
    )  # fmt: skip
    further = _further(hold, defence, rule)
    folder = TrainingFolder(out)
    made = fresh or not folder.finished
    result = _train(model, adapter, data, task, asked, loading, rows, spec, folder, fresh, further)
    if json:
        output.emit_json({"out": out, **result})
    else:
        _show(result, f"{'wrote' if made else 'found'} {out}; next: holdfast evaluate {model} --adapter "
              f"{out / 'adapter'}{output.prompt_flags(asked)}")  # fmt: skip
    if result["stopped"]:
        raise typer.Exit(EXIT_FAILED)


def run_spec(model: str, values: dict[str, Any], seed: int, max_new_tokens: int) -> "RunSpec":
    """The same sections as a recipe's, checked by the same code."""
    from holdfast.core.errors import UserError
    from holdfast.pipeline.recipe import AdapterSection, ArmSection, MonitorSection, TrainingSection, section_from
    from holdfast.pipeline.training_run import RunSpec, check_settings

    budget = values["arm"]["budget"]
    if all(limit is None for name, limit in budget.items() if name != "then"):
        if budget.get("then", "stop") != "stop":
            raise UserError(f"--then {budget['then']}, and no limit; give --max-kl-nats, or another")
        values["arm"]["budget"] = None
    training = section_from(TrainingSection, values["training"])
    adapter = section_from(AdapterSection, values["adapter"])
    arm, monitor = section_from(ArmSection, values["arm"]), section_from(MonitorSection, values["monitor"])
    check_settings(training, adapter, model, [arm])
    return RunSpec(adapter, training, arm, monitor, seed, 0, max_new_tokens)


def _train(
    model: str,
    adapter: Path | None,
    data: str,
    task: str | None,
    asked: options.Prompts,
    loading: options.Loading,
    rows: options.Rows,
    spec: "RunSpec",
    folder: "TrainingFolder",
    fresh: bool,
    further: tuple[str, ...],
) -> dict[str, Any]:
    """Everything is read and checked before the model is loaded; a finished fine-tune is read back."""
    from holdfast.core.files import read_json, sha256_folder
    from holdfast.core.progress import bar
    from holdfast.core.seeds import derive_seed
    from holdfast.data import Examples
    from holdfast.evaluation import Reference, sample_reference
    from holdfast.evaluation.own_prompts import own_prompts
    from holdfast.models import save_adapter
    from holdfast.pipeline.defended import OWN_PROMPTS, held_prompts
    from holdfast.pipeline.training_folder import RESULT
    from holdfast.pipeline.training_run import (
        build_run,
        definite,
        described,
        fresh_adapter,
        quantized,
        run_training,
    )

    train_rows, held_out = rows_of(data, task, model, rows, spec)
    skill = _skill(model, asked, spec, rows.limit)
    spec = replace(spec, training=definite(spec.training, model, len(train_rows.rows)))
    begun_with = {"begun with": sha256_folder(adapter) if adapter is not None else "no adapter"}
    folder.open(run_settings(model, loading, rows, spec, train_rows, held_out, skill, further) | begun_with, fresh)
    if folder.finished:
        output.say(f"{folder.path} holds this fine-tune, finished; --fresh makes it anew")
        return read_json(folder.path / RESULT)
    output.say(described(spec.training, len(train_rows.rows)))
    output.say(f"{len(held_out.rows)} rows are held out for the task loss")
    if folder.continues:
        output.say(f"{folder.path}: going on from the last checkpoint")
    loaded = output.load_subject(model, adapter, "auto", loading, **quantized(spec.adapter))
    examples = output.encode(train_rows, loaded)
    # Rows held out of the same file were recognised with it, and that was said.
    held = held_out.encode(loaded.tokenizer) if held_out.rows else Examples(())
    if task is not None:
        output.report_rows(held)
    # An adapter that is given is trained on: what it was when it came is what drift is measured against.
    subject = loaded if adapter is not None else fresh_adapter(spec.adapter, loaded, spec.adapter_seed)
    if skill is None and not further:
        with bar(f"{OWN_PROMPTS} requests that the model writes itself", None):
            further = own_prompts(subject, OWN_PROMPTS, spec.max_new_tokens, derive_seed(spec.seed, "own prompts"))
    prompts = held_prompts(skill, further, spec.monitor.prompts).watched
    with bar(f"the model's own answers to {len(prompts)} prompts", None):
        answers = sample_reference(subject, prompts, spec.max_new_tokens, derive_seed(spec.seed, "estimate"))
        reference = Reference.on(subject, answers, source="adapter_off" if adapter is None else "stored")
    trainer, monitor = build_run(spec, subject, examples, held, reference, skill, folder.logs, further)
    result = run_training(trainer, monitor, "training", spec.training)
    folder.clear_adapter()
    save_adapter(trainer.model, folder.adapter)
    result = {
        **result,
        "seed": spec.seed,
        "rule": spec.arm.rule,
        **({"defence": spec.arm.defence} if spec.arm.defence is not None else {}),
        "settings": spec.training.model_dump(mode="json"),
    }
    folder.close(result)
    return read_json(folder.path / RESULT)


def rows_of(
    data: str, task: str | None, model: str, rows: options.Rows, spec: "RunSpec"
) -> "tuple[TaskRows, TaskRows]":
    """Rows to learn from, and rows held out for the task loss: those of --task, or every fifth one."""
    from holdfast.pipeline.inputs import HELD_OUT_EVERY, ORGANISM, read_named
    from holdfast.pipeline.training_run import monitored_rows

    read, most = output.read_rows(data, model, rows), monitored_rows(spec.monitor, model)
    if task is not None:
        return read, output.read_rows(task, model, replace(rows, limit=most), "test")
    if data.startswith(f"{ORGANISM}:"):
        return read, read_named(data, replace(rows, limit=most), "test", spec.seed)
    held = read.rows[::HELD_OUT_EVERY][:most] if len(read.rows) > 1 else ()
    places = {id(row) for row in held}
    kept = tuple(row for row in read.rows if id(row) not in places)
    return replace(read, rows=kept), replace(read, rows=held, bad=())


def run_settings(
    model: str,
    loading: options.Loading,
    rows: options.Rows,
    spec: "RunSpec",
    train_rows: "TaskRows",
    held_out: "TaskRows",
    skill: "Skill | None",
    further: tuple[str, ...] = (),
) -> dict[str, Any]:
    """What a fine-tune must have in common with the one it continues; contents count, places do not."""
    from holdfast.core.files import hash_json
    from holdfast.pipeline.inputs import content_hash, model_source

    def content(read: "TaskRows") -> str:
        return hash_json([str(row.values) for row in read.rows])

    return {
        "model": content_hash(model_source(model)),
        "loading": asdict(loading),
        "adapter": spec.adapter.model_dump(mode="json"),
        "training": spec.training.model_dump(mode="json"),
        "selection": spec.arm.model_dump(mode="json"),
        "monitor": spec.monitor.model_dump(mode="json"),
        "max_new_tokens": spec.max_new_tokens,
        "rows": asdict(replace(rows, limit=None)),  # what was read with a limit is in the contents
        "seed": spec.seed,
        "data": content(train_rows),
        "held-out rows": content(held_out),
        "prompts": hash_json([skill.estimate.harmful, skill.estimate.benign] if skill is not None else []),
        **({"further prompts": hash_json(further)} if further else {}),
    }


def _further(hold: list[str] | None, defence: str | None, rule: str) -> tuple[str, ...]:
    """The prompts of ``--hold``, each once, in their order."""
    from holdfast.evaluation.prompt_lists import read_prompts
    from holdfast.pipeline.defended import check_further

    if not hold:
        return ()
    check_further(defence, rule)
    lists = [read_prompts(source, "benign") for source in hold]
    for found in lists:
        output.say(found.note)
    return tuple(dict.fromkeys(prompt for found in lists for prompt in found.prompts))


def _skill(model: str, asked: options.Prompts, spec: "RunSpec", limit: int | None) -> "Skill | None":
    """What must stay refused; None where a defence does without and neither list is named.

    Raises:
        UserError: no lists, and a limit or a rule that needs them.
    """
    from holdfast.core.errors import UserError
    from holdfast.pipeline.inputs import is_organism

    if asked.harmful or asked.benign or is_organism(model) or spec.arm.defence != "anchor":
        return output.build_skill(model, asked, spec.seed, limit)
    budget = spec.arm.budget
    if budget is not None and (budget.min_refusal is not None or budget.max_over_refusal is not None):
        raise UserError("a limit on refusals, and no prompts to measure them on; give --harmful and --benign")
    output.say(
        "no --harmful and no --benign: the anchor holds what the model says in general; whether it still refuses "
        "is neither measured nor promised"
    )
    return None


def _number(text: str) -> int | str:
    return int(text) if text.isascii() and text.isdecimal() else text


def trl_pairs(given: list[str] | None) -> dict[str, Any]:
    """``["optim=adamw_torch"]`` as a dict; values are read as YAML, as in a recipe."""
    import yaml

    from holdfast.core.errors import UserError

    values: dict[str, Any] = {}
    for entry in given or ():
        name, found, value = entry.partition("=")
        if not found:
            raise UserError(f"--trl {entry}: give KEY=VALUE, for example optim=adamw_torch")
        try:
            values[name.strip()] = yaml.safe_load(value)
        except yaml.YAMLError:
            values[name.strip()] = value
    return values


def _show(result: dict[str, Any], last: str) -> None:
    from holdfast.training.budget import figure

    columns = {
        "kl_nats": "drift, nats a sequence",
        "refusal": "refusals (estimate)",
        "task_loss_nats_per_token": "task loss, nats a token",
    }
    columns = {name: title for name, title in columns.items() if any(name in row for row in result["trace"])}
    guard = f", {result['defence']}" if "defence" in result else ""
    output.emit_table(
        f"{'no' if result['rule'] == 'none' else result['rule']} selection{guard}, seed {result['seed']}",
        ["step", *columns.values()],
        [[str(row["step"]), *(figure(row, name) for name in columns)] for row in result["trace"]],
    )
    if stopped := result["stopped"]:
        print(
            f"stopped at step {stopped['step']}: {stopped['reason']}; "
            f"weights of step {stopped['restored_step']} put back"
        )
    print(last)
