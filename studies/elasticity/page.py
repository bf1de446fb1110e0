"""From the cells to results.json: the claims, each with its interval, controls and verdict; and the page's tables.

Knows: what each number means, how many members a verdict takes. Does not know: models.

Shapes: C cells, T probes, P prompts.
"""

import math
import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from holdfast.core.files import read_json, write_json
from holdfast.core.statistics import Interval, bootstrap_mean, wilson
from holdfast.elasticity import read_curve, springs

HERE = Path(__file__).parent
SOURCE = "methods/elasticity.md; ACL 2025, paper 1141"
MEMBERS, SEEDS = 16, 3  # a verdict about the family takes so many
RETURNED, MARGIN = 0.05, 0.05
NOTHING = "-"
Cell = dict[str, Any]
CLAIMS = {
    "members": f"members of the family (size by volume) with {SEEDS} seeds: {MEMBERS} or more",
    "joint_law_relative_error": "at a joint optimum the law holds with constant 1: largest error 1e-6",
    "codec_bits_relative_error": "coded and decoded texts come back, within 0.1 % of the predicted bits",
    "inverse_easier": "inverse alignment is easier than forward: rho above 0, and above what swapped roles give",
    "rapid_then_slow": "refusals fall fast, then slowly from the parent's level on: most members",
    "strong_rebound": "the more aligned slice relaxes faster (beta above 0; a linear spring: 0)",
    "grows_with_size": "the relaxation rate grows with the number of parameters (slope of logarithms)",
    "grows_with_pretraining": "the relaxation rate grows with the volume of pre-training (slope of logarithms)",
    "roles_reversed": "with roles reversed, too, more training is lost in fewer updates (log ratio above 0)",
    "false_phase_change_rate": "single exponentials said to change phase at the base level: 5 % at most",
}


def curve_of(cell: Cell, name: str) -> dict[str, Any]:
    """The curve of one checkpoint."""
    return next(curve for curve in cell["rebound"] if curve["name"] == name)


def slices_of(cell: Cell, role: str = "aligned") -> tuple[str, str]:
    """Names of the first and the last slice that were undone."""
    amounts = cell["setting"]["amounts"]
    return f"{role} {amounts[0]}", f"{role} {amounts[-1]}"


def kappa(cell: Cell, name: str) -> float:
    """Relaxation rate of KL to the parent, an update."""
    curve = curve_of(cell, name)
    kl_T = np.mean(curve["kl_to_base_nats"], axis=1)
    return springs.relaxation_rate(curve["updates"], kl_T.tolist(), RETURNED * float(kl_T[0]))


def half(cell: Cell, name: str) -> float:
    """Updates that take half of the score."""
    curve = curve_of(cell, name)
    score_T = np.mean(curve["score"], axis=1).tolist()
    return springs.first_crossing(curve["updates"], score_T, score_T[0] / 2) if score_T[0] > 0 else math.nan


def rho(cell: Cell, temperature: float, kind: str = "pairs") -> float:
    """Mean resistance index of a cell: of slices ("pairs"), of k = l ("same"), of swapped roles ("swapped")."""
    found = []
    for pair in cell["resistance"]:
        swapped = pair["later"].startswith("reversed")
        same = pair["earlier"] == pair["later"]
        of = "swapped" if swapped else "same" if same else "pairs"
        if of == kind and pair["temperature"] == temperature:
            forward, inverse = (pair[way]["bits"] - pair[way]["own_bits"] for way in ("forward", "inverse"))
            found.append(springs.resistance_index(forward, inverse))
    return float(np.mean(found)) if found else math.nan


def beta(cell: Cell) -> float:
    """Rebound index between the first and the last slice."""
    names = slices_of(cell)
    amounts = [cell["setting"]["amounts"][k] for k in (0, -1)]
    return springs.rebound_index(amounts, [kappa(cell, name) for name in names])


def lost_faster(cell: Cell, role: str) -> float:
    """Logarithm of updates to half of the less trained slice over those of the more trained one."""
    first, last = (half(cell, name) for name in slices_of(cell, role))
    if not (math.isfinite(first) and math.isfinite(last)) or min(first, last) <= 0:
        return math.nan
    return math.log(first / last)


