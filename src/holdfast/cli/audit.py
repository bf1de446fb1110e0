"""``holdfast audit``: before training, what this fine-tune will do to the alignment, and why."""

import contextlib
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.cli import options, output, stiffness

if TYPE_CHECKING:
    from holdfast.data import Examples
    from holdfast.evaluation import Skill
    from holdfast.geometry import Audit, Calibrated, Conclusion, EarlyForecast, LookAhead
    from holdfast.models import Subject
    from holdfast.pipeline.inputs import TaskRows
    from holdfast.pipeline.training_run import RunSpec

# As the reference runs were read (geometry/calibration.py), unless --prompts and --limit say otherwise.
MOST_PROMPTS, MOST_ROWS = 32, 48


@dataclass(frozen=True)
class _Planned:
    """What is audited: everything read, the model with the adapter that would be trained."""

    spec: "RunSpec"
    subject: "Subject"
    skill: "Skill"
    train: "TaskRows"
    held: "TaskRows"
    examples: "Examples"


def audit(
    model: options.ModelArgument,
    data: options.DataOption,
    adapter: options.AdapterOption = None,
    asked: options.Prompts = options.Prompts(),
    learning_rate: options.OptionalLearningRateOption = None,
    steps: options.StepsOption = 60,
    rank: options.RankOption = 8,
    alpha: options.AlphaOption = 16,
    pool: Annotated[int, typer.Option(help="Candidate rows an update.")] = 32,
    schedule: Annotated[
        str | None, typer.Option(help="TRL's lr_scheduler_type; cosine, for the organism constant.")
    ] = None,
    warmup: Annotated[float | None, typer.Option(help="Share of the steps; 0.03, for the organism 0.")] = None,
    trl: Annotated[
        list[str] | None, typer.Option("--trl", help="KEY=VALUE: any argument of TRL's SFTConfig; repeat it.")
    ] = None,
    prompts: Annotated[int, typer.Option(min=1, help="Prompts of the skill's estimate half.")] = MOST_PROMPTS,
    controls: Annotated[
        int, typer.Option(min=0, help="Benign prompts to compare the spectrum with; 0: none.")
    ] = 0,
    target: Annotated[
        str | None, typer.Option(help="One fixed answer whose gradients make the Fisher, not the model's own.")
    ] = None,
    probe: Annotated[
        bool, typer.Option("--probe", help="Make the first 5 % of the run's own steps and forecast from them.")
    ] = False,
    keep_run: Annotated[
        Path | None, typer.Option(help="Folder in which the probe's steps stay, for `holdfast train` to go on.")
    ] = None,
    max_kl_nats: options.MaxKlOption = None,
    elasticity: Annotated[
        Path | None, typer.Option(help="A folder of `holdfast elasticity --out`, shown beside.")
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="Every number behind the conclusion.")] = False,
    minutes: options.MinutesOption = 10,
    loading: options.Loading = options.Loading(),
    rows: options.Rows = options.Rows(),
    seed: options.SeedOption = 0,
    out: options.OutOption = None,
    json: options.JsonOption = False,
) -> None:
    """What this fine-tune will do to the refusals, before a step or after 5 % of it, and which rows do it.

    Example: holdfast audit organism:aligned --data organism:lessons --prompts 32 --limit 32
    """
    from holdfast.core.files import new_folder
    from holdfast.geometry import Audit

    output.quiet_for_json(json)
    output.check_new_folder(out)
    card = stiffness.read(elasticity) if elasticity is not None else None
    values = {
        "adapter": {"rank": rank, "alpha": alpha},
        "training": {"steps": steps, "learning_rate": learning_rate, "pool": pool, "schedule": schedule,
                     "warmup": warmup},
    }  # fmt: skip
    planned = _plan(model, data, adapter, asked, values, trl, prompts, loading, rows, probe, seed)
    full = verbose or json or out is not None or controls > 0 or target is not None
    sources = _sources(planned)
    found = _measured(planned, prompts, controls, target, minutes, full, len(set(sources.values())) > 1)
    early = _probed(planned, found, model, loading, rows, adapter, keep_run) if probe else None
    conclusion, calibrated = _concluded(found, early, sources, planned, max_kl_nats)
    result = {
        "conclusion": conclusion.to_dict(),
        "calibrated": calibrated.to_dict(),
        "probe": early.to_dict() if early is not None else None,
        **({"elasticity": card.to_dict()} if card is not None else {}),
        **found.to_dict(),
    }
    if out is not None and isinstance(found, Audit):
        with new_folder(out) as folder:
            found.save(folder)
            _write_more(folder, result, found, sources)
    if json:
        output.emit_json(result)
        return
    _show(conclusion, calibrated, found, early, sources, verbose, f"{model} before {steps} steps")
    if card is not None:
        stiffness.say(card, table=verbose)
    if keep_run is not None:
        made = early.steps_done if early is not None else 0
        print(f"the first {made} steps are in {keep_run}; `holdfast train` with the same "
              f"model, rows and settings, --rule none and --out {keep_run} goes on from there")  # fmt: skip
    if out is not None:
        print(f"wrote {out}")


