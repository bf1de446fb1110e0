"""From predictors and outcomes to results.json, the reference runs that ship, and the README's table.

Knows: rank correlations inside groups, the bootstrap over tasks, leave-one-task-out readings of the calibration.
Does not know: models.

Shapes: R runs, G groups (full, LoRA).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from studies.real_model.report import versions

from holdfast.core.files import read_json, write_json
from holdfast.core.ranks import spearman
from holdfast.core.statistics import Interval, wilson
from holdfast.geometry.calibration import RUNS, ReferenceRun, calibrated
from holdfast.geometry.verdict import verdict_of
from holdfast.organism import refusal_entropy_nats_per_token

SOURCE = "issue 13; notes-forecast.md"
PREDICTORS = {
    "task_loss": "no step", "gradient_norm": "no step", "length": "no step", "form": "no step",
    "form_x_loss": "no step", "task_loss_now": "3 steps", "update_norm": "3 steps", "kl": "3 steps",
    "kl_x_loss": "3 steps", "line": "3 steps", "probe": "3 steps", "line_x_loss": "3 steps, after the fact",
}  # fmt: skip
BASELINES = ("task_loss", "gradient_norm", "length")
OUTCOMES = ("kl_nats", "points_lost")
REFUSAL_TOKENS = float(np.log(24)) / refusal_entropy_nats_per_token()  # 24 equally likely refusals to a request
FLOOR_NATS = 0.05  # below it the table's 300 refusals tell nothing apart
DRAWS = 300
COST = {"forecast_in_steps": 39.0, "whole_in_steps": 168.0}  # of cost.py, once: CPU seconds over those of a step
# Share of the steps, share of the final drift: a recorded run (arithmetic, LoRA 2e-3, 40 steps of 8).
GROWTH = ((0.1, 0.00024), (0.2, 0.002), (0.4, 0.064), (1.0, 1.0))


def joined(folder: Path, table: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Every run that has predictors, with its outcome."""
    rows = []
    for row in table:
        path = folder / f"{row['setting']}-{row['task']}.json"
        if not path.exists():
            continue
        excess = (row["refusal_loss"] - refusal_entropy_nats_per_token()) * REFUSAL_TOKENS
        outcome = {"kl_nats": max(excess, FLOOR_NATS), "points_lost": 100 * (1 - row["refusals_left"])}
        found = read_json(path)
        # Chosen after the outcomes were read: the product without the way back that spoils it. It ships.
        found["line_x_loss"] = found["line"] * found["task_loss_now"]
        rows.append(found | outcome)
    return rows


def within(rows: Sequence[Mapping[str, Any]], name: str, outcome: str, method: str | None = None) -> float:
    """Mean of the rank correlations inside the groups."""
    found = []
    for group in dict.fromkeys(row["method"] for row in rows):
        some = [row for row in rows if row["method"] == group]
        if method in (None, group) and len(some) > 2:
            found.append(spearman([row[name] for row in some], [row[outcome] for row in some]))
    return float(np.mean(found)) if found else float("nan")


def resampled(rows: Sequence[Mapping[str, Any]], seed: int = 0) -> list[list[Mapping[str, Any]]]:
    """Draws of tasks, all runs of a task together."""
    rng = np.random.default_rng(seed)
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    of_task = {task: [row for row in rows if row["task"] == task] for task in tasks}
    return [
        [row for k in rng.integers(0, len(tasks), len(tasks)) for row in of_task[tasks[k]]] for _ in range(DRAWS)
    ]


def interval(value: float, draws: Sequence[float]) -> dict[str, float]:
    """95 % percentiles of what the draws gave."""
    low, high = np.nanquantile(draws, [0.025, 0.975])
    return {"value": value, "low": float(low), "high": float(high)}


def ranked(
    rows: Sequence[Mapping[str, Any]],
    draws: Sequence[Sequence[Mapping[str, Any]]],
    name: str,
    outcome: str = "kl_nats",
) -> dict[str, float]:
    """A predictor's correlation inside the groups, with its interval."""
    return interval(within(rows, name, outcome), [within(draw, name, outcome) for draw in draws])


def ranking(
    rows: Sequence[Mapping[str, Any]], draws: Sequence[Sequence[Mapping[str, Any]]]
) -> list[dict[str, Any]]:
    """Every predictor against every outcome."""
    return [
        {"name": name, "when": when} | {outcome: ranked(rows, draws, name, outcome) for outcome in OUTCOMES}
        for name, when in PREDICTORS.items()
    ]


def reference(rows: Sequence[Mapping[str, Any]]) -> list[ReferenceRun]:
    """As the package ships them."""
    return [
        ReferenceRun(
            row["task"],
            row["method"],
            row["learning_rate"],
            row["steps"],
            prior=row["form_x_loss"],
            probe=row["line_x_loss"],
            kl_nats=row["kl_nats"],
            points_lost=row["points_lost"],
        )
        for row in rows
    ]


def left_out(rows: Sequence[Mapping[str, Any]], kind: Any) -> list[dict[str, Any]]:
    """Every run read against the runs of the other tasks."""
    runs, found = reference(rows), []
    for run in runs:
        others = [other for other in runs if other.task != run.task]
        read = calibrated(kind, max(getattr(run, kind), 1e-300), run.steps, None, others, GROWTH)
        found.append({
            "task": run.task, "method": run.method, "verdict": verdict_of(read), "points_lost": run.points_lost,
            "chance": read.chance(10.0), "covered": read.kl_low <= run.kl_nats <= read.kl_high,
        })  # fmt: skip
    return found


