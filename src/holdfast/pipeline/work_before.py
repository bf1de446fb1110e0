"""Stages before training: inputs made concrete, reference answers, scores, audit.

Knows: which library call each stage is, and which files it leaves. Does not know: order, resume.
"""

import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from holdfast.core.files import read_json, write_json, write_text
from holdfast.core.seeds import derive_seed
from holdfast.data import Example, Examples, read_examples
from holdfast.data.sources import Row
from holdfast.evaluation import Skill, sample_reference
from holdfast.models import Subject, load_adapter
from holdfast.pipeline.defended import held_prompts
from holdfast.pipeline.folder import RunFolder
from holdfast.pipeline.inputs import columns_of, load_named
from holdfast.pipeline.prompts import limited
from holdfast.pipeline.reading import read_inputs
from holdfast.pipeline.training_run import definite, fresh_adapter, quantized

log = logging.getLogger(__name__)

TRAIN, TEST, SKILL, HELD, REFERENCE, SCORES, SELECTION = (
    "train.jsonl",
    "test.jsonl",
    "skill.json",
    "held.json",
    "reference.json",
    "scores.parquet",
    "selection.json",
)
PLACES = "places.json"  # where each row stands in the user's own file
COUNTS = "counts.json"
SAID = "said.json"
ADAPTER = "adapter"


def aligned(run: RunFolder) -> Subject:
    """The aligned model, loaded anew: a stage never inherits another's state."""
    section = run.recipe.model
    return load_named(
        section.source,
        dtype=section.dtype,
        device=section.device,
        revision=section.revision,
        trust_remote_code=section.trust_remote_code,
        today=read_json(run.stage("prepare") / SAID)["today"],
        template=section.chat_template_kwargs,
        **quantized(run.recipe.adapter),
    )


def with_fresh_adapter(run: RunFolder, seed: int) -> Subject:
    """The aligned model with an untrained adapter: the same function, the scope that training moves."""
    return fresh_adapter(run.recipe.adapter, aligned(run), derive_seed(run.recipe.seed, seed))


def with_adapter(run: RunFolder, stage: str | None) -> Subject:
    """The aligned model with the adapter of an earlier stage (None: without)."""
    subject = aligned(run)
    if stage is None:
        return subject
    return Subject(load_adapter(subject.model, run.stage(stage) / ADAPTER), subject.tokenizer, "adapter")


def skill_of(run: RunFolder) -> Skill:
    """The skill that ``prepare`` split."""
    return Skill.load(run.stage("prepare") / SKILL)


def further_of(run: RunFolder) -> tuple[str, ...]:
    """Prompts that defences hold beside the skill's."""
    return tuple(read_json(run.stage("prepare") / HELD))


def examples_of(run: RunFolder, subject: Subject, file: str, limit: int | None = None) -> Examples:
    """Training or test rows, tokenised for ``subject``; each is called as in the user's own file."""
    section, rows = run.recipe.task, rows_of(run, file)
    how, skip = columns_of(section), section.skip_bad_rows
    found = read_examples(rows, subject.tokenizer, section.max_length, limit, skip, **how)
    if limit is None and found.rendering_hash != read_json(run.stage("prepare") / COUNTS)[file]["rendering"]:
        log.warning(
            "%s gives other tokens than when this run began: tokenizer or chat template have changed, and what is "
            "finished does not match; start over with --fresh",
            file,
        )
    return found


def rows_of(run: RunFolder, file: str) -> list[Row]:
    """Rows that ``prepare`` wrote, each with its place in the user's own file."""
    text = (run.stage("prepare") / file).read_text(encoding="utf-8")
    values = [json.loads(line) for line in text.split("\n") if line]
    places = read_json(run.stage("prepare") / PLACES)[file]
    return [Row(where, row, position) for (where, position), row in zip(places, values, strict=True)]


def prepare(run: RunFolder, folder: Path) -> None:
    """Read everything once and keep it in the run, so that later stages see one and the same data."""
    inputs = run.inputs or read_inputs(run.recipe)
    for note in inputs.notes:
        log.warning(note)
    inputs.skill.save(folder / SKILL)
    write_json(folder / HELD, list(inputs.further))
    places = {}
    for file, name in ((TRAIN, "train"), (TEST, "test")):
        kept = inputs.usable(name)
        _write_rows(folder / file, (row.values for row in kept))
        places[file] = [[row.where, row.position] for row in kept]
    write_json(folder / PLACES, places)
    write_json(folder / COUNTS, {f"{name}.jsonl": count for name, count in inputs.counts().items()})
    write_json(folder / SAID, {"today": inputs.today, "notes": list(inputs.notes)})


def _write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    write_text(path, "".join(json.dumps(dict(row), ensure_ascii=False, default=str) + "\n" for row in rows))


def reference(run: RunFolder, folder: Path) -> None:
    """Completions sampled from the aligned model: on *estimate* for the monitor, on *evaluate* for the card."""
    skill, subject = skill_of(run), aligned(run)
    halves = {
        "estimate": held_prompts(skill, further_of(run), run.recipe.monitor.prompts).watched,
        "evaluate": skill.evaluate.harmful,
    }
    write_json(
        folder / REFERENCE,
        {
            half: [
                {"prompt_ids": e.prompt_ids, "completion_ids": e.completion_ids, "id": e.id}
                for e in sample_reference(
                    subject, prompts, run.recipe.skill.max_new_tokens, derive_seed(run.recipe.seed, half)
                )
            ]
            for half, prompts in halves.items()
        },
    )


def reference_examples(run: RunFolder, half: str) -> list[Example]:
    """What ``reference`` sampled."""
    values = read_json(run.stage("reference") / REFERENCE)[half]
    return [Example(tuple(v["prompt_ids"]), tuple(v["completion_ids"]), v["id"]) for v in values]


def scores(run: RunFolder, folder: Path) -> None:
    """Per-sample gradient norms at the aligned model, and what the first selecting arm would keep of them."""
    from holdfast.gradients.offline import score_to_parquet
    from holdfast.selection import select

    subject = with_fresh_adapter(run, run.recipe.training.seeds[0])
    section = run.recipe.task
    examples = examples_of(run, subject, TRAIN, section.scored_rows)
    table, _ = score_to_parquet(subject, examples, folder / SCORES, dataset=section.train, seed=run.recipe.seed)
    arm = next((arm for arm in run.recipe.arms if arm.rule not in ("none", "random")), None)
    if arm is None:
        return
    selection = select(table, arm.rule, arm.keep, arm.loss_filter, run.recipe.seed, low=arm.low)
    write_json(folder / SELECTION, {**selection.to_dict(), "rule": arm.rule, "arm": arm.name})


def audit(run: RunFolder, folder: Path) -> None:
    """Where the alignment sits, the three conditions, the onset, the screen."""
    from holdfast.geometry import audit as run_audit

    section = run.recipe.audit
    training = definite(run.recipe.training, run.recipe.model.source, len(rows_of(run, TRAIN)))
    assert section is not None and training.learning_rate is not None and training.steps is not None
    subject = with_fresh_adapter(run, training.seeds[0])
    skill = limited(skill_of(run), section.prompts)
    examples = examples_of(run, subject, TRAIN, section.task_examples)
    run_audit(
        subject,
        skill,
        examples,
        optimizer="adamw",
        learning_rate=training.learning_rate,
        steps=training.steps,
        seed=run.recipe.seed,
    ).save(folder / "audit")