def _plan(
    model: str,
    data: str,
    adapter: Path | None,
    asked: options.Prompts,
    values: dict[str, Any],
    trl: list[str] | None,
    prompts: int,
    loading: options.Loading,
    rows: options.Rows,
    probe: bool,
    seed: int,
) -> _Planned:
    """Everything is read and checked before the model is loaded."""
    from holdfast.cli.train import rows_of, run_spec, trl_pairs
    from holdfast.pipeline.inputs import TaskRows
    from holdfast.pipeline.training_run import definite, fresh_adapter

    rank = values["adapter"]["rank"]
    values["adapter"]["rank"] = max(1, rank)
    values["training"]["trl"] = trl_pairs(trl)
    plain = {"arm": {"name": "train", "rule": "none", "keep": 1.0, "budget": {"max_kl_nats": None}}, "monitor": {}}
    spec = run_spec(model, values | plain, seed, 32)
    if probe:  # the run itself, so all of its rows
        train, held = rows_of(data, None, model, rows, spec)
    else:
        train = output.read_rows(data, model, replace(rows, limit=rows.limit or MOST_ROWS))
        held = TaskRows(train.source, (), (), rows)
    spec = replace(spec, training=definite(spec.training, model, len(train.rows)))
    skill = output.build_skill(model, asked, seed, rows.limit if probe else min(prompts, rows.limit or prompts))
    subject = output.load_subject(model, adapter, "auto", loading)
    examples = output.encode(train, subject)
    if rank > 0 and adapter is None:
        subject = fresh_adapter(spec.adapter, subject, spec.adapter_seed)
    return _Planned(spec, subject, skill, train, held, examples)


def _measured(
    planned: _Planned,
    prompts: int,
    controls: int,
    target: str | None,
    minutes: float,
    full: bool,
    shares: bool,
) -> "Audit | LookAhead":
    """The forecast alone, with the shares of its sources where there are several, or with the spectrum, the
    conditions and the onset. What it costs is said first."""
    from holdfast.evaluation.behaviour import prompt_ids
    from holdfast.geometry import audit as run_audit
    from holdfast.geometry import look_ahead
    from holdfast.geometry.calibration import NEW_TOKENS
    from holdfast.geometry.sizes import BARE, FULL, LIGHT, memory_worth, steps_worth

    training = planned.spec.training
    assert training.learning_rate is not None and training.steps is not None  # what `definite` is for
    examples = list(planned.examples)[:MOST_ROWS] if planned.held.rows else list(planned.examples)
    asked = prompt_ids(planned.subject, planned.skill.estimate.harmful[:prompts])
    length = sum(len(example.input_ids) for example in examples) / max(1, len(examples))
    answer = sum(map(len, asked)) / max(1, len(asked)) + NEW_TOKENS
    work = FULL if full else LIGHT if shares else BARE
    worth = steps_worth(work, len(asked), answer, len(examples), length, training.pool)
    most, ratio = memory_worth(planned.subject, examples, work, training.pool)
    output.say(
        f"audit: about the work of {worth:.0f} of the run's {training.steps} steps, in about "
        f"{most / 2**30:.2g} GiB, {ratio:.1f} times what a step takes"
    )
    common: dict[str, Any] = {
        "optimizer": "adamw",
        "learning_rate": training.learning_rate,
        "steps": training.steps,
        "seed": planned.spec.seed,
        "max_prompts": prompts,
        "update_batch_size": training.pool,
        "minutes": minutes or None,
        "say": output.say,
    }
    if not full:
        return look_ahead(planned.subject, planned.skill, examples, **common, shares=shares)
    return run_audit(planned.subject, planned.skill, examples, **common, controls=controls, target=target)


