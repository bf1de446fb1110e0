"""The training stage: one arm, one seed, an adapter and the trace of how it came about.

Knows: which inputs of a run a fine-tune takes, where it continues after a kill. Does not know: order, evaluation,
how a trainer is built (``training_run``).
"""

import shutil
from pathlib import Path

from holdfast.core.files import sha256_file, write_json
from holdfast.evaluation import Reference
from holdfast.models import save_adapter
from holdfast.pipeline.folder import RunFolder
from holdfast.pipeline.recipe import ArmSection
from holdfast.pipeline.training_folder import LOGS, TrainingFolder
from holdfast.pipeline.training_run import (
    RunSpec,
    build_run,
    definite,
    fresh_adapter,
    monitored_rows,
    run_training,
)
from holdfast.pipeline.work_before import (
    ADAPTER,
    TEST,
    TRAIN,
    aligned,
    examples_of,
    further_of,
    reference_examples,
    skill_of,
)

TRACE = "trace.json"
UNFINISHED = "unfinished"  # beside the stages: checkpoints of the one that is being trained


def train(run: RunFolder, folder: Path, arm: ArmSection, seed: int) -> None:
    """Fine-tune a fresh adapter. Every arm sees the same pools in the same order for as many steps."""
    recipe, subject = run.recipe, aligned(run)
    examples = examples_of(run, subject, TRAIN)
    count = monitored_rows(recipe.monitor, recipe.model.source)
    held_out = examples_of(run, subject, TEST, count) if count else []
    spec = RunSpec(
        adapter=recipe.adapter,
        training=definite(recipe.training, recipe.model.source, len(examples)),
        arm=arm,
        monitor=recipe.monitor,
        seed=recipe.seed,
        training_seed=seed,
        max_new_tokens=recipe.skill.max_new_tokens,
    )
    work = TrainingFolder(run.path / UNFINISHED / f"{arm.name}-{seed}")
    settings = {"recipe": recipe.hash, "rows": sha256_file(run.stage("prepare") / TRAIN)}
    work.open(settings, fresh=not work.begun_with(settings))
    subject = fresh_adapter(spec.adapter, subject, spec.adapter_seed)
    reference = Reference.on(subject, reference_examples(run, "estimate"), source="adapter_off")
    trainer, monitor = build_run(
        spec, subject, examples, held_out, reference, skill_of(run), work.logs, further_of(run)
    )
    result = run_training(trainer, monitor, f"{arm.name}, seed {seed}", spec.training)
    save_adapter(trainer.model, folder / ADAPTER)
    (folder / LOGS).mkdir()
    for trace in work.logs.glob("*.jsonl"):
        shutil.copy(trace, folder / LOGS)
    chosen = spec.training.model_dump(mode="json")
    write_json(folder / TRACE, {"arm": arm.name, "seed": seed, "settings": chosen, **result})
    shutil.rmtree(work.path)
