"""The study's tables, from its results. Knows: markdown. Does not know: how anything was measured."""

from collections.abc import Mapping
from typing import Any

from studies.geometry.summary import OUTCOMES


def markdown(results: Mapping[str, Any]) -> str:
    """The table of predictors: all runs, and the fresh ones alone where there are some."""
    fresh = {row["name"]: row for row in results.get("fresh", ())}
    ends = (" | drift, fresh | lost refusals, fresh |", "|---|---|") if fresh else (" |", "|")
    lines = ["| predictor | when | drift | lost refusals" + ends[0], "|---|---|---|---" + ends[1]]
    for row in results["table"]:
        both = [row, fresh[row["name"]]] if fresh else [row]
        cells = [_correlation(one[outcome]) for one in both for outcome in OUTCOMES]
        lines.append(f"| `{row['name']}` | {row['when']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _correlation(found: Mapping[str, Any]) -> str:
    if found["value"] is None:  # nothing to rank: equal outcomes
        return "-"
    return f"{found['value']:.2f} [{found['low']:.2f}, {found['high']:.2f}]"


def markdown_claims(results: Mapping[str, Any]) -> str:
    """What was asked, and what was seen."""
    lines = ["| id | value | verdict |", "|---|---|---|"]
    for row in results["claims"]:
        ends = "" if row["low"] is None else f" [{row['low']:.2f}, {row['high']:.2f}]"
        lines.append(f"| `{row['id']}` | {row['value']:.3g}{ends} | {row['verdict']} |")
    return "\n".join(lines)


def markdown_verdicts(results: Mapping[str, Any]) -> str:
    """Words said, and how many of the runs so called lost over ten points."""
    lines = ["| forecast | calibration | safe | budget | expect to lose | no claim |", "|---" * 6 + "|"]
    for kind, found in results["verdicts"].items():
        cells = [f"{one['lost_over_10']} of {one['runs']}" for one in found.values()]
        fitted = "as it ships, fresh runs" if kind.endswith("_fresh") else "each task left out, all runs"
        lines.append(f"| {kind.split('_')[0]} | {fitted} | {' | '.join(cells)} |")
    return "\n".join(lines)


def markdown_groups(results: Mapping[str, Any]) -> str:
    """Kinds of runs, and rank correlations with drift inside each."""
    ranks = " | ".join(f"`{name}`" for name in ("task_loss", "form_x_loss", "line_x_loss"))
    lines = [f"| runs | rate | n | lost over ten points | drift, nats (median) | {ranks} |", "|---" * 8 + "|"]
    for row in results["groups"]:
        ranks = " | ".join(f"{row[name]:.2f}" for name in ("task_loss", "form_x_loss", "line_x_loss"))
        lines.append(f"| {row['group']} | {row['learning_rate']:g} | {row['runs']} | {row['lost_over_10']} | "
                     f"{row['kl_nats']:.2g} | {ranks} |")  # fmt: skip
    return "\n".join(lines)