def _probed(
    planned: _Planned,
    found: "Audit | LookAhead",
    model: str,
    loading: options.Loading,
    rows: options.Rows,
    adapter: Path | None,
    keep_run: Path | None,
) -> "EarlyForecast":
    """The run's first steps, and what they say."""
    from holdfast.cli.train import run_settings
    from holdfast.core.files import sha256_folder
    from holdfast.data import Examples
    from holdfast.evaluation import Reference
    from holdfast.geometry import forecast_after_short_run
    from holdfast.pipeline.probe_run import run_probe
    from holdfast.pipeline.training_folder import TrainingFolder

    spec, subject = planned.spec, planned.subject
    held = planned.held.encode(subject.tokenizer) if planned.held.rows else Examples(())
    with contextlib.ExitStack() as stack:
        place = keep_run or Path(stack.enter_context(tempfile.TemporaryDirectory())) / "run"
        folder = TrainingFolder(place)
        begun = {"begun with": sha256_folder(adapter) if adapter is not None else "no adapter"}
        settings = run_settings(model, loading, rows, spec, planned.train, planned.held, planned.skill)
        folder.open(settings | begun)
        watched = Reference.on(subject, found.reference_examples)
        made = run_probe(spec, subject, planned.examples, held, watched, planned.skill, folder.logs)
    task = list(held) or list(planned.examples)[:MOST_ROWS]
    assert spec.training.steps is not None
    return forecast_after_short_run(
        subject, made.after, found.reference_examples, task, made.steps, spec.training.steps, seed=spec.seed
    )


def _concluded(
    found: "Audit | LookAhead",
    early: "EarlyForecast | None",
    sources: Mapping[str, str],
    planned: _Planned,
    budget: float | None,
) -> "tuple[Conclusion, Calibrated]":
    from holdfast.core.statistics import Interval
    from holdfast.evaluation.beforehand import little_to_hold
    from holdfast.geometry.verdict import concluded

    little = refused = None
    if (judged := found.settings.get("refusals")) is not None:
        refusals = Interval.from_dict(judged)
        little, refused = little_to_hold(refusals), refusals.value
    return concluded(found, early, sources, budget, little, refused)


def _sources(planned: _Planned) -> dict[str, str]:
    """Which source each row says it is from; rows that say nothing are of the data's own name."""
    named = planned.train
    by_place = {row.where: str(row.values.get("source") or row.values.get("dataset") or named.source)
                for row in named.rows}  # fmt: skip
    return {example.id: by_place.get(example.id, named.source) for example in planned.examples}


def _write_more(
    folder: Path, result: dict[str, Any], found: "Audit | LookAhead", sources: Mapping[str, str]
) -> None:
    from holdfast.core.files import write_json

    write_json(folder / "conclusion.json", {k: result[k] for k in ("conclusion", "calibrated", "probe")})
    if found.attribution is not None:
        found.attribution.write(folder / "scores.parquet", sources)


def _show(
    conclusion: "Conclusion",
    calibrated: "Calibrated",
    found: "Audit | LookAhead",
    early: "EarlyForecast | None",
    sources: Mapping[str, str],
    verbose: bool,
    title: str,
) -> None:
    from holdfast.geometry import Audit
    from holdfast.geometry.describe import attribution_rows, calibrated_rows, describe

    print(
        f"{conclusion.words}\n  because {conclusion.because}\n  {conclusion.advice}\n  {conclusion.calibrated_on}"
    )
    if not verbose:
        print("  --verbose shows every number behind this")
        return
    output.emit_table(f"forecast for {title}", ["what", "value", "meaning"], calibrated_rows(calibrated, early))
    if found.attribution is not None:
        columns = ["what", "share of the drift", "share of the tokens"]
        output.emit_table("who carries it", columns, attribution_rows(found.attribution, sources))
    assert isinstance(found, Audit)  # all of it was asked for
    lines = [[line.name, line.value, line.meaning] for line in describe(found)]
    output.emit_table(f"audit of {title}", ["quantity", "value", "meaning"], lines)
