"""The tables of README and of the studies' pages, made from their results: between `<!-- name -->` markers.

Knows: which document has which table, and who writes it. Does not know: prose (see prose.py).
"""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from studies.demo import collect
from studies.elasticity import page as elasticity
from studies.elasticity import real_page, recipes
from studies.evaluation import tables
from studies.gate import page as gates
from studies.geometry import page as geometry
from studies.geometry import projections, real
from studies.judges import tables as judges
from studies.organism import page
from studies.real_model import choosing, damage_table, defended_table, front, pairs, repaired_table, report
from studies.restoration import tables as repairs
from studies.training import afterwards, sequence, validation
from studies.training import summary as training

from holdfast.core.files import read_json

ROOT = Path(__file__).parents[1]


def _evaluation(model: str, results: dict[str, Any]) -> str:
    values = results["models"].get(model)
    if values is None:
        return "Not run."
    return tables.markdown([*values["plain"], *values["attacks"]], values["costs"])


TABLES: dict[str, dict[str, tuple[str, Callable[[dict[str, Any]], str]]]] = {
    "README.md": {"real model": ("real_model", front.markdown), "demo": ("demo", collect.markdown)},
    "docs/gate.md": {"decisions": ("gate", gates.decisions)},
    "studies/elasticity/README.md": {
        "claims": ("elasticity", elasticity.claims_table),
        "coding": ("elasticity", elasticity.coding_table),
        "phases": ("elasticity", elasticity.phases_table),
        "members": ("elasticity", elasticity.members_table),
        "mixtures": ("elasticity", elasticity.mixtures_table),
        "controls": ("elasticity", elasticity.controls_table),
        "recipes": ("elasticity", recipes.table),
        "real": ("elasticity", real_page.table),
        "nulls": ("elasticity", real_page.nulls),
    },
    "studies/evaluation/README.md": {
        "organism": ("evaluation", partial(_evaluation, "organism")),
        "real model": ("evaluation", partial(_evaluation, "real")),
    },
    "studies/gate/README.md": {
        "decisions": ("gate", gates.decisions),
        "chances": ("gate", gates.chances),
        "edges": ("gate", gates.edges),
        "families": ("gate", gates.families),
        "statement": ("gate", gates.statement),
        "coverage": ("gate", gates.coverage),
        "organism": ("gate", gates.organism),
        "real": ("gate", gates.real),
        "stored": ("gate", gates.stored),
    },
    "studies/geometry/README.md": {
        "predictors": ("geometry", geometry.markdown),
        "groups": ("geometry", geometry.markdown_groups),
        "verdicts": ("geometry", geometry.markdown_verdicts),
        "projections": ("geometry", projections.markdown),
        "real": ("geometry", real.markdown),
        "readings": ("geometry", real.markdown_readings),
        "claims": ("geometry", geometry.markdown_claims),
    },
    "studies/judges/README.md": {
        "real answers": ("judges", judges.real_answers),
        "confusion": ("judges", judges.confusion),
    },
    "studies/organism/README.md": {
        "limits": ("organism", page.limits),
        "damage": ("organism", page.damage),
    },
    "studies/real_model/README.md": {
        "figures": ("real_model", report.table),
        "precision": ("real_model", report.precision),
        "runs": ("real_model", damage_table.runs),
        "damage": ("real_model", damage_table.rates),
        "beside": ("real_model", damage_table.others),
        "defended": ("real_model/defended", defended_table.counts),
        "held": ("real_model/defended", defended_table.refusals),
        "price": ("real_model/defended", defended_table.prices),
        "asked": ("real_model/defended", pairs.asked),
        "choosing": ("real_model/choosing", choosing.markdown),
        "repaired": ("real_model/repaired", repaired_table.refusals),
        "mended": ("real_model/repaired", repaired_table.prices),
        "asked mended": ("real_model/repaired", pairs.asked),
    },
    "studies/restoration/README.md": {
        "claims": ("restoration", repairs.claims),
        "repairs": ("restoration", repairs.markdown),
        "all weights": ("restoration", partial(repairs.markdown, weights="all")),
        "afterwards": ("restoration", repairs.attacks),
        "plane": ("restoration", repairs.plane),
        "free": ("restoration", repairs.curve),
        "shapes": ("restoration", repairs.shapes),
        "choosing": ("restoration", repairs.choosing),
    },
    "studies/training/README.md": {
        "arms": ("training", training.markdown),
        "tasks": ("training", training.markdown_by_task),
        "claims": ("training", training.markdown_claims),
        "threats": ("training", afterwards.markdown),
        "cost": ("training", training.markdown_cost),
        "sequences": ("training", sequence.markdown),
        "validation": ("training", validation.markdown),
    },
}


def regenerate(document: str, text: str) -> str:
    """``text`` with every table of the document as its results have it.

    Raises:
        LookupError: a marker is missing.
    """
    for name, (study, make) in TABLES.get(document, {}).items():
        file = f"{study}.json" if "/" in study else f"{study}/results.json"
        text = replaced(text, name, make(read_json(ROOT / "studies" / file)), document)
    return text


def replaced(text: str, name: str, table: str, document: str) -> str:
    """``text`` with ``table`` between the markers called ``name``.

    Raises:
        LookupError: a marker is missing.
    """
    start, end = f"<!-- {name} -->\n", f"\n<!-- end of {name} -->"
    whole = start + table + end
    found, times = re.subn(f"{re.escape(start)}.*?{re.escape(end)}", lambda _: whole, text, flags=re.DOTALL)
    if times != 1:  # an empty pair needs a line between
        raise LookupError(f"{document}: {times} pairs of markers of the table '{name}'; there must be one")
    return found