def two_phases(cell: Cell) -> bool:
    """Whether the score's curve changes phase at the parent's level, under the stated conditions (3.6)."""
    curve = curve_of(cell, slices_of(cell)[1])
    score_T = np.mean(curve["score"], axis=1).tolist()
    found = read_curve(curve["updates"], score_T, base_level=curve["base_score"], margin=MARGIN)
    return bool(found.phase_change_at_base)


def slope(cells: Sequence[Cell], of: str, draws: int = 2000) -> Interval:
    """Slope of ln kappa on ln ``of``, the other factor held, by resampling cells."""
    rows = [(c["parameters"], c["volume"], kappa(c, slices_of(c)[1])) for c in cells]
    data_C3 = np.log([row for row in rows if row[2] > 0])
    column = ("parameters", "volume").index(of)

    def fitted(rows_C3: np.ndarray) -> float:
        centred_C3 = rows_C3 - rows_C3.mean(0)
        (a, b), (_, c) = centred_C3[:, :2].T @ centred_C3[:, :2]
        determinant = a * c - b * b
        if len(rows_C3) < 4 or determinant < 1e-9:
            return math.nan
        p, q = centred_C3[:, :2].T @ centred_C3[:, 2]
        return float((p * c - q * b if column == 0 else q * a - p * b) / determinant)

    rng = np.random.default_rng(0)
    drawn = [
        fitted(data_C3[rng.integers(0, len(data_C3), len(data_C3))]) for _ in range(draws * bool(len(data_C3)))
    ]
    kept = [value for value in drawn if not math.isnan(value)]
    low, high = np.quantile(kept, [0.025, 0.975]) if kept else (math.nan, math.nan)
    value = fitted(data_C3) if len(data_C3) else math.nan
    return Interval(value, float(low), float(high), len(data_C3), "bootstrap over cells")


def over(cells: Sequence[Cell], of: Callable[[Cell], float]) -> Interval:
    """Mean over the cells where it is defined."""
    return bootstrap_mean([value for cell in cells if math.isfinite(value := of(cell))])


