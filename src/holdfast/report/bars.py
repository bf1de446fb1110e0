"""Bars of one figure for every model, with interval, what it was before and the limit: what a glance reads first.

Knows: rows of a summary, limits of a recipe and of a gate. Does not know: HTML (the template draws them).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from holdfast.report.marks import Look
from holdfast.report.pictures import table
from holdfast.report.wording import Kind, interval, value

Looks = Mapping[str, Look]


@dataclass(frozen=True)
class Bar:
    """One model's bar; positions are percent of the track.

    Attributes:
        fill: its length. low, high: ends of the interval, None without one. limit: where its limit stands.
        said, ends: value and interval in words. limit_said: the limit in words, with whether it is kept.
    """

    label: str
    look: Look
    fill: float | None
    low: float | None
    high: float | None
    said: str
    ends: str
    limit: float | None = None
    limit_said: str = ""
    outside: bool = False


@dataclass(frozen=True)
class Panel:
    """One figure of all models. ``before``: where the aligned model stands, percent."""

    title: str
    better: str
    bars: tuple[Bar, ...]
    before: float | None
    csv: str
    file: str


@dataclass(frozen=True)
class _Shown:
    key: str
    kind: Kind
    title: str
    better: str
    limit: str  # what a limit of it is called
    sign: int  # the side on which a value is outside


FIRST = (
    _Shown("refusal", "rate", "Safety: refuses what it must", "longer is safer", "min_refusal", -1),
    _Shown(
        "over_refusal", "rate", "Over-refusal: refuses the harmless", "shorter is better", "max_over_refusal", 1
    ),
    _Shown("task_score", "rate", "Task: held-out score", "longer is better", "min_task", -1),
)
LOSS = _Shown(
    "task_loss_nats", "number", "Task: held-out loss, nats a token", "shorter is better", "max_task_loss", 1
)


def panels(
    rows: Sequence[Mapping[str, Any]],
    looks: Looks,
    trained: Mapping[str, Any],
    gated: Mapping[str, Any] | None = None,
) -> list[Panel]:
    """Safety, over-refusal and task of every model; the task's loss where it has no score.

    Args:
        trained: limits that held while training, by the name of an arm, as a recipe's.
        gated: limits of a gate, likewise; they come first.
    """
    limits = {row["name"]: _limits(trained.get(row["name"]), (gated or {}).get(row["name"])) for row in rows}
    kinds = [kind for kind in FIRST if any(row.get(kind.key) for row in rows)]
    if all(kind.key != "task_score" for kind in kinds):
        kinds.append(LOSS)
    return [_panel(kind, rows, looks, limits) for kind in kinds]


def _limits(trained: Mapping[str, Any] | None, gated: Mapping[str, Any] | None) -> dict[str, tuple[float, str]]:
    found = {name: (limit, "limit while training") for name, limit in (trained or {}).items() if limit is not None}
    return found | {name: (limit, "limit of the gate") for name, limit in (gated or {}).items()}


def _panel(kind: _Shown, rows: Sequence[Mapping[str, Any]], looks: Looks, limits: Mapping[str, Any]) -> Panel:
    shown = [row for row in rows if (row.get(kind.key) or {}).get("value") is not None]
    ends = [row[kind.key].get("high") or row[kind.key]["value"] for row in shown]
    whole = 1.0 if kind.kind == "rate" else max(ends, default=1.0) or 1.0
    bars = tuple(_bar(kind, row, looks[row["name"]], whole, limits[row["name"]].get(kind.limit)) for row in shown)
    first = next((row for row in shown if row["name"] == "aligned"), None)
    before = None if first is None else 100 * first[kind.key]["value"] / whole
    data = [[r["label"], *(r[kind.key].get(k) for k in ("value", "low", "high", "n"))] for r in shown]
    csv = table(("model", kind.key, "low", "high", "prompts"), data)
    return Panel(kind.title, kind.better, bars, before, csv, f"{kind.key}-held-out.csv")


def _bar(kind: _Shown, row: Mapping[str, Any], look: Look, whole: float, limit: tuple[float, str] | None) -> Bar:
    entry = row[kind.key]
    bar = bar_of(row["label"], look, entry, kind.kind, whole)
    if limit is None:
        return bar
    outside = kind.sign * entry["value"] > kind.sign * limit[0]
    said = f"{limit[1]} {value({'value': limit[0]}, kind.kind)}{', the value is outside' if outside else ''}"
    return replace(bar, limit=_at(limit[0], whole), limit_said=said, outside=outside)


def bar_of(label: str, look: Look, entry: Mapping[str, Any], kind: Kind, whole: float) -> Bar:
    """A bar of one figure on a track of length ``whole``."""
    entry = dict(entry)
    ends = (_at(entry.get("low"), whole), _at(entry.get("high"), whole))
    return Bar(label, look, _at(entry["value"], whole), *ends, value(entry, kind), interval(entry, kind))


def _at(number: float | None, whole: float) -> float | None:
    return None if number is None else min(100.0, max(0.0, 100.0 * number / whole))


def attack_panels(attacks: Sequence[Mapping[str, Any]], looks: Looks) -> list[tuple[Panel, str, tuple[str, ...]]]:
    """A panel an attack, with its budget in words and what must be known of it."""
    found = []
    for name in dict.fromkeys((a["skill"], a["attack"]) for a in attacks):
        of = [a for a in attacks if (a["skill"], a["attack"]) == name]
        bars = tuple(bar_of(a["label"], looks[a["name"]], a["success"], "rate", 1.0) for a in of)
        data = [
            [a["label"], a["attack"], *(a["success"].get(k) for k in ("value", "low", "high", "n"))] for a in of
        ]
        csv = table(("model", "attack", "success", "low", "high", "prompts"), data)
        panel = Panel(f"{name[1]}: got an answer", "shorter is safer", bars, None, csv, f"attack-{name[1]}.csv")
        notes = tuple(dict.fromkeys(f"{note} ({n})" for a in of for note, n in (a.get("notes") or {}).items()))
        found.append((panel, of[0]["budget"]["said"], notes))
    return found


def elasticity_panels(lines: Sequence[Mapping[str, Any]], looks: Looks) -> list[Panel]:
    """A panel a measure: how far from its parent, and bits a token."""
    lines = [line for line in lines if line.get("interval") and line["interval"].get("value") is not None]
    found = []
    for measure in dict.fromkeys(line["measure"] for line in lines):
        of = [line for line in lines if line["measure"] == measure]
        whole = max(max(line["interval"].get("high") or 0.0, line["interval"]["value"]) for line in of) or 1.0
        bars = tuple(bar_of(line["of"], looks[line["of"]], line["interval"], "number", whole) for line in of)
        data = [[line["of"], *(line["interval"].get(k) for k in ("value", "low", "high", "n"))] for line in of]
        csv = table(("model", measure, "low", "high", "n"), data)
        found.append(Panel(measure, of[0]["meaning"], bars, None, csv, "elasticity.csv"))
    return found


def cost_panel(costs: Sequence[Mapping[str, Any]]) -> Panel | None:
    """Where the time went, a bar a stage."""
    if not costs:
        return None
    whole = max(cost["seconds"] for cost in costs) or 1.0
    bars = tuple(bar_of(c["title"], Look(0), {"value": c["seconds"]}, "seconds", whole) for c in costs)
    csv = table(("stage", "seconds"), [[c["stage"], c["seconds"]] for c in costs])
    total = sum(cost["seconds"] for cost in costs)
    return Panel(
        f"{total:,.0f} seconds in all", "wall time of each stage, on this machine", bars, None, csv, "costs.csv"
    )
