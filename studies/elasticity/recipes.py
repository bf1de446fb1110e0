"""Recipes of alignment by how hard they are to undo; run by the members with the largest volume.

Knows: which curves belong to a recipe. Does not know: how they came about (experiments.py), verdicts.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from studies.elasticity.cells import Cell, curve_of, kappa, log_ratio, score_T, slices_of, survived
from studies.elasticity.runs import over

PLAIN, LESS, EPOCHS = "more data", "less data", "more epochs"
RECIPES = {
    LESS: "aligned", PLAIN: "aligned", EPOCHS: "epochs", "anchored": "anchored",
    "mixed with reading": "mixed", "safe rows among the user's": "safe rows",
}  # fmt: skip


def recipe_rows(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """One row a recipe, the one whose refusals survive longest first."""
    ran = [cell for cell in cells if "recipes" in cell]
    rows = [_row(ran, recipe) for recipe in RECIPES] if ran else []
    return sorted(rows, key=lambda row: -np.nan_to_num(row["survived"]["value"], nan=-1))


def _row(ran: Sequence[Cell], recipe: str) -> dict[str, Any]:
    def name(cell: Cell, position: int = -1) -> str:
        return f"{RECIPES[recipe]} {cell['setting']['amounts'][0 if recipe == LESS else position]}"

    def refused(cell: Cell) -> float:
        curve = curve_of(cell, name(cell))
        return math.nan if curve is None else score_T(curve)[0]

    def gain(cell: Cell) -> float:
        return log_ratio(survived(cell, name(cell)), survived(cell, slices_of(cell)[1]))

    def index(cell: Cell) -> float:
        if recipe in (LESS, EPOCHS):  # made of one amount of data
            return math.nan
        first, last = cell["setting"]["amounts"][0], cell["setting"]["amounts"][-1]
        return log_ratio(kappa(cell, name(cell)), kappa(cell, name(cell, 0))) / math.log(last / first)

    readings = {
        "refused": refused,
        "survived": lambda cell: survived(cell, name(cell)),
        "against_plain": gain,
        "rebound_index": index,
    }
    return {"recipe": recipe} | {key: over(ran, of).to_dict() for key, of in readings.items()}


def table(results: dict[str, Any]) -> str:
    """The ranking of the page."""
    lines = [
        "| recipe | refused at first | updates a refusal survives | over plain alignment, ln | rebound index |",
        "|---|---|---|---|---|",
    ]
    for row in results.get("recipes", []):
        cells = [_said(row[key]) for key in ("refused", "survived", "against_plain", "rebound_index")]
        lines.append(f"| {row['recipe']} | {' | '.join(cells)} |")
    return "\n".join(lines) if len(lines) > 2 else "\n".join([*lines, "| none run yet | - | - | - | - |"])


def _said(found: dict[str, Any]) -> str:
    if found["value"] is None or not math.isfinite(found["value"]):
        return "-"
    ends = (
        "" if found["low"] is None or math.isnan(found["low"]) else f" [{found['low']:.2f}, {found['high']:.2f}]"
    )
    return f"{found['value']:.2f}{ends}"
