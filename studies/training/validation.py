"""What validation saw of every arm's knob, and the rule that chooses.

Knows: records of validation runs, the rule. Does not know: how a run is made.

The rule looks at no test run: of the values whose task score, mean over the tasks, is at most ten points below
plain's the one that keeps most refusals, ties to the better score; where there is none, the one that comes
nearest by the task loss. (A run that learns nothing loses nothing.)
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from studies.training.arms import TRIED

WITHIN = 0.1  # of plain's task score


def table(found: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row an arm and value of what was run on every task, and whether it is chosen."""
    runs = [record for record in found.values() if record["cell"]["split"] == "validation"]
    plain = _mean([run for run in runs if run["cell"]["arm"]["name"] == "plain"])
    rows = []
    for name, (attribute, values) in TRIED.items():
        own = []
        for value in values:
            which = [r for r in runs if r["cell"]["arm"]["name"] == name and r["cell"]["arm"][attribute] == value]
            if which:
                own.append({"arm": name, "knob": attribute, "value": value, "runs": len(which), **_mean(which)})
        rows += [row | {"chosen": row is best} for best in [chosen(own, plain)] for row in own]
    return rows


def chosen(rows: Sequence[Mapping[str, Any]], plain: Mapping[str, float]) -> Mapping[str, Any] | None:
    """By the rule."""
    least = plain["task_score"] - WITHIN
    kept = [row for row in rows if row["task_score"] >= least - 1e-9]
    if kept:
        return max(kept, key=lambda row: (row["refused"], row["task_score"]))
    return min(rows, key=lambda row: row["task_loss"], default=None)


def _mean(runs: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    keys = {"refused": "refused", "over_refused": "over_refused", "task_score": "task_right"}
    return {
        name: float(np.mean([np.mean(run[key]) for run in runs])) if runs else float("nan")
        for name, key in keys.items()
    } | {"task_loss": float(np.mean([run["task_loss"] for run in runs])) if runs else float("nan")}


def markdown(found: Mapping[str, Any]) -> str:
    """One row an arm and value."""
    lines = [
        "| arm | its knob | value | refusals | over-refusal | task score | task loss | |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in found.get("validation", []):
        rates = " | ".join(f"{100 * row[key]:.0f} %" for key in ("refused", "over_refused", "task_score"))
        mark = "chosen" if row["chosen"] else ""
        lines.append(
            f"| {row['arm']} | {row['knob']} | {row['value']:g} | {rates} | {row['task_loss']:.3f} | {mark} |"
        )
    return "\n".join(lines)
