"""``holdfast card``: a saved card as model-card metadata and text."""

from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli import options, output


def card(
    source: Annotated[Path, typer.Argument(help="Folder of a card or of a run.", show_default=False)],
    name: Annotated[str | None, typer.Option(help="Of the model; the folder's by default.")] = None,
    arm: Annotated[str | None, typer.Option(help="Of a run: which model, such as plain-0.")] = None,
    out: options.OutOption = None,
    force: options.ForceOption = False,
) -> None:
    """Write a model card: the hub's model-index with every interval, and the same as a table. No prompt is in it.

    Example: holdfast card card --name my-model --out MODEL_CARD.md
    """
    from holdfast.core.files import write_text
    from holdfast.gating.model_card import model_card

    if out is not None:
        output.check_new_file(out, force, "--force", {})
    text = model_card(source, name, arm)
    if out is None:
        print(text, end="")
        return
    write_text(out, text)
    print(f"wrote {out}")
