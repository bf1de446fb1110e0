"""``holdfast card``: a saved card as model-card metadata and text, or as a record that others read."""

from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli import options, output

HUB, RECORD = "hub", "every-eval-ever"


def card(
    source: Annotated[
        Path,
        typer.Argument(help="Folder of a card (evaluate --against ... --out) or of a run.", show_default=False),
    ],
    name: Annotated[str | None, typer.Option(help="Of the model; the folder's by default.")] = None,
    arm: Annotated[str | None, typer.Option(help="Of a run: which model, such as plain-0.")] = None,
    kind: Annotated[
        str, typer.Option("--format", help="hub: model-index and text; every-eval-ever: a JSON record.")
    ] = HUB,
    organization: Annotated[str, typer.Option(help="Who evaluated; for every-eval-ever.")] = "not stated",
    out: options.OutOption = None,
    force: options.ForceOption = False,
) -> None:
    """Write a model card: the hub's model-index with every interval, and the same as a table. No prompt is in it.

    Example: holdfast card card --name my-model --out MODEL_CARD.md

    Example: holdfast card card --format every-eval-ever --name my-org/my-model --out record.json
    """
    from holdfast.core.errors import UserError
    from holdfast.core.files import write_text

    if kind not in (HUB, RECORD):
        raise UserError(f"--format {kind}: unknown; use {HUB} or {RECORD}")
    if out is not None:
        output.check_new_file(out, force, "--force", {})
    text = _hub(source, name, arm) if kind == HUB else _record(source, name, arm, organization)
    if out is None:
        print(text, end="")
        return
    write_text(out, text)
    print(f"wrote {out}")


def _hub(source: Path, name: str | None, arm: str | None) -> str:
    from holdfast.gating.model_card import model_card

    return model_card(source, name, arm)


def _record(source: Path, name: str | None, arm: str | None, organization: str) -> str:
    import json

    from holdfast.integrations.every_eval_ever import every_eval_ever

    return json.dumps(every_eval_ever(source, name, arm, organization), indent=2, ensure_ascii=False) + "\n"
