"""From the cells to results.json and the page's tables.

Knows: files of the working folder, columns. Does not know: models, what a claim means (claims.py).
"""

import math
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from studies.elasticity import cells, claims, members, pictures, real_page, recipes, reference

from holdfast.core.files import read_json, write_json
from holdfast.elasticity import springs

HERE = Path(__file__).parent
NOTHING = "-"


def table_of(found: Sequence[cells.Cell]) -> list[dict[str, Any]]:
    """One row a cell."""
    rows = []
    for cell in found:
        first, last = cells.slices_of(cell)
        curve = cells.curve_of(cell, last)
        assert curve is not None
        score_T, kl_T = cells.score_T(curve), cells.kl_T(curve)
        k_eff = cells.stiffness(cell)
        rows.append(
            {
                **{key: cell[key] for key in ("width", "parameters", "volume", "seed")},
                "refusal_aligned": score_T[0],
                "refusal_base": curve["base_score"],
                "refusal_undone": score_T[-1],
                "updates": curve["updates"],
                "score": score_T,
                "kl_nats": kl_T,
                "kl_aligned": kl_T[0],
                "kappa_first": cells.kappa(cell, first),
                "kappa_last": cells.kappa(cell, last),
                "kappa_last_sgd": cells.kappa(cell, f"c4 {last}"),
                "updates_to_half": cells.half(cell, last),
                "survived": cells.survived(cell, last),
                "rho": cells.rho(cell, 1.0),
                "rho_swapped": cells.rho(cell, 1.0, "swapped"),
                "raw_gap_greedy": cells.raw_gap(cell, 0.05),
                "k_eff": k_eff.to_dict(),
                "regime": springs.regime(cell["gradients"]["cosine"], cell["gradients"]["norm_ratio"]),
                "end": {kind: _end(cell, name.format(last=last)) for kind, name in ENDS.items()},
            }
        )
    return rows


ENDS = {"undone": "{last}", "c0": "c0 base", "c1": "c1 {last}"}


def _end(cell: cells.Cell, name: str) -> dict[str, float] | None:
    """Score and KL where a curve ends; None where the cell has no such curve."""
    curve = cells.curve_of(cell, name)
    return None if curve is None else {"score": cells.score_T(curve)[-1], "kl_nats": cells.kl_T(curve)[-1]}


def collect(work: Path) -> None:
    """Write results.json beside this file, from whatever there is; what is not in the folder stays as it was."""
    found, known = members.read_cells(work), read_json(HERE / "results.json")
    coded = [read_json(place) for place in sorted(work.glob("coding-*.json"))] or known["coding"]
    place = work / "laboratory.json"
    laboratory = read_json(place) if place.exists() else known["laboratory"]
    real = real_page.read_all(work) or known.get("real", [])
    made = [*claims.laboratory_claims(laboratory), claims.coding_claim(coded), claims.real_claim(real)]
    others = {claim["id"] for claim in made}
    family = _family(found) if found else {key: known[key] for key in _FAMILY}
    told = family.pop("claims")
    made += [claim for claim in told if claim["id"] not in others]
    write_json(
        HERE / "results.json",
        {
            "study": "elasticity",
            "command": "python -m studies.elasticity {laboratory,coding,members,real,collect} --work RUNS",
            "versions": {"python": platform.python_version(), "torch": torch.__version__},
            "device": "cpu",
            "seconds": round(family["family_seconds"] + sum(row["cpu_seconds"] for row in [*coded, *real])),
            "claims": sorted(made, key=lambda claim: list(claims.CLAIMS).index(claim["id"])),
            "real": real,
            "coding": coded,
            "laboratory": laboratory,
            **family,
        },
    )
    pictures.draw(read_json(HERE / "results.json"), HERE)
    if len(found) >= claims.MEMBERS:
        reference.write(found)


_FAMILY = ("family_seconds", "claims", "phases", "recipes", "cells", "setting")


def _family(found: Sequence[cells.Cell]) -> dict[str, Any]:
    """What results.json says of the organism family."""
    phases = [claims.phases_of(member) for member in claims.members_of(found).values()]
    return {
        "family_seconds": round(sum(cell["cpu_seconds"] for cell in found)),
        "claims": claims.family_claims(found, phases),
        "phases": phases,
        "recipes": recipes.recipe_rows(found),
        "cells": table_of(found),
        "setting": found[0]["setting"],
    }


def controls_table(results: dict[str, Any]) -> str:
    """What stands beside each claim about the family."""
    lines = ["| claim | beside it | value | n |", "|---|---|---|---|"]
    for claim in results["claims"]:
        for of, interval in claim.get("controls", {}).items():
            lines.append(f"| {claim['id']} | {of} | {_said(interval)} | {interval['n']} |")
    return "\n".join(lines)