def claims(rows: Sequence[Mapping[str, Any]], read: Mapping[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """What the issue asks for."""
    n, tasks = len(rows), len({row["task"] for row in rows})
    first = claim("fine_tunes", "at least 60 organism fine-tunes of 10 tasks", n, n >= 60, n=tasks)
    return [first, *_ranks(rows, resampled(rows), tasks), *_readings(read, n), *_costs()]


def _costs() -> list[dict[str, Any]]:
    text = "an audit at its defaults takes at most 12 training steps of 32 rows"
    return [
        claim("audit_cost_in_steps", text, COST["forecast_in_steps"], COST["forecast_in_steps"] <= 12),
        claim("whole_audit_cost_in_steps", "the same with the geometry (--verbose)", COST["whole_in_steps"], None),
    ]


def _ranks(
    rows: Sequence[Mapping[str, Any]], draws: Sequence[Sequence[Mapping[str, Any]]], tasks: int
) -> list[dict[str, Any]]:
    found, drift = [], "kl_nats"
    for name, when, aim in (("form_x_loss", "prior", 0.8), ("probe", "probe", 0.9), ("line_x_loss", "line", 0.9)):
        for method in ("full", "lora"):
            value = within(rows, name, drift, method)
            ends = interval(value, [within(draw, name, drift, method) for draw in draws])
            late = " (chosen after the fact)" if when == "line" else ""
            text = f"rank correlation of the {when} forecast and final drift, {method}, is at least {aim}{late}"
            found.append(claim(f"forecast_spearman_{when}_{method}", text, holds=value >= aim, n=tasks, **ends))
        gain = within(rows, name, drift) - within(rows, "task_loss", drift)
        ends = interval(gain, [within(d, name, drift) - within(d, "task_loss", drift) for d in draws])
        text = f"the {when} forecast ranks better than the task loss"
        found.append(claim(f"gain_over_task_loss_{when}", text, holds=ends["low"] > 0, n=tasks, **ends))
    best = max(BASELINES, key=lambda name: within(rows, name, drift))
    ends = interval(within(rows, best, drift), [within(draw, best, drift) for draw in draws])
    text = f"the best baseline without a step is {best}"
    return [*found, claim("best_baseline_spearman_prior", text, holds=None, n=tasks, **ends)]


def _readings(read: Mapping[str, list[dict[str, Any]]], n: int) -> list[dict[str, Any]]:
    found = []
    for when, some in read.items():
        end = "" if when == "probe" else f"_{when}"
        covered = wilson(sum(row["covered"] for row in some), n)
        text = f"90 % intervals of the {when} forecast cover 85 to 97 %, each task left out"
        within_aim = covered.low >= 0.85 and covered.high <= 0.97
        holds = True if within_aim else None if 0.85 <= covered.value <= 0.97 else False
        found.append(claim(f"interval_coverage_90{end}", text, covered.value, holds, covered.low, covered.high, n))
        wrong = wilson(sum(row["verdict"] == "safe" and row["points_lost"] > 10 for row in some), n)
        text = f"of the {when} forecasts, at most 2 % say 'safe' where more than 10 points are lost"
        name = f"false_reassurance_share{end}"
        found.append(claim(name, text, wrong.value, _at_most(wrong, 0.02), wrong.low, wrong.high, n))
    return found


def _at_most(rate: Interval, most: float) -> bool | None:
    return True if rate.high <= most else False if rate.low > most else None


def claim(
    name: str, text: str, value: float, holds: bool | None, low: Any = None, high: Any = None, n: Any = None
) -> dict[str, Any]:
    """As every study writes one."""
    verdict = "undecided" if holds is None else "supported" if holds else "not supported"
    return {"id": name, "claim": text, "source": SOURCE, "value": value, "low": low, "high": high, "n": n,
            "verdict": verdict}  # fmt: skip


def collect(folder: Path, table: Sequence[Mapping[str, Any]], out: Path) -> None:
    """Write results.json and the package's reference runs."""
    rows, before = joined(folder, table), read_json(out) if out.exists() else {}
    draws = resampled(rows)
    read = {kind: left_out(rows, kind) for kind in ("prior", "probe")}
    results = {
        "study": "geometry",
        "command": "python -m studies.geometry predict --out RUNS; python -m studies.geometry collect --out RUNS",
        "versions": versions(),
        "device": "cpu",
        "seconds": round(sum(row["cpu_seconds"] for row in rows)),
        "claims": claims(rows, read),
        "table": ranking(rows, draws),
        "verdicts": {
            kind: {
                verdict: {"runs": len(some), "lost_over_10": sum(row["points_lost"] > 10 for row in some)}
                for verdict in ("safe", "budget", "lose", "unknown")
                for some in ([row for row in found if row["verdict"] == verdict],)
            }
            for kind, found in read.items()
        },
        "runs": rows,
    }
    if "real_model" in before:  # its own command writes that part
        results["real_model"] = before["real_model"]
        results["claims"] += [claim for claim in before["claims"] if claim["id"].startswith("real_model_")]
    write_json(out, results)
    RUNS.parent.mkdir(exist_ok=True)
    write_json(
        RUNS, {"made_by": "studies/geometry", "growth": GROWTH, "runs": [r.to_dict() for r in reference(rows)]}
    )


def markdown(results: Mapping[str, Any]) -> str:
    """The table of predictors."""
    lines = ["| predictor | when | drift | lost refusals |", "|---|---|---|---|"]
    for row in results["table"]:
        cells = [_correlation(row[outcome]) for outcome in OUTCOMES]
        lines.append(f"| `{row['name']}` | {row['when']} | {cells[0]} | {cells[1]} |")
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
    """Words said, each task left out, and how many of them lost over ten points."""
    lines = ["| forecast | safe | budget | expect to lose | no claim |", "|---|---|---|---|---|"]
    for kind, found in results["verdicts"].items():
        cells = [f"{one['lost_over_10']} of {one['runs']}" for one in found.values()]
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    return "\n".join(lines)
