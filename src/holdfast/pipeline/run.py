"""A whole run: stages in order, finished ones skipped, then the summary and the page.

Knows: order and resume. Does not know: what a stage does.
"""

import shutil
import time
from collections.abc import Callable
from pathlib import Path

from holdfast.core.errors import UserError
from holdfast.core.files import write_json
from holdfast.core.progress import bar
from holdfast.pipeline.folder import MANIFEST, SUMMARY, RunFolder
from holdfast.pipeline.inputs import input_hashes
from holdfast.pipeline.recipe import Recipe, load_recipe
from holdfast.pipeline.stages import stages_of
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
    if fresh:
        _delete_run(folder)
    held = RunFolder.open(folder, recipe, input_hashes(recipe))
    stages = stages_of(recipe)
    started = time.monotonic()
    with bar(recipe.name, len(stages)) as advance:
        for number, stage in enumerate(stages, start=1):
            if not held.finished(stage.name):
                say(f"[{number}/{len(stages)}] {stage.title} ({time.monotonic() - started:.0f} s so far)")
                with held.working(stage.name) as temporary:
                    stage.work(held, temporary)
            advance(1)
    write_json(held.path / SUMMARY, summarise(held))
    write_report(held.path)
    return held.path


def _delete_run(folder: Path) -> None:
    if not folder.exists():
        return
    if not (folder / MANIFEST).exists() and any(folder.iterdir()):
        raise UserError(f"{folder}: not a run folder, so --fresh will not delete it; choose another")
    shutil.rmtree(folder)
