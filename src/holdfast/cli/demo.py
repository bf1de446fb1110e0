"""``holdfast demo``: the whole story on the built-in model."""

from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli import output


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Run folder; a stopped demo continues in it.")] = Path(
        "holdfast-demo"
    ),
    fresh: Annotated[bool, typer.Option("--fresh", help="Delete an earlier run in this folder first.")] = False,
    json: output.JsonOption = False,
) -> None:
    """Aligned, audit, plain and guarded fine-tuning, repair, evaluation, on the built-in model.

    Takes a few minutes on two CPU cores and writes report.html.

    Example: holdfast demo --out holdfast-demo
    """
    from holdfast.cli.run_recipe import run_and_print
    from holdfast.pipeline import bundled_recipe

    run_and_print(bundled_recipe("demo"), out, fresh, json)
