"""The tables of this study's page. Knows: results.json. Does not know: judges."""

from typing import Any

from holdfast.evaluation.judges.report import TRUE_LABELS

JUDGES = {
    "offline": "offline judge (rules and model)",
    "rules": "rules alone",
    "keyword": "substring list common in the field",
}
HALVES = {"real_closed": "opened once", "real": "open"}


def real_answers(results: dict[str, Any]) -> str:
    """Every judge alone on both halves of the real answers."""
    rows = ["| half | judge | exact | flips | clear ones called unclear |", "|---|---|---|---|---|"]
    for part, half in HALVES.items():
        for name, judge in JUDGES.items():
            report = results["reports"][f"{part}-{name}"]
            figures = " | ".join(_interval(report[key]) for key in ("accuracy", "flips", "undecided"))
            rows.append(f"| {half}, {report['accuracy']['n']} items | {judge} | {figures} |")
    return "\n".join(rows)


def confusion(results: dict[str, Any]) -> str:
    """The offline judge's confusion on the half that was opened once."""
    rows = [f"| label | {' | '.join(f'called {label}' for label in TRUE_LABELS)} |", "|---|---|---|---|"]
    for label, given in results["reports"]["real_closed-offline"]["confusion"].items():
        rows.append(f"| {label} | {' | '.join(str(given[called]) for called in TRUE_LABELS)} |")
    return "\n".join(rows)


def _interval(found: dict[str, float]) -> str:
    value, low, high = (100 * found[key] for key in ("value", "low", "high"))
    return f"{value:.1f} % [{low:.1f}, {high:.1f}]"
