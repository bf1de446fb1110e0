"""A whole run: everything is read and checked, stages in order, finished ones skipped, then the summary and page.

Knows: order and resume. Does not know: what a stage does.
"""

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast.core.errors import UserError
from holdfast.core.files import write_json
from holdfast.pipeline.folder import MANIFEST, SUMMARY, RunFolder
from holdfast.pipeline.inputs import input_hashes
from holdfast.pipeline.reading import RunInputs, read_inputs
from holdfast.pipeline.recipe import Recipe
from holdfast.pipeline.recipe_file import load_recipe
from holdfast.pipeline.stages import Stage, stages_of
from holdfast.pipeline.summary import summarise
from holdfast.report import write_report


def run(
    recipe: Recipe | str | Path,
    folder: str | Path,
    fresh: bool = False,
    say: Callable[[str], None] = lambda message: None,
) -> Path:
    """Run a recipe, or go on with a run that was interrupted.

    Args:
        recipe: a recipe or the path of one.
        folder: run folder; made if need be.
        fresh: delete an earlier run in this folder first.
        say: told about each stage, one line.

    Returns:
        The run folder, with ``summary.json`` and ``report.html``.

    Raises:
        UserError: bad recipe or inputs; the folder holds something else.
    """
    if not isinstance(recipe, Recipe):
        recipe = load_recipe(recipe)
    folder = Path(folder)
    stages, inputs = stages_of(recipe), None
    if fresh or not RunFolder(folder, recipe).finished(stages[0].name):
        inputs = read_inputs(recipe)  # before anything is deleted or made
    if fresh:
        _delete_run(folder)
    held = RunFolder.open(folder, recipe, input_hashes(recipe))
    held.inputs = inputs
    started = time.monotonic()
    for number, stage in enumerate(stages, start=1):
        if not held.finished(stage.name):
            say(f"[{number}/{len(stages)}] {stage.title} ({time.monotonic() - started:.0f} s so far)")
            with held.working(stage.name) as temporary:
                stage.work(held, temporary)
    write_json(held.path / SUMMARY, summarise(held))
    write_report(held.path)
    return held.path


@dataclass(frozen=True)
class Plan:
    """What a run would do, and what it has read for it.

    Attributes:
        stages: in order.
        finished: names of those that a folder holds already.
        inputs: prompts and rows, read and checked.
    """

    recipe: Recipe
    stages: tuple[Stage, ...]
    finished: frozenset[str]
    inputs: RunInputs

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        skill, done = self.inputs.skill, self.finished
        return {
            "name": self.recipe.name,
            "model": self.recipe.model.source,
            "stages": [{"name": s.name, "title": s.title, "finished": s.name in done} for s in self.stages],
            "prompts": {
                half: {"harmful": len(prompts.harmful), "benign": len(prompts.benign)}
                for half, prompts in (("estimate", skill.estimate), ("evaluate", skill.evaluate))
            },
            "prompt_sources": list(skill.sources),
            "rows": self.inputs.counts(),
            "notes": list(self.inputs.notes),
        }


def check(recipe: Recipe | str | Path, folder: str | Path | None = None) -> Plan:
    """Read and check everything that a run needs besides the model's weights; nothing is written.

    Args:
        folder: of a run that may be there already; None looks at none.

    Raises:
        UserError: as :func:`run`, before it would begin.
    """
    if not isinstance(recipe, Recipe):
        recipe = load_recipe(recipe)
    inputs, stages = read_inputs(recipe), tuple(stages_of(recipe))
    finished: frozenset[str] = frozenset()
    if folder is not None and (held := RunFolder(folder, recipe)).check(input_hashes(recipe)):
        finished = frozenset(stage.name for stage in stages if held.finished(stage.name))
    return Plan(recipe, stages, finished, inputs)


def _delete_run(folder: Path) -> None:
    if not folder.exists():
        return
    if not folder.is_dir() or (not (folder / MANIFEST).exists() and any(folder.iterdir())):
        raise UserError(f"{folder}: not a run folder, so --fresh will not delete it; choose another")
    shutil.rmtree(folder)
