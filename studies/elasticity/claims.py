"""The claims about the family, one by one: an interval, the controls beside it, a verdict.

Knows: what each number means, how many members a verdict takes. Does not know: models, tables, how intervals are
made (runs.py).
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from studies.elasticity import real_page, runs
from studies.elasticity.cells import (
    Cell,
    beta,
    crosses,
    curve_of,
    hysteresis,
    kappa,
    log_ratio,
    raw_gap,
    return_time,
    rho,
    score_T,
    slices_of,
    survived,
)
from studies.elasticity.recipes import LESS, PLAIN, recipe_rows
from studies.elasticity.runs import LEVEL, over, slope

from holdfast.core.statistics import Interval, wilson
from holdfast.elasticity import read_curve

SOURCE = "methods/elasticity.md; ACL 2025, paper 1141"
MEMBERS, SEEDS = 16, 3  # a verdict about the family takes so many
MARGIN = 0.05  # of a level around the parent's, set before looking
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
    "recipe_harder_to_undo": "another recipe's refusals survive longer than plain ones (best log ratio above 0)",
    "false_phase_change_rate": "single exponentials said to change phase at the base level: 5 % at most",
    "real_harder_to_undo": "SmolLM2 aligned longer, or anchored, keeps more refusals than the study's (share)",
}


def members_of(cells: Sequence[Cell]) -> dict[tuple[int, int], list[Cell]]:
    """Cells by member: size and volume."""
    found: dict[tuple[int, int], list[Cell]] = {}
    for cell in cells:
        found.setdefault((cell["width"], cell["volume"]), []).append(cell)
    return found


def phases_of(member: Sequence[Cell]) -> dict[str, Any]:
    """The shape of a member's mean curve over its seeds, and whether the parent's level can be told from c0's end.

    Where the parent already does what the data teach, a curve that stops at the parent's level may as well have
    stopped at the data's (3.5).
    """
    curves = [curve_of(cell, slices_of(cell)[1]) for cell in member]
    mean_T = np.mean([score_T(curve) for curve in curves if curve], axis=0)
    base = float(np.mean([curve["base_score"] for curve in curves if curve]))
    ends = [score_T(curve)[-1] for cell in member if (curve := curve_of(cell, "c0 base"))]
    first = curves[0]
    assert first is not None
    draws = runs.DRAWS // 10
    found = read_curve(first["updates"], mean_T.tolist(), base_level=base, margin=MARGIN, draws=draws)
    return {
        "width": member[0]["width"], "volume": member[0]["volume"], "seeds": len(member), "shape": found.chosen,
        "break_at": found.break_at.value, "level_at_break": found.level_at_break.to_dict(), "base_level": base,
        "c0_end": float(np.mean(ends)), "at_base": bool(found.phase_change_at_base),
        "told_apart": abs(float(np.mean(ends)) - base) > MARGIN,
    }  # fmt: skip


def family_claims(cells: Sequence[Cell], phases: Sequence[dict[str, Any]] | None = None) -> list[dict[str, Any]]:
    """The claims about the family: undecided below the number of members a verdict takes.

    Args:
        phases: of every member, if they were read already.
    """
    members = members_of(cells)
    phases = [phases_of(found) for found in members.values()] if phases is None else phases
    whole = sum(len({cell["seed"] for cell in found}) >= SEEDS for found in members.values())
    enough = whole >= MEMBERS
    counted = {"value": whole, "low": None, "high": None, "n": len(cells), "started": len(members)}
    return [
        _claim("members", counted, True if enough else None),
        _inverse_easier(cells, enough),
        _rapid_then_slow(phases, enough),
        _strong_rebound(cells, enough),
        *(_grows(cells, name, of, enough) for name, of in GROWTH.items()),
        _roles_reversed(cells, enough),
        _recipes_claim(cells, enough),
    ]


GROWTH = {"grows_with_size": "parameters", "grows_with_pretraining": "volume"}


def _last(cell: Cell, prefix: str = "") -> float:
    return kappa(cell, prefix + slices_of(cell)[1])


def _inverse_easier(cells: Sequence[Cell], enough: bool) -> dict[str, Any]:
    pairs = over(cells, lambda c: rho(c, 1.0))
    beyond = over(cells, lambda c: rho(c, 1.0) - abs(rho(c, 1.0, "swapped")))
    controls = {
        "swapped roles: rho": over(cells, lambda c: rho(c, 1.0, "swapped")),
        "rho beyond swapped roles": beyond,
        "k = l: rho": over(cells, lambda c: rho(c, 1.0, "same")),
        "temperature 1: raw gap, bits a token": over(cells, lambda c: raw_gap(c, 1.0)),
        "temperature 0.05: rho": over(cells, lambda c: rho(c, 0.05)),
        "temperature 0.05: raw gap, bits a token": over(cells, lambda c: raw_gap(c, 0.05)),
        "temperature 0.05, swapped roles: raw gap": over(cells, lambda c: raw_gap(c, 0.05, "swapped")),
    }
    return _told("inverse_easier", pairs, enough, pairs.low > 0 and beyond.low > 0, pairs.high < 0, controls)


def _rapid_then_slow(phases: Sequence[dict[str, Any]], enough: bool) -> dict[str, Any]:
    """Never read off by eye: a two-phase shape must win by AICc and its level at the break be the parent's."""
    share = wilson(sum(p["at_base"] for p in phases), len(phases), LEVEL)
    apart = wilson(sum(p["told_apart"] for p in phases), len(phases), LEVEL)
    controls = {
        "two phases at all": wilson(sum(p["shape"] != "one exponential" for p in phases), len(phases), LEVEL),
        "c0: parent's level told from where the data lead": apart,
    }
    holds = share.low > 0.5 and apart.low > 0.5
    return _told("rapid_then_slow", share, enough, holds, share.high < 0.5, controls)


