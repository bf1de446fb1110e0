"""Stages after training: repair, evaluation, elasticity.

Knows: which library call each stage is, and which files it leaves. Does not know: order, resume.
"""

from pathlib import Path

from holdfast.core.files import write_json
from holdfast.core.seeds import derive_seed
from holdfast.data import encode_rows
from holdfast.evaluation import Reference
from holdfast.models import Subject
from holdfast.pipeline.evaluating import evaluate_against, noise_floors
from holdfast.pipeline.folder import RunFolder
from holdfast.pipeline.inputs import base_of, load_named
from holdfast.pipeline.measures import read_asked
from holdfast.pipeline.reading import build_task
from holdfast.pipeline.recipe import RestoreSection
from holdfast.pipeline.training_run import repair_settings
from holdfast.pipeline.work_before import (
    ADAPTER,
    TEST,
    TRAIN,
    examples_of,
    reference_examples,
    rows_of,
    skill_of,
    with_adapter,
)

PROBE = "probe.json"
STIFFNESS = "stiffness.json"
PRETRAINING, ALIGNED_ANSWERS = "pretraining", "refusals"  # texts of the probe
NOISE = "noise.json"
VERDICTS = "verdicts"  # what a judge behind an address said, kept so that a stopped run asks only the rest


def restore(run: RunFolder, folder: Path, section: RestoreSection, seed: int) -> None:
    """Repair one fine-tuned adapter, on *estimate* prompts and training rows only."""
    from holdfast.restoration import restore as run_restore

    subject = with_adapter(run, f"train-{section.arm}-{seed}")
    result = run_restore(
        subject,
        skill_of(run),
        task=examples_of(run, subject, TRAIN),
        method=section.method,
        max_task_loss_increase=section.max_task_loss_increase,
        max_new_tokens=run.recipe.skill.max_new_tokens,
        **repair_settings(run.recipe.model.source, section.steps, section.learning_rate),
        minutes=section.minutes,
        seed=derive_seed(run.recipe.seed, "restore", seed),
    )
    result.save(folder / ADAPTER)


def evaluate(run: RunFolder, folder: Path, adapter: str | None) -> None:
    """The scorecard of the aligned model with an adapter, on prompts that nothing before has seen."""
    subject = with_adapter(run, adapter)
    rows, examples = rows_of(run, TEST), examples_of(run, subject, TEST)
    reference = Reference.on(
        subject,
        reference_examples(run, "evaluate"),
        source="adapter_off" if subject.has_adapter else "model",
    )
    measures = read_asked(run.recipe.evaluate).measures(
        subject,
        skill_of(run),
        [build_task(run.recipe.task, rows, examples)],
        run.recipe.seed,
        run.recipe.model.device,
        run.recipe.skill.max_new_tokens,
        judge_cache=run.path / VERDICTS,
        noise=run.recipe.evaluate.noise,
    )
    if not subject.has_adapter:
        measures = measures.without_adapter(switched_off=False)
    evaluate_against(subject, measures, reference=reference).save(folder / "card")
    if floors := noise_floors(subject, measures):
        write_json(folder / NOISE, {name: floor.to_dict() for name, floor in floors.items()})


def elasticity(run: RunFolder, folder: Path) -> None:
    """Bits a token and KL both ways: the aligned model against its parent, and the first arm's adapter too.

    Between the two stands the fine-tune, so their bits give its effective stiffness.
    """
    from holdfast.elasticity import Probe, measure_stiffness, probe
    from holdfast.pipeline.inputs import pretraining_rows

    section, recipe = run.recipe.elasticity, run.recipe
    assert section is not None
    parent = load_named(base_of(recipe), dtype=recipe.model.dtype, device=recipe.model.device)
    prompts = skill_of(run).evaluate.harmful[: section.prompts]
    first = f"train-{recipe.arms[0].name}-{recipe.training.seeds[0]}"
    answers = reference_examples(run, "evaluate")[: section.prompts]
    readings: list[Probe] = []
    for name, stage in (("aligned", None), (recipe.arms[0].name, first)):
        subject = with_adapter(run, stage)
        assert subject.tokenizer is not None
        texts = {
            PRETRAINING: encode_rows(pretraining_rows(section, recipe.seed), subject.tokenizer),
            ALIGNED_ANSWERS: answers,
            "task": examples_of(run, subject, TEST, section.texts),
        }
        reading = probe(
            subject,
            Subject(parent.model, parent.tokenizer),
            texts,
            prompts,
            seed=derive_seed(recipe.seed, "elasticity"),
            max_new_tokens=recipe.skill.max_new_tokens,
            name=name,
        )
        reading.save(folder / f"{name}-{PROBE}")
        readings.append(reading)
    before, after = readings
    texts = {
        text: (before.document_bits[text], after.document_bits[text], before.document_tokens[text])
        for text in (PRETRAINING, ALIGNED_ANSWERS)
    }
    measure_stiffness(
        texts[PRETRAINING],
        texts[ALIGNED_ANSWERS],
        names=(before.name, after.name),
        noise_floor_bits=max(before.noise_floor_bits, after.noise_floor_bits),
        seed=derive_seed(recipe.seed, "elasticity"),
    ).save(folder / STIFFNESS)