def _said(interval: dict[str, Any]) -> str:
    value = interval["value"]
    if value is None or not math.isfinite(value):
        return NOTHING
    ends = (interval["low"], interval["high"])
    told = "" if None in ends or not np.isfinite(ends).all() else f" [{ends[0]:.2g}, {ends[1]:.2g}]"
    return f"{value:.2g}{told}"


def mixtures_table(results: dict[str, Any]) -> str:
    """Rates of two data sets under the code of their mixture."""
    lines = [
        "| sizes | large set: ideal, Huffman | small set: ideal, Huffman | large set less log2 of leaves |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {row['size']} : 1 | {row['large'][0]:.3f}, {row['large'][1]:.3f} | {row['small'][0]:.3f}, "
        f"{row['small'][1]:.3f} | {row['normalised']:+.3f} |"
        for row in results["laboratory"].get("mixtures", [])
    ]
    return "\n".join(lines)


def claims_table(results: dict[str, Any]) -> str:
    """The claims of the page."""
    lines = ["| claim | value | n | verdict |", "|---|---|---|---|"]
    for claim in results["claims"]:
        seen = claim if claim["value"] is not None else claim.get("so_far", claim)
        value = seen["value"]
        ends = "" if seen["low"] is None or seen["high"] is None else f" [{seen['low']:.2g}, {seen['high']:.2g}]"
        told = NOTHING if value is None else f"{value:.2g}{ends}"
        so_far = " so far" if claim["value"] is None and value is not None else ""
        lines.append(f"| {claim['claim']} | {told}{so_far} | {claim['n']} | {claim['verdict']} |")
    return "\n".join(lines)


def members_table(results: dict[str, Any]) -> str:
    """One line a member, means over its seeds."""
    lines = [
        "| parameters | volume | seeds | refusals: parent, aligned, undone | KL, nats | kappa: less, more aligned "
        "| a refusal survives | rho | swapped | k_eff | regime |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    members: dict[tuple[int, int], list[dict[str, Any]]] = {}
    for row in results["cells"]:
        members.setdefault((row["parameters"], row["volume"]), []).append(row)
    for (parameters, volume), rows in sorted(members.items()):

        def mean(key: str, form: str, rows: list[dict[str, Any]] = rows) -> str:
            kept = [row[key] for row in rows if row[key] is not None and math.isfinite(row[key])]
            return _number(float(np.mean(kept)) if kept else None, form)

        rates = ", ".join(f"{100 * np.mean([row[f'refusal_{k}'] for row in rows]):.0f}" for k in _STAGES)
        kappas = ", ".join(mean(f"kappa_{k}", ".3f") for k in ("first", "last"))
        stiff = [row["k_eff"]["value"] for row in rows if row["k_eff"]["value"] is not None]
        regimes = sorted({row["regime"] for row in rows})
        lines.append(
            f"| {parameters} | {volume} | {len(rows)} | {rates} % | {mean('kl_aligned', '.1f')} "
            f"| {kappas} | {mean('survived', '.1f')} | {mean('rho', '+.2f')} | {mean('rho_swapped', '+.2f')} "
            f"| {_number(float(np.median(stiff)) if stiff else None, '.2f')} | {', '.join(regimes)} |"
        )
    return "\n".join(lines)


_STAGES = ("base", "aligned", "undone")


def coding_table(results: dict[str, Any]) -> str:
    """Coded texts beside gzip."""
    lines = [
        "| text | bytes | model | coded | gzip | bits a byte | against predicted |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in results["coding"]:
        per_byte = row["coded_bits"] / row["bytes"]
        lines.append(
            f"| {row['text']} | {row['bytes']} | {row['model']} | {row['coded_bytes']} | {row['gzip_bytes']} "
            f"| {per_byte:.3f} | {100 * row['relative_error']:+.3f} % |"
        )
    return "\n".join(lines)


def phases_table(results: dict[str, Any]) -> str:
    """Operating characteristics of the curve fit."""
    lines = [
        "| probes | noise sd | two-phase | phase change at base level | power on a kink |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['design']} | {row['sd']} | {100 * row['two_phase']:.1f} % | {100 * row['phase_change']:.1f} % "
        f"| {100 * row['power']:.0f} % |"
        for row in results["laboratory"]["phases"]
    ]
    return "\n".join(lines)


def _number(value: float | None, form: str) -> str:
    return NOTHING if value is None or not math.isfinite(value) else f"{value:{form}}"
