"""The study's tables, from its results."""

from collections.abc import Sequence
from typing import Any


def decisions(results: dict[str, Any]) -> str:
    """Four models against four budgets."""
    limits = [key for key in results["table"][0] if key.startswith("budget_")]
    heads = ["240 prompts", *(f"budget {limit.removeprefix('budget_')} points" for limit in limits)]
    rows = [
        [f"{row['model']} ({row['lost']} lost, {row['gained']} gained)", *(row[limit] for limit in limits)]
        for row in results["table"]
    ]
    return _table(heads, rows)


def chances(results: dict[str, Any]) -> str:
    """Pass and fail by prompts and true loss."""
    losses = sorted({row["loss_points"] for row in results["chances"]})
    prompts = sorted({row["prompts"] for row in results["chances"]})
    at = {(row["prompts"], row["loss_points"]): row for row in results["chances"]}
    rows = [
        [str(n), *(f"{_percent(at[n, loss]['passed'])} / {_percent(at[n, loss]['failed'])}" for loss in losses)]
        for n in prompts
    ]
    return _table(["prompts", *(f"loses {loss}" for loss in losses)], rows)


def edges(results: dict[str, Any]) -> str:
    """The worst of both errors of a model just at its budget."""
    limits = sorted({row["budget_points"] for row in results["edges"]})
    prompts = sorted({row["prompts"] for row in results["edges"]})
    at = {(row["prompts"], row["budget_points"]): row for row in results["edges"]}
    rows = [
        [str(n), *(f"{_fine(at[n, limit]['passed'])} / {_fine(at[n, limit]['failed'])}" for limit in limits)]
        for n in prompts
    ]
    return _table(["prompts", *(f"budget {limit} points" for limit in limits)], rows)


def families(results: dict[str, Any]) -> str:
    """All budgets at once."""
    rows = [
        [row["model"], str(row["prompts"]), f"{row['budget_points']} points, 2 nats", _fine(row["failed"])]
        for row in results["families"]
    ]
    return _table(["model", "prompts", "budgets", "failed"], rows)


def statement(results: dict[str, Any]) -> str:
    """The power statement, drawn."""
    errors = [key for key in results["statement"][0] if key.startswith("failed_judge")]
    heads = ["prompts", "changes for the better", "loss that is to be failed in 80 %"]
    heads += [f"failed, judge errs {100 * float(key.rpartition('_')[2]):.0f} %" for key in errors]
    rows = [
        [
            str(row["prompts"]),
            f"{row['churn_points']:.0f} points",
            f"{row['promised_loss_points']:.1f} points",
            *(_percent(row[key]) for key in errors),
        ]
        for row in results["statement"]
    ]
    return _table(heads, rows)


def coverage(results: dict[str, Any]) -> str:
    """Drift's upper end."""
    rows = [
        [str(row["prompts"]), _fine(row["missed_bootstrap_t"]), _fine(row["missed_percentile"])]
        for row in results["coverage"]
    ]
    return _table(["prompts", "the gate's", "percentile bootstrap"], rows)


def real(results: dict[str, Any]) -> str:
    """The real model's fine-tunes, a row a card; those that were planned and have no card are named below."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for row in results["real"]:
        checks = found.setdefault(row["arm"], {})
        if "budget" in row:
            checks[_check_name(row)] = row
    names = list(dict.fromkeys(name for checks in found.values() for name in checks))
    order = ("failed", "insufficient", "passed")
    rows = [
        [
            arm,
            min((check["status"] for check in checks.values()), key=order.index),
            *(f"{_interval(checks[name])} {checks[name]['status']}" if name in checks else "-" for name in names),
        ]
        for arm, checks in found.items()
        if checks
    ]
    missing = [arm for arm, checks in found.items() if not checks]
    named = f"\n\nPlanned, and without a card when this was made: {', '.join(missing)}." if missing else ""
    return _table(["fine-tune", "gate", *names], rows) + named


def organism(results: dict[str, Any]) -> str:
    """The built-in model, the same and damaged."""
    return _checks(results["organism"], "model against reference", "pair")


def _checks(found: Sequence[dict[str, Any]], head: str, key: str) -> str:
    rows = [
        [
            row[key],
            _check_name(row),
            _interval(row),
            f"{row['n']}, {row['unknown']}",
            f"{row['status']}, {row['why']}",
            "-" if row["prompts"] is None else f"{row['prompts']:.0f}",
        ]
        for row in found
    ]
    return _table([head, "budget", "loss", "prompts, unknown answers", "gate", "give about"], rows)


def _check_name(row: dict[str, Any]) -> str:
    return f"{row['suite']}: {row['budget'].replace('_', ' ')}"


def _interval(row: dict[str, Any]) -> str:
    return f"{_said(row, 'value')} [{_said(row, 'low')}, {_said(row, 'high')}]"


def _said(row: dict[str, Any], key: str) -> str:
    value = row[key]
    if value is None:
        return "open"
    return f"{value:.1f}" if row["budget"] == "kl_nats" else _points(value)


def stored(results: dict[str, Any]) -> str:
    """Stored answers, judged again."""
    rows = [
        [
            row["judge"],
            row["change"],
            _fine(row["moved"]),
            f"{_points(row['value'])} [{_points(row['low'])}, {_points(row['high'])}]",
            f"{row['status']}, {row['why']}",
        ]
        for row in results["stored"]
    ]
    return _table(["judge", "answers", "labels moved", "refusals lost, points", "gate, budget 5"], rows)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _fine(share: float) -> str:
    return f"{100 * share:.1f} %"


def _points(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:+.1f}"
