"""The stages a recipe asks for, in order. A stage reads earlier folders and fills its own.

Knows: names and order. Does not know: what happens inside a stage (``work_before``, ``work_training``,
``work_after``).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from holdfast.pipeline import work_after, work_before, work_training
from holdfast.pipeline.folder import RunFolder
from holdfast.pipeline.recipe import Recipe


@dataclass(frozen=True)
class Stage:
    """A unit of work that is either done or not.

    Attributes:
        name: folder under ``stages/``.
        title: what a person is told.
        work: ``work(run, folder)`` fills ``folder``.
    """

    name: str
    title: str
    work: Callable[[RunFolder, Path], None]


def stages_of(recipe: Recipe) -> list[Stage]:
    """Every stage of a run, in order."""
    stages = [
        Stage("prepare", "reading model, prompts and task", work_before.prepare),
        Stage("reference", "sampling the aligned model's answers", work_before.reference),
        Stage("scores", "gradient norm of every training row", work_before.scores),
    ]
    if recipe.audit is not None:
        stages.append(Stage("audit", "auditing the alignment", work_before.audit))
    for arm in recipe.arms:
        for seed in recipe.training.seeds:
            work = partial(work_training.train, arm=arm, seed=seed)
            stages.append(Stage(f"train-{arm.name}-{seed}", f"fine-tuning: {arm.name}, seed {seed}", work))
    for repair in recipe.restore:
        for seed in repair.seeds if repair.seeds is not None else recipe.training.seeds:
            name = repaired_name(repair.arm, repair.method)
            work = partial(work_after.restore, section=repair, seed=seed)
            stages.append(Stage(f"restore-{name}-{seed}", f"restoring: {name}, seed {seed}", work))
    for name, adapter in adapters_of(recipe):
        work = partial(work_after.evaluate, adapter=adapter)
        stages.append(Stage(f"evaluate-{name}", f"evaluating: {name}", work))
    if recipe.elasticity is not None:
        stages.append(Stage("elasticity", "how loosely the alignment is held", work_after.elasticity))
    return stages


def repaired_name(arm: str, method: str) -> str:
    """Name of a repaired arm."""
    return f"{arm}-{method}"


def adapters_of(recipe: Recipe) -> list[tuple[str, str | None]]:
    """Everything that is evaluated: a name, and the stage whose adapter it is (None: the aligned model)."""
    found: list[tuple[str, str | None]] = [("aligned", None)]
    for arm in recipe.arms:
        found += [(f"{arm.name}-{seed}", f"train-{arm.name}-{seed}") for seed in recipe.training.seeds]
    for repair in recipe.restore:
        name = repaired_name(repair.arm, repair.method)
        seeds = repair.seeds if repair.seeds is not None else recipe.training.seeds
        found += [(f"{name}-{seed}", f"restore-{name}-{seed}") for seed in seeds]
    return found
