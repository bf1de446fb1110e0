"""What the curves of SmolLM2 say: a card for each alignment, and each against the study's on the same prompts.

Knows: curves as real.py writes them. Does not know: models.

Shapes: S orders, T probes, P prompts.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from studies.elasticity.real import ANCHORED, LONGER, PARENT, STUDY

from holdfast.core.files import read_json
from holdfast.core.statistics import Interval
from holdfast.elasticity import ReboundCurve, read_card
from holdfast.elasticity.springs import over_seeds_and_prompts

LEVEL, DRAWS = 0.975, 1000  # two comparisons
NAMES = {STUDY: "the study's", LONGER: "longer", ANCHORED: "anchored", PARENT: "none: the chat model (c0)"}

SHORT = {STUDY: "study", LONGER: "longer", ANCHORED: "anchored", PARENT: "chat model (c0)"}


def read_all(work: Path) -> list[dict[str, Any]]:
    """One entry a variant, for results.json; only variants that were run."""
    found: dict[str, list[dict[str, Any]]] = {}
    for place in sorted(work.glob("real-*.json")):
        run = read_json(place)
        found.setdefault(run["variant"], []).append(run)
    study = _scores(found.get(STUDY, []))
    return [_entry(name, found[name], study) for name in NAMES if name in found]


def _entry(name: str, runs: Sequence[dict[str, Any]], study_STP: np.ndarray | None) -> dict[str, Any]:
    runs = sorted(runs, key=lambda run: run["seed"])
    harmful = runs[0]["setting"]["harmful"]
    curves = [ReboundCurve.from_dict(run["curve"]) for run in runs]
    card = read_card([_only(curve, slice(harmful)) for curve in curves], draws=DRAWS)
    score_STP = np.stack([curve.of("score") for curve in curves])
    kl_ST = np.stack([curve.of("kl_to_base_nats").mean(1) for curve in curves])
    entry: dict[str, Any] = {
        "variant": name,
        "orders": len(runs),
        "updates": list(curves[0].updates),
        "refused": [_share(score_STP[:, [t], :harmful]) for t in range(score_STP.shape[1])],
        "harmless_refused": score_STP[:, :, harmful:].mean((0, 2)).tolist(),
        "parent_refused": float(np.mean([curve.base_score[:harmful] for curve in curves])),
        "kl_nats": kl_ST.mean(0).tolist(),
        "bits": {text: _bits(curves, text) for text in curves[0].document_tokens},
        "sentence": card.sentence,
        "coefficients": [
            {"name": c.name, "unit": c.unit, "said": c.said(), "null": c.null, "value": c.value.to_dict()}
            for c in card.coefficients
        ],
        "shape": card.shape.chosen if card.shape else None,
        "phase_change_at_base": card.shape.phase_change_at_base if card.shape else None,
        "cpu_seconds": round(sum(run["cpu_seconds"] for run in runs)),
        "setting": runs[0]["setting"],
    }
    if study_STP is not None and name in (LONGER, ANCHORED):
        both = min(len(study_STP), len(score_STP))
        entry["kept_beyond_study"] = over_seeds_and_prompts(
            lambda a_T, b_T: _kept(curves[0].updates, a_T) - _kept(curves[0].updates, b_T),
            score_STP[:both, :, :harmful], study_STP[:both, :, :harmful], level=LEVEL, draws=DRAWS,
        ).to_dict()  # fmt: skip
    return entry


def _scores(runs: Sequence[dict[str, Any]]) -> np.ndarray | None:
    ordered = sorted(runs, key=lambda run: run["seed"])
    return np.stack([ReboundCurve.from_dict(run["curve"]).of("score") for run in ordered]) if ordered else None


def _only(curve: ReboundCurve, prompts: slice) -> ReboundCurve:
    points = tuple(replace(point, score=point.score[prompts]) for point in curve.points)
    return replace(curve, points=points, base_score=curve.base_score[prompts])


def _share(score_STP: np.ndarray) -> dict[str, Any]:
    return over_seeds_and_prompts(lambda score_T: float(score_T[0]), score_STP, draws=DRAWS).to_dict()


def _kept(updates: Sequence[int], score_T: np.ndarray) -> float:
    """Share of the refusals at the start that is left, mean over the updates."""
    return float(np.trapezoid(score_T, updates) / updates[-1] / score_T[0]) if score_T[0] > 0 else float("nan")


def _bits(curves: Sequence[ReboundCurve], text: str) -> list[float]:
    found = [curve.bits(text) for curve in curves]
    return np.mean([[sum(bits) / sum(tokens) for bits in bits_T] for bits_T, tokens in found], axis=0).tolist()


def best_of(entries: Sequence[dict[str, Any]]) -> tuple[Interval | None, dict[str, Interval], bool]:
    """The better variant's gain, both gains, and whether all orders of all three were run."""
    gains = {
        NAMES[entry["variant"]]: Interval.from_dict(entry["kept_beyond_study"])
        for entry in entries
        if "kept_beyond_study" in entry
    }
    whole = {entry["variant"] for entry in entries if entry["orders"] >= 2} >= {STUDY, LONGER, ANCHORED}
    return max(gains.values(), key=lambda gain: gain.low, default=None), gains, whole


def table(results: dict[str, Any]) -> str:
    """Refusals along the way, one row an alignment."""
    entries = results.get("real", [])
    if not entries:
        return "| alignment | refused |\n|---|---|\n| none run yet | - |"
    updates = entries[0]["updates"]
    heads = " | ".join(f"after {n}" for n in updates)
    lines = [
        f"| alignment | {heads} updates | half gone after | harmless refused at first |",
        f"|---|{'---|' * len(updates)}---|---|",
    ]
    for entry in entries:
        shares = " | ".join(f"{100 * share['value']:.0f} %" for share in entry["refused"])
        gone = next(c["said"] for c in entry["coefficients"] if c["name"].startswith("updates that take half"))
        harmless = f"{100 * entry['harmless_refused'][0]:.0f} %"
        lines.append(f"| {NAMES[entry['variant']]} | {shares} | {gone} | {harmless} |")
    return "\n".join(lines)


def nulls(results: dict[str, Any]) -> str:
    """Coefficients of each alignment beside what a linear spring of the same start would show."""
    lines = ["| alignment | coefficient | value | linear spring |", "|---|---|---|---|"]
    for entry in results.get("real", []):
        if entry["variant"] == PARENT:
            continue
        for c in entry["coefficients"]:
            null = "-" if c["null"] is None or not np.isfinite(c["null"]) else f"{c['null']:.3g}"
            lines.append(f"| {NAMES[entry['variant']]} | {c['name']} | {c['said']} | {null} |")
    return "\n".join(lines)
