"""``holdfast run``: every stage of a recipe, each resumable, one run folder, one report."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from holdfast.cli import options, output

if TYPE_CHECKING:
    from holdfast.pipeline import Recipe


def run_recipe(
    recipe: Annotated[Path, typer.Argument(help="A recipe; `holdfast init` writes one.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Run folder; default runs/NAME beside the recipe.")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Delete an earlier run in this folder first.")] = False,
    json: options.JsonOption = False,
) -> None:
    """Run a recipe's stages in order; run it again after an interruption and it continues.

    Example: holdfast init recipe.yaml && holdfast run recipe.yaml --out runs/first
    """
    from holdfast.pipeline import load_recipe

    loaded = load_recipe(recipe)
    run_and_print(loaded, out or recipe.resolve().parent / "runs" / loaded.name, fresh, json)


def run_and_print(recipe: "Recipe", out: Path, fresh: bool, json: bool) -> None:
    """Run, then print the table (or the summary as JSON)."""
    from holdfast.core.files import read_json
    from holdfast.pipeline import run
    from holdfast.report import print_summary

    output.quiet_for_json(json)
    folder = run(recipe, out, fresh=fresh, say=output.say)
    if json:
        output.emit_json(read_json(folder / "summary.json"))
        return
    print_summary(folder)
    print(f"report: {folder / 'report.html'}")
