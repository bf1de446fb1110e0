"""How loosely an alignment is held, in words: the card of ``holdfast elasticity``, there and beside a forecast.

Knows: the card's file, a table. Does not know: how a card is made.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from holdfast.cli import output

if TYPE_CHECKING:
    from holdfast.elasticity import Card


def read(folder: Path) -> "Card":
    """The card in a folder that ``holdfast elasticity --out`` wrote.

    Raises:
        UserError: no card in it.
    """
    from holdfast.core.errors import UserError
    from holdfast.elasticity import CARD_FILE, Card

    if not (folder / CARD_FILE).is_file():
        raise UserError(f"--elasticity {folder}: no {CARD_FILE} in it; holdfast elasticity --data --out makes one")
    return Card.load(folder / CARD_FILE)


def say(card: "Card", table: bool = True) -> None:
    """The sentence; with ``table`` the coefficients, too, each beside what a linear spring predicts."""
    print(card.sentence)
    if not table:
        return
    cells = []
    for coefficient in card.coefficients:
        null = "" if coefficient.null != coefficient.null else f"{coefficient.null:.3g}"
        unit = f", {coefficient.unit}" if coefficient.unit else ""
        cells.append([f"{coefficient.name}{unit}", coefficient.said(), null, coefficient.regime])
    output.emit_table("undone by harmless updates", ["coefficient", "value", "linear spring", "regime"], cells)
    if card.shape is not None:
        at_base = "; a change of phase at the parent's level" if card.shape.phase_change_at_base else ""
        print(f"shape of the curve: {card.shape.chosen}{at_base}")
