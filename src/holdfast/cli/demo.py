"""``holdfast demo``: the whole story on the built-in model."""

from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli import options


def demo(
    out: options.OutPath = Path("holdfast-demo"),
    quick: Annotated[
        bool, typer.Option("--quick", help="One data order for three, and the cheaper repair alone.")
    ] = False,
    fresh: options.FreshOption = False,
    json: options.JsonOption = False,
) -> None:
    """Aligned, audit, plain and guarded fine-tuning, repair, evaluation, on the built-in model.

    Takes ten minutes on two CPU cores, --quick a third of it, and writes report.html. A stopped demo continues in
    its folder.

    Example: holdfast demo --out holdfast-demo
    """
    from holdfast.cli.run_recipe import run_and_print
    from holdfast.pipeline import bundled_recipe

    recipe = bundled_recipe("demo")
    if quick:
        training = recipe.training.model_copy(update={"seeds": recipe.training.seeds[:1]})
        recipe = recipe.model_copy(update={"training": training, "restore": recipe.restore[:1]})
    run_and_print(recipe, out, fresh, json)
