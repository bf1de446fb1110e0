"""One picture a method, as SVG, from the results of the studies.

    python -m docs.making.pictures    # writes docs/methods/*.svg; a test says when they are old

Text takes the page's colour (hook.py puts the SVG into the page); opened alone, the file follows the system's.

Knows: which numbers are drawn. Does not know: what they mean (the pages say it).
"""

import math
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from holdfast.core.files import read_json, write_text

ROOT = Path(__file__).parents[2]
FOLDER = Path(__file__).parents[1] / "methods"
WIDTH, LABELS, RIGHT, ROW, TOP = 500, 150, 30, 34, 34
COLOURS = ("#2f7ec4", "#cf6a17")  # either readable on white and on dark
STYLE = (
    "<style>svg.picture{color:#1f2328;font:15px system-ui,sans-serif}"
    "@media(prefers-color-scheme:dark){svg.picture{color:#e6edf3}}</style>"
)
Series = Sequence[tuple[str, Sequence[tuple[float, float, float]]]]


def picture(height: int, title: str, parts: Iterable[str]) -> str:
    """The file; no empty line, which would end the HTML block on a page."""
    head = (
        f'<svg class="picture" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="{escape(title)}">'
    )
    return "\n".join([head, STYLE, f"<title>{escape(title)}</title>", *parts, "</svg>", ""])


