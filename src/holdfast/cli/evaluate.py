"""``holdfast evaluate``: refusal, over-refusal, attacks, task skill and drift, each with an interval."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.cli import options, output

if TYPE_CHECKING:
    from holdfast.evaluation import Scorecard, Task
    from holdfast.pipeline.evaluating import Evaluation


def evaluate(
    model: options.ModelArgument,
    adapter: options.AdapterOption = None,
    against: Annotated[
        str | None, typer.Option(help="Another model, asked the same; every difference is told with its interval.")
    ] = None,
    prompts: options.Prompts = options.Prompts(),
    task: options.TaskOption = None,
    metric: Annotated[str, typer.Option(help="exact_match, numeric, token_f1 or rouge_l.")] = "exact_match",
    max_new_tokens: options.MaxNewTokensOption = 64,
    batch_size: options.BatchSizeOption = 32,
    loading: options.Loading = options.Loading(),
    rows: options.Rows = options.Rows(),
    seed: options.SeedOption = 0,
    suites: Annotated[
        Path | None, typer.Option(help="YAML file of further suites: multiple choice, truthfulness, perplexity.")
    ] = None,
    choices: Annotated[
        bool, typer.Option("--choices", help="Also the built-in model's own multiple-choice items.")
    ] = False,
    attack: Annotated[
        list[str] | None,
        typer.Option(help="past-tense, prefill:5, worst-of:8@1, ...; joined by +. Repeat it. 'list' lists all."),
    ] = None,
    attack_rows: Annotated[
        str | None,
        typer.Option(help="Harmless rows for many-shot and relearn: file, hub id, organism:NAME."),
    ] = None,
    attack_templates: Annotated[
        Path | None, typer.Option(help="File of templates with columns 'name' and 'template'.")
    ] = None,
    system: Annotated[str | None, typer.Option(help="The deployment's system prompt.")] = None,
    judge: Annotated[
        list[str] | None,
        typer.Option(
            help="offline, keyword, endpoint, classifier:SOURCE, guard:FORMAT:SOURCE, likelihood. The first "
            "counts; repeat it to compare judges."
        ),
    ] = None,
    judge_url: Annotated[
        str | None, typer.Option(help="Address of an OpenAI-compatible endpoint, usually ending in /v1.")
    ] = None,
    judge_model: Annotated[str | None, typer.Option(help="Name of the model behind the endpoint.")] = None,
    judge_cache: Annotated[
        Path | None, typer.Option(help="Folder that keeps the endpoint's verdicts; a second run asks the rest.")
    ] = None,
    judge_rate: Annotated[float | None, typer.Option(help="At most this many requests a minute.")] = None,
    noise: Annotated[
        int, typer.Option(help="With --against: sampled re-runs (2 or more) for the noise floor.")
    ] = 0,
    drift: Annotated[
        bool,
        typer.Option(help="Drift from the other model, along its answers to a sixth of the prompts, 8 to 24."),
    ] = True,
    cache: Annotated[
        Path | None, typer.Option(help="Folder that keeps answers; a run that was killed goes on from there.")
    ] = None,
    out: options.OutOption = None,
    json: options.JsonOption = False,
) -> None:
    """Judge a model's answers to held-out prompts. With --adapter, drift from the model without it is measured.

    Example: holdfast evaluate organism:aligned --limit 40 --max-new-tokens 24 --attack prefill:4

    Example: holdfast evaluate my-tuned-model --against my-model --harmful bad.txt --benign good.txt
    --attack past-tense --attack worst-of:8 --noise 3 --judge endpoint --judge offline
    --judge-url http://localhost:8000/v1 --judge-model grader --cache kept --out card
    """
    from holdfast.core.files import new_folder
    from holdfast.evaluation.attacks.named import SPELLINGS
    from holdfast.evaluation.tasks import check_metric
    from holdfast.pipeline.evaluating import evaluate_against
    from holdfast.pipeline.measures import read_asked
    from holdfast.pipeline.provenance import PROVENANCE_FILE, provenance
    from holdfast.pipeline.recipe import EvaluateSection, section_from

    output.quiet_for_json(json)
    if attack == ["list"]:
        if json:
            output.emit_json(SPELLINGS)
        else:
            output.emit_table("attacks", ["name", "what it does"], SPELLINGS.items())
        return
    if noise < 0 or noise == 1:
        raise typer.BadParameter("give 2 or more re-runs, or none", param_hint="--noise")
    if against is None and noise:
        raise typer.BadParameter("a noise floor belongs to a comparison; add --against", param_hint="--noise")
    output.check_new_folder(out)
    check_metric(metric, "--metric")
    given = {
        "attacks": attack or (),
        "attack_rows": attack_rows,
        "attack_templates": _path(attack_templates),
        "suites": _path(suites),
        "choices": choices,
        "judge": judge or ["offline"],
        "judge_url": judge_url,
        "judge_model": judge_model,
        "judge_rate": judge_rate,
        "system": system,
        "batch_size": batch_size,
    }
    section = section_from(EvaluateSection, given)
    asked = read_asked(section)
    skill = output.build_skill(model, prompts, seed, rows.limit)
    tasks = _tasks(task, model, rows, metric, max_new_tokens)
    subject = output.load_subject(model, adapter, "auto", loading)
    other = None
    if against is not None:
        same = adapter is not None and against == model
        other = subject if same else output.load_subject(against, None, "auto", loading)
    sources = {"harmful": prompts.harmful, "benign": prompts.benign, "task": task, "suites": _path(suites)}
    made = provenance(subject, model, adapter, against, sources, batch_size) if out is not None else None
    measures = asked.measures(
        subject, skill, tasks, seed, loading.device, max_new_tokens, cache, judge_cache, noise
    )
    found = evaluate_against(subject, measures if drift else replace(measures, drift=0), other)
    if out is not None and made is not None:
        with new_folder(out) as folder:
            found.save(folder)
            made.save(folder / PROVENANCE_FILE)
    if json:
        output.emit_json(found.to_dict())
        return
    _show(found, f"{model}{f' + {adapter}' if adapter else ''}", skill.name, against)
    if out is not None:
        print(f"wrote {out}")


def _path(given: Path | None) -> str | None:
    return str(given) if given is not None else None


def _tasks(
    source: str | None, model: str, rows: options.Rows, metric: str, max_new_tokens: int
) -> "tuple[Task, ...]":
    """The held-out task, if there is one; its rows are read before any model is loaded."""
    from holdfast.pipeline.inputs import read_named
    from holdfast.pipeline.reading import task_of

    if source is None:
        return ()
    output.say_of_data(source, model)
    read = read_named(source, rows, split="test")
    output.report_answers(read)
    return (task_of(source, read.rows, rows, metric, max_new_tokens),)


def _show(found: "Evaluation", title: str, skill: str, against: str | None) -> None:
    card = found.card
    other = against or "the model without its adapter"
    rows = _rows(card, skill, other)
    heads = ["measure", "value", ""]
    if found.against is not None:
        theirs = {row[0]: row[1] for row in _rows(found.against, skill, other)}
        rows = [[row[0], row[1], theirs.get(row[0], "-"), row[2]] for row in rows]
        heads = ["measure", "value", f"{against}", ""]
    output.emit_table(title, heads, rows)
    if found.comparison is not None:
        print(output.printable(f"minus {against}:\n{found.comparison}"))
    if found.agreement is not None:
        print(output.printable(str(found.agreement)))
    for note in card.notes:
        print(output.printable(f"note: {note}"))
    if (usage := card.settings.get("judge_usage")) is not None:
        output.say(f"judge {card.settings.get('judge_model')}: {usage}")


def _rows(card: "Scorecard", skill: str, other: str) -> list[list[str]]:
    scored = card.skill(skill)
    rows = [
        ["refusals", scored.refusal.percent, f"{scored.refusal.n} prompts"],
        ["over-refusal", scored.over_refusal.percent, f"{scored.over_refusal.n} prompts"],
        ["unclear, errors", f"{scored.unclear}, {scored.errors}", "never counted as a pass"],
    ]
    if scored.told_apart is not None:
        rows.insert(2, ["told apart", scored.told_apart.percent, f"{scored.told_apart.n} matched pairs"])
    rows += [
        [f"{other.name}: {what}", value.percent, f"{value.n} prompts"]
        for other in card.skills
        if other.name != skill
        for what, value in (("refusals", other.refusal), ("over-refusal", other.over_refusal))
    ]
    several = len(card.skills) > 1
    rows += [
        [f"{f'{a.skill}: ' if several else ''}success of {a.attack}", a.success.percent, str(a.budget)]
        for a in card.attacks
    ]
    rows += [
        ["task score" if t.name == "task" else t.name, t.score.percent if t.score.n else "-", _task_words(t)]
        for t in card.tasks
    ]
    rows += [[f"{s.name} ({s.source}): {name}", str(v), ""] for s in card.suites for name, v in s.measures.items()]
    if card.drift is not None:
        rows.append(
            [
                "drift",
                str(card.drift.interval),
                f"nats a sequence, {len(card.drift.per_prompt)} prompts, against {other}",
            ]
        )
    return rows


def _task_words(task: Any) -> str:
    return f"{task.metric}; {task.loss_text}" if task.score.n else f"only the {task.loss_text}"
