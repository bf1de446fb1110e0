"""``holdfast init``: a commented recipe to start from."""

from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli.options import ForceOption


def init(
    path: Annotated[Path, typer.Argument(help="Where to write the recipe.")] = Path("recipe.yaml"),
    force: ForceOption = False,
) -> None:
    """Write a commented recipe. It runs as it stands, on the built-in model.

    Example: holdfast init recipe.yaml
    """
    from holdfast.core.errors import UserError
    from holdfast.core.files import write_text
    from holdfast.pipeline import bundled_recipe_text

    if path.exists() and not force:
        raise UserError(f"{path}: exists; choose another name or pass --force")
    write_text(path, bundled_recipe_text("template"))
    print(f"wrote {path}; next: holdfast run {path}")
