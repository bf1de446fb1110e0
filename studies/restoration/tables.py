"""The tables of the page, from results.json.

Knows: heads, how a number is written. Does not know: where it comes from.
"""

from typing import Any

from studies.restoration.page import BUDGETS, LABELS

from holdfast.core.statistics import Interval


def markdown(results: dict[str, Any], weights: str = "adapter") -> str:
    """The table of the page."""

    def percent(entry: dict[str, Any] | None) -> str:
        return "" if entry is None else Interval(**entry).percent

    heads = ("task", "repair", "seeds", "refusals", "over-refusal", "task score", "task loss rise, nats a token",
             "refusals after 50 more task steps", "CPU s")  # fmt: skip
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in [row for row in results["table"] if row["weights"] == weights]:
        loss = row["task_loss_rise"]
        cells = [
            row["task"], LABELS[row["arm"]], str(row["seeds"]), percent(row["refusal"]),
            percent(row["over_refusal"]), percent(row["task_score"]),
            f"{loss['value']:+.3f} ({loss['low']:+.3f} to {loss['high']:+.3f})", percent(row.get("relearned")),
            f"{row['cpu_seconds']:.0f}" if "cpu_seconds" in row else "",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def claims(results: dict[str, Any]) -> str:
    """Every claim with its number and verdict."""

    def shown(value: float | None) -> str:
        return "" if value is None else f"{value:.3g}"

    lines = ["| id | claim | value | verdict |", "|---|---|---|---|"]
    for c in results["claims"]:
        interval = "" if c["low"] is None else f" [{shown(c['low'])}, {shown(c['high'])}]"
        lines.append(f"| `{c['id']}` | {c['claim']} | {shown(c['value'])}{interval} | {c['verdict']} |")
    return "\n".join(lines)


def plane(results: dict[str, Any]) -> str:
    """Refusals less over-refusals inside each limit, a row a way."""
    heads = ["way", *(f"{limit:g} nats a token" for limit in BUDGETS)]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name in dict.fromkeys(row["name"] for row in results["plane"]):
        own = [row for row in results["plane"] if row["name"] == name]
        cells = [f"{100 * r['value']:.0f} [{100 * r['low']:.0f}, {100 * r['high']:.0f}]" for r in own]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def attacks(results: dict[str, Any]) -> str:
    """What may come after, a row an arm: means over cells in per cent."""
    heads = ("repair", "prefilled", "many-shot", "after 10 steps", "after 50", "after 200", "a kind not given")
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name, row in results["afterwards"].items():
        shown = ["" if value is None else f"{100 * value:.0f}" for value in row.values()]
        lines.append(f"| {LABELS[name]} | {' | '.join(shown)} |")
    return "\n".join(lines)


def shapes(results: dict[str, Any]) -> str:
    """What curvature buys, and how alike the landscapes are, a row a task."""
    heads = ("task", "curvature / plain step", "refusals, centred", "harmless answers, centred", "task, centred",
             "refusals / harmless / task, row by row")  # fmt: skip
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in results["shapes"]:
        land = row["landscape"]
        found = [land[kind]["centred"] for kind in ("refusals", "harmless", "task")]
        centred = [f"{c['value']:.2f} [{c['low']:.2f}, {c['high']:.2f}]" for c in found]
        ratio = row["worth"]["ggn-cg"] / row["worth"]["identity"]
        rows = " / ".join(f"{land[kind]['examples']:.2f}" for kind in ("refusals", "harmless", "task"))
        lines.append(f"| {row['task']} | {ratio:.1f} | {' | '.join(centred)} | {rows} |")
    return "\n".join(lines)


def choosing(results: dict[str, Any]) -> str:
    """What the form of `settle` was chosen on."""
    heads = ("task", "form", "refusals", "over-refusal", "task score", "task loss rise, nats a token",
             "refusals after 50 more task steps")  # fmt: skip
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in results["choosing"]["rows"]:
        refusal, over, score, later = (
            f"{100 * row[key]:.0f} %" for key in ("refusal", "over_refusal", "task_score", "relearned")
        )
        cells = [row["task"], row["form"], refusal, over, score, f"{row['task_loss_rise']:+.3f}", later]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def curve(results: dict[str, Any]) -> str:
    """What trains nothing: refusals, over-refusals in per cent, rise of the task loss in nats a token."""
    tasks = list(dict.fromkeys(row["task"] for row in results["free"]))
    lines = [f"| way | {' | '.join(tasks)} |", "|---" * (len(tasks) + 1) + "|"]
    for name in dict.fromkeys(row["name"] for row in results["free"]):
        own = {row["task"]: row for row in results["free"] if row["name"] == name}
        cells = [
            f"{100 * own[t]['refusal']:.0f} / {100 * own[t]['over_refusal']:.0f} / {own[t]['task_loss_rise']:+.2f}"
            for t in tasks
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)