def family_claims(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """The claims about the family: undecided below the number of members a verdict takes."""
    seeds: dict[tuple[int, int], set[int]] = {}
    for cell in cells:
        seeds.setdefault((cell["width"], cell["volume"]), set()).add(cell["seed"])
    whole = sum(len(found) >= SEEDS for found in seeds.values())
    enough = whole >= MEMBERS
    pairs, swapped = over(cells, lambda c: rho(c, 1.0)), over(cells, lambda c: rho(c, 1.0, "swapped"))
    beyond = over(cells, lambda c: rho(c, 1.0) - abs(rho(c, 1.0, "swapped")))
    controls = {
        "swapped_roles": swapped.to_dict(),
        "beyond_swapped_roles": beyond.to_dict(),
        "greedy_answers": over(cells, lambda c: rho(c, 0.05)).to_dict(),
    }
    phases = wilson(sum(map(two_phases, cells)), len(cells))
    found = {
        "strong_rebound": over(cells, beta),
        "grows_with_size": slope(cells, "parameters"),
        "grows_with_pretraining": slope(cells, "volume"),
        "roles_reversed": over(cells, lambda c: lost_faster(c, "reversed")),
    }
    members = {"value": whole, "low": None, "high": None, "n": len(cells), "started": len(seeds)}
    return [
        _claim("members", members, True if enough else None),
        _told("inverse_easier", pairs, enough, pairs.low > 0 and beyond.low > 0, pairs.high < 0) | controls,
        _told("rapid_then_slow", phases, enough, phases.low > 0.5, phases.high < 0.5),
        *(_told(name, value, enough, value.low > 0, value.high < 0) for name, value in found.items()),
    ]


def _told(name: str, found: Interval, enough: bool, holds: bool, fails: bool) -> dict[str, Any]:
    """A claim with its number; below the number of members the number is only what was seen so far."""
    if enough:
        return _claim(name, found.to_dict(), True if holds else False if fails else None)
    empty = {"value": None, "low": None, "high": None, "n": found.n}
    return _claim(name, empty, None) | {"so_far": found.to_dict()}


def _claim(name: str, numbers: dict[str, Any], holds: bool | None) -> dict[str, Any]:
    verdict = {True: "supported", False: "not supported", None: "undecided"}[holds]
    return {"id": name, "claim": CLAIMS[name], "source": SOURCE, **numbers, "verdict": verdict}


def laboratory_claims(laboratory: dict[str, Any]) -> list[dict[str, Any]]:
    """The law, and the curve fit's false claims: the worst design."""
    law, rows = laboratory["law"], laboratory["phases"]
    worst = max(rows, key=lambda row: row["phase_change"])
    rate = wilson(round(worst["phase_change"] * worst["repeats"]), worst["repeats"])
    error = {"value": law["largest"], "low": None, "high": law["largest"], "n": law["cases"]}
    return [
        _claim("joint_law_relative_error", error, law["largest"] <= 1e-6),
        _claim("false_phase_change_rate", rate.to_dict(), rate.value <= 0.05),
    ]


def coding_claim(coded: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The largest relative error of all coded texts; undecided until a real text was coded by a real model."""
    errors = [abs(row["relative_error"]) for row in coded]
    real = [row for row in coded if row["text"] != "organism" and row["bytes"] >= 20_000]
    holds = max(errors) <= 1e-3 and all(row["round_trip"] for row in coded) if errors else None
    numbers = {"value": max(errors, default=None), "low": None, "high": None, "n": len(coded)}
    return _claim("codec_bits_relative_error", numbers, None if holds and not real else holds)


def table_of(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """One row a cell."""
    rows = []
    for cell in cells:
        first, last = slices_of(cell)
        curve = curve_of(cell, last)
        score = np.mean(curve["score"], axis=1)
        rows.append(
            {
                **{key: cell[key] for key in ("width", "parameters", "volume", "seed")},
                "refusal_aligned": float(score[0]),
                "refusal_base": curve["base_score"],
                "refusal_undone": float(score[-1]),
                "kl_aligned": float(np.mean(curve["kl_to_base_nats"][0])),
                "kappa_first": kappa(cell, first),
                "kappa_last": kappa(cell, last),
                "kappa_last_sgd": kappa(cell, f"c4 {last}"),
                "updates_to_half": half(cell, last),
                "rho": rho(cell, 1.0),
                "rho_swapped": rho(cell, 1.0, "swapped"),
                "regime": springs.regime(cell["gradients"]["cosine"], cell["gradients"]["norm_ratio"]),
                "kl_end": float(np.mean(curve["kl_to_base_nats"][-1])),
                "kl_end_c0": float(np.mean(curve_of(cell, "c0 base")["kl_to_base_nats"][-1])),
                "kl_end_c1": float(np.mean(curve_of(cell, f"c1 {last}")["kl_to_base_nats"][-1])),
            }
        )
    return rows


def collect(work: Path) -> None:
    """Write results.json beside this file, from whatever there is."""
    cells = [read_json(place) for place in sorted(work.glob("member-*.json"))]
    coded = [read_json(place) for place in sorted(work.glob("coding-*.json"))]
    claims = [*family_claims(cells), *laboratory_claims(laboratory := read_json(work / "laboratory.json"))]
    claims.append(coding_claim(coded))
    write_json(
        HERE / "results.json",
        {
            "study": "elasticity",
            "command": "python -m studies.elasticity {laboratory,coding,members,collect} --work RUNS",
            "versions": {"python": platform.python_version(), "torch": torch.__version__},
            "device": "cpu",
            "seconds": round(sum(row["cpu_seconds"] for row in [*cells, *coded])),
            "claims": sorted(claims, key=lambda claim: list(CLAIMS).index(claim["id"])),
            "cells": table_of(cells),
            "coding": coded,
            "laboratory": laboratory,
            "setting": cells[0]["setting"] if cells else None,
        },
    )


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
    """The cells of the page."""
    lines = [
        "| parameters | volume | seed | refusals: parent, aligned, undone | KL | kappa: less, more aligned "
        "| half gone | rho | swapped |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in results["cells"]:
        rates = ", ".join(f"{100 * row[f'refusal_{k}']:.0f}" for k in ("base", "aligned", "undone"))
        kappas = ", ".join(_number(row[f"kappa_{k}"], ".3f") for k in ("first", "last"))
        lines.append(
            f"| {row['parameters']} | {row['volume']} | {row['seed']} | {rates} % | {row['kl_aligned']:.2f} "
            f"| {kappas} | {_number(row['updates_to_half'], '.1f')} | {_number(row['rho'], '+.2f')} "
            f"| {_number(row['rho_swapped'], '+.2f')} |"
        )
    return "\n".join(lines)


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