def text(x: float, y: float, words: str, anchor: str = "start", more: str = "") -> str:
    """Words in the page's colour."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="currentColor"{more}>{escape(words)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, colour: str = "currentColor", more: str = "") -> str:
    """A straight line."""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"{more}/>'


def mark(x: float, y: float, which: int) -> str:
    """A dot for the first series, a square for the second: colours are never alone."""
    colour = COLOURS[which]
    if which == 0:
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{colour}"/>'
    return f'<rect x="{x - 4.5:.1f}" y="{y - 4.5:.1f}" width="9" height="9" fill="{colour}"/>'


def intervals(title: str, labels: Sequence[str], series: Series, largest: float = 1.0, unit: str = "%") -> str:
    """Rows of values with intervals, up to two series a row."""
    wide = WIDTH - LABELS - RIGHT
    bottom = TOP + ROW * len(labels)

    def at(value: float) -> float:
        return LABELS + wide * value / largest

    parts = []
    for number, (name, _) in enumerate(series):
        parts += [mark(LABELS + 170 * number + 6, 13, number), text(LABELS + 170 * number + 18, 18, name)]
    for share in (0, 0.25, 0.5, 0.75, 1):
        x = at(share * largest)
        parts.append(line(x, TOP - 6, x, bottom, more=' opacity="0.2"'))
        shown = f"{100 * share:.0f} %" if unit == "%" else f"{share * largest:g}"
        parts.append(text(x, bottom + 20, shown, "middle"))
    if unit != "%":
        parts.append(text(at(largest / 2), bottom + 42, unit, "middle"))
    for row, label in enumerate(labels):
        middle = TOP + ROW * row + ROW / 2 - 3
        parts.append(text(LABELS - 12, middle + 5, label, "end"))
        for number, (_, values) in enumerate(series):
            value, low, high = values[row]
            y = middle + (number - (len(series) - 1) / 2) * 12
            parts.append(line(at(low), y, at(high), y, COLOURS[number], ' stroke-width="3" opacity="0.6"'))
            parts.append(mark(at(value), y, number))
    return picture(bottom + (50 if unit != "%" else 28), title, parts)


def scatter(
    title: str, points: Sequence[tuple[float, float, int]], names: Sequence[str], axes: Sequence[str]
) -> str:
    """Points on two logarithmic axes."""
    left, bottom, top = 62, 330, TOP
    ends = []
    for axis in (0, 1):
        logs = [math.log10(point[axis]) for point in points]
        ends.append((math.floor(min(logs)), math.ceil(max(logs))))

    def at(value: float, axis: int) -> float:
        low, high = ends[axis]
        share = (math.log10(value) - low) / (high - low)
        return left + (WIDTH - RIGHT - left) * share if axis == 0 else bottom - (bottom - top) * share

    parts = []
    for number, name in enumerate(names):
        parts += [mark(left + 150 * number + 6, 13, number), text(left + 150 * number + 18, 18, name)]
    for axis in (0, 1):
        low, high = ends[axis]
        for power in range(low, high + 1, 2 if high - low > 4 else 1):
            place, shown = at(10.0**power, axis), f"{10.0**power:g}"
            if axis == 0:
                parts += [
                    line(place, top, place, bottom, more=' opacity="0.2"'),
                    text(place, bottom + 20, shown, "middle"),
                ]
            else:
                parts += [
                    line(left, place, WIDTH - RIGHT, place, more=' opacity="0.2"'),
                    text(left - 8, place + 5, shown, "end"),
                ]
    parts.append(text((left + WIDTH - RIGHT) / 2, bottom + 42, axes[0], "middle"))
    middle = (top + bottom) / 2
    parts.append(text(14, middle, axes[1], "middle", f' transform="rotate(-90 14 {middle:.0f})"'))
    parts += [mark(at(x, 0), at(y, 1), which) for x, y, which in points]
    return picture(bottom + 50, title, parts)


def _results(study: str, name: str = "results") -> dict[str, Any]:
    return read_json(ROOT / "studies" / study / f"{name}.json")


def _interval(value: dict[str, Any]) -> tuple[float, float, float]:
    return value["value"], value["low"], value["high"]


def geometry() -> str:
    """Forecast against outcome, every fine-tune of the study."""
    runs = [run for run in _results("geometry")["runs"] if run["form_x_loss"] > 0 and run["kl_nats"] > 0]
    points = [(run["form_x_loss"], run["kl_nats"], int(run["method"] != "full")) for run in runs]
    axes = ("score before any step (a ranking, not nats)", "drift after it, nats a sequence")
    return scatter("Forecast before training against drift after it", points, ("full fine-tuning", "LoRA"), axes)


def elasticity() -> str:
    """Code lengths of two texts by a model and its parent."""
    rows = _results("elasticity")["coding"]
    bits = [8 * row["coded_bytes"] / row["bytes"] for row in rows]
    labels = [row["model"].replace("organism ", "built-in, ") for row in rows]
    values = [(value, value, value) for value in bits]
    return intervals("Bits a byte of ordinary text", labels, [("coded by the model", values)], 1.6, "bits a byte")


def selection() -> str:
    """The demo's task under every rule."""
    table = _results("demo", "rivals")["table"]
    names = {
        "plain": "all rows",
        "random-half": "random half",
        "moderate": "moderate half",
        "low": "low half",
        "inverse-length": "1/length",
        "length-matched": "random, lengths",
    }
    found = {row["name"]: row for row in table}
    shown = [name for name in names if name in found]
    series = [
        (said, [_interval(found[name][key]) for name in shown])
        for said, key in (("refusals", "refusal"), ("over-refusal", "over_refusal"))
    ]
    return intervals("Refusals kept by selection rules", [names[name] for name in shown], series)


def defences() -> str:
    """Every arm of the training study."""
    table = _results("training")["table"]
    series = [
        (said, [_interval(row[key]) for row in table])
        for said, key in (("refusals", "refusal"), ("task score", "task_score"))
    ]
    return intervals("Refusals and task score by defence", [row["name"] for row in table], series)


def restoration() -> str:
    """Adapters after each repair."""
    table = [row for row in _results("restoration")["table"] if row["weights"] == "adapter"]
    tasks = list(dict.fromkeys(row["task"] for row in table))
    found = {(row["task"], row["arm"]): row for row in table}
    series = [
        (said, [_interval(found[task, arm]["refusal"]) for task in tasks])
        for said, arm in (("as it came", "drifted"), ("repaired by default", "settle"))
    ]
    return intervals("Refusals after a repair", tasks, series)


PICTURES = {
    "geometry": geometry,
    "elasticity": elasticity,
    "selection": selection,
    "defences": defences,
    "restoration": restoration,
}

if __name__ == "__main__":
    for name, draw in PICTURES.items():
        write_text(FOLDER / f"{name}.svg", draw())
