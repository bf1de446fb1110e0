"""``holdfast run``: every stage of a recipe, each resumable, one run folder, one report."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from holdfast.cli import options, output

if TYPE_CHECKING:
    from holdfast.pipeline import Recipe


def run_recipe(
    recipe: Annotated[Path, typer.Argument(help="A recipe; `holdfast init` writes one.")],
    out: options.OutOption = None,
    check: Annotated[
        bool, typer.Option("--check", help="Only read and check recipe, prompts and rows; say what would be run.")
    ] = False,
    fresh: options.FreshOption = False,
    json: options.JsonOption = False,
) -> None:
    """Run a recipe's stages in order; run it again after an interruption and it continues.

    The run folder is runs/NAME beside the recipe, or --out.

    Example: holdfast init recipe.yaml && holdfast run recipe.yaml --out runs/first
    """
    from holdfast.pipeline import load_recipe

    loaded = load_recipe(recipe)
    folder = out or recipe.resolve().parent / "runs" / loaded.name
    output.quiet_for_json(json)
    output.say(f"reading what {recipe} names")
    if check:
        check_and_print(loaded, folder, fresh, json)
    else:
        run_and_print(loaded, folder, fresh, json)


def check_and_print(recipe: "Recipe", folder: Path, fresh: bool, json: bool) -> None:
    """Say what would be run, and on what."""
    from holdfast.pipeline import check

    output.quiet_for_json(json)
    plan = check(recipe, None if fresh else folder).to_dict()
    for note in plan["notes"]:
        output.warn(note)
    if json:
        output.emit_json({"out": folder, **plan})
        return
    rows = [[s["name"], "finished" if s["finished"] else s["title"]] for s in plan["stages"]]
    output.emit_table(f"{plan['name']}: {plan['model']}", ["stage", "what it does"], rows)
    for half, found in plan["prompts"].items():
        print(f"prompts, {half}: {found['harmful']} to refuse, {found['benign']} not to")
    for line in plan["prompt_sources"]:
        print(output.printable(f"    {line}"))
    for name, found in plan["rows"].items():
        skipped, cut = len(found["bad_rows"]), found["truncated"] + found["dropped"]
        print(output.printable(f"{name}: {found['examples']} examples, {skipped} bad rows, {cut} cut or dropped"))
        for line in (found["recognised"], *found["notes"]):
            if line:
                print(output.printable(f"    {line}"))
    print(f"nothing is wrong; run it: the folder will be {folder}")


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