def _strong_rebound(cells: Sequence[Cell], enough: bool) -> dict[str, Any]:
    found = over(cells, beta)

    def against(name: str, position: int) -> Callable[[Cell], float]:
        return lambda c: log_ratio(kappa(c, name.format(c["setting"]["amounts"][-1])), _slice(c, position))

    controls = {
        "c1 neutral data: beta": over(cells, lambda c: beta(c, "c1 ")),
        "c2 few rows many times against many rows, ln ratio": over(cells, against("c2 epochs {}", -1)),
        "c2 few rows many times against once, ln ratio": over(cells, against("c2 epochs {}", 0)),
        "c3 equal KL at the start, ln ratio": over(cells, against("c3 scaled {}", 0)),
        "c4 SGD: beta": over(cells, lambda c: beta(c, "c4 ")),
        "curves that cross (a spring's never do)": over(cells, crosses),
        "hysteresis over a spring's": over(cells, lambda c: hysteresis(c)[0] / hysteresis(c)[1]),
        "updates to half of KL over a spring's, ln": over(cells, lambda c: log_ratio(*return_time(c))),
    }
    return _told("strong_rebound", found, enough, found.low > 0, found.high < 0, controls)


def _slice(cell: Cell, position: int) -> float:
    return kappa(cell, slices_of(cell)[position])


def _grows(cells: Sequence[Cell], name: str, of: str, enough: bool) -> dict[str, Any]:
    """Supported if SGD, whose steps are not normalised, says the same as AdamW."""
    found, sgd = slope(cells, of, _last), slope(cells, of, lambda c: _last(c, "c4 "))
    controls = {
        "c4 SGD": sgd,
        "c1 neutral data": slope(cells, of, lambda c: _last(c, "c1 ")),
        "c3 equal KL at the start": slope(
            cells, of, lambda c: kappa(c, f"c3 scaled {c['setting']['amounts'][-1]}")
        ),
        "updates a refusal survives": slope(cells, of, lambda c: survived(c, slices_of(c)[1])),
    }
    return _told(name, found, enough, found.low > 0 and sgd.low > 0, found.high < 0, controls)


def _scaled(cell: Cell) -> float:
    return kappa(cell, f"c3 scaled {cell['setting']['amounts'][-1]}")


def _roles_reversed(cells: Sequence[Cell], enough: bool) -> dict[str, Any]:
    """By what is lost of the first behaviour: its curve starts at the parent's level, so KL says nothing here."""

    def lost(cell: Cell, role: str) -> float:
        less, more = (survived(cell, name) for name in slices_of(cell, role))
        return log_ratio(less, more)

    def left(cell: Cell, name: str) -> float:
        curve = curve_of(cell, name)
        return math.nan if curve is None else score_T(curve)[-1]

    found = over(cells, lambda c: lost(c, "roles"))
    controls = {
        "roles as published, ln": over(cells, lambda c: lost(c, "aligned")),
        "help left after all updates": over(cells, lambda c: left(c, slices_of(c, "roles")[1])),
        "help left at the rate of undoing": over(cells, lambda c: left(c, slices_of(c, "reversed")[1])),
        "rebound index (KL)": over(cells, lambda c: beta(c, role="roles")),
    }
    enough = enough and 2 * found.n >= len(cells)  # a second pass, which may not have been run
    return _told("roles_reversed", found, enough, found.low > 0, found.high < 0, controls)


def _recipes_claim(cells: Sequence[Cell], enough: bool) -> dict[str, Any]:
    others = [row for row in recipe_rows(cells) if row["recipe"] not in (PLAIN, LESS)]
    found = {row["recipe"]: Interval.from_dict(row["against_plain"]) for row in others}
    nothing = Interval(math.nan, math.nan, math.nan, 0, "none run")
    best = max(found.values(), key=lambda gain: np.nan_to_num(gain.low, nan=-math.inf), default=nothing)
    return _told("recipe_harder_to_undo", best, enough, best.low > 0, best.high < 0, found)


def _told(
    name: str, found: Interval, enough: bool, holds: bool, fails: bool, controls: dict[str, Interval]
) -> dict[str, Any]:
    """A claim with its number; below the number of members the number is only what was seen so far."""
    beside = {"controls": {of: interval.to_dict() for of, interval in controls.items()}}
    if enough:
        return _claim(name, found.to_dict(), True if holds else False if fails else None) | beside
    empty = {"value": None, "low": None, "high": None, "n": found.n}
    return _claim(name, empty, None) | {"so_far": found.to_dict()} | beside


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


def real_claim(entries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Whether an alignment of SmolLM2 that should hold tighter does: share of refusals kept beyond the study's."""
    best, gains, whole = real_page.best_of(entries)
    found = best or Interval(math.nan, math.nan, math.nan, 0, "none run")
    return _told("real_harder_to_undo", found, whole, found.low > 0, found.high < 0, gains)


def coding_claim(coded: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The largest relative error of all coded texts; undecided until a real text was coded by a real model."""
    errors = [abs(row["relative_error"]) for row in coded]
    real = [row for row in coded if row["text"] != "organism" and row["bytes"] >= 20_000]
    holds = max(errors) <= 1e-3 and all(row["round_trip"] for row in coded) if errors else None
    numbers = {"value": max(errors, default=None), "low": None, "high": None, "n": len(coded)}
    return _claim("codec_bits_relative_error", numbers, None if holds and not real else holds)
