"""``holdfast demo``: the whole story on the built-in model."""

from pathlib import Path

from holdfast.cli import options


def demo(
    out: options.OutPath = Path("holdfast-demo"),
    fresh: options.FreshOption = False,
    json: options.JsonOption = False,
) -> None:
    """Aligned, audit, plain and guarded fine-tuning, repair, evaluation, on the built-in model.

    Takes a few minutes on two CPU cores and writes report.html. A stopped demo continues in its folder.

    Example: holdfast demo --out holdfast-demo
    """
    from holdfast.cli.run_recipe import run_and_print
    from holdfast.pipeline import bundled_recipe

    run_and_print(bundled_recipe("demo"), out, fresh, json)
