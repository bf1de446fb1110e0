"""The pictures of the page, drawn from results.json: how members come undone, growth, and SmolLM2's alignments.

    python -m studies.elasticity collect --work RUNS     # draws them, too

Lines carry shapes and words besides colours; colours are chosen to be read on a light and on a dark page, and no
background is painted.

Knows: axes, lines, dots. Does not know: models, verdicts.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from studies.elasticity import real_page

from holdfast.core.files import write_text

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 300, 60, 150, 34, 44
INK = "#7b8290"  # reads on white and on black
COLOURS = ("#3b82c4", "#d9772b", "#2f9e69", "#b05bb5", "#b59a1b", "#c94f5d")
DASHES = ("", "7 3", "2 3", "9 3 2 3", "4 4", "12 4")
MARKS = ("circle", "square", "diamond", "triangle")


@dataclass
class Plot:
    """One picture with linear or logarithmic axes.

    Attributes:
        x, y: (lowest, highest) of the axes.
        log_x, log_y: whether an axis is logarithmic.
    """

    title: str
    x_label: str
    y_label: str
    x: tuple[float, float]
    y: tuple[float, float]
    log_x: bool = False
    log_y: bool = False
    parts: list[str] = field(default_factory=list)
    legend: int = 0

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Pixels of a point."""
        across = _share(x, self.x, self.log_x) * (WIDTH - LEFT - RIGHT)
        down = (1 - _share(y, self.y, self.log_y)) * (HEIGHT - TOP - BOTTOM)
        return LEFT + across, TOP + down

    def line(self, xs: Sequence[float], ys: Sequence[float], style: int, name: str, thin: bool = False) -> None:
        """A line with marks at its points and a line of the legend."""
        points = [self.at(x, y) for x, y in zip(xs, ys, strict=True) if math.isfinite(y)]
        path = " ".join(f"{px:.1f},{py:.1f}" for px, py in points)
        colour, dash = COLOURS[style % len(COLOURS)], DASHES[style % len(DASHES)]
        self.parts.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{1.2 if thin else 2}" '
            f'stroke-dasharray="{dash}"/>'
        )
        if not thin:
            self.parts += [_mark(px, py, style) for px, py in points]
        self.name(name, style)

    def bar(self, x: float, low: float, high: float, style: int) -> None:
        """An interval."""
        (px, top), (_, bottom) = self.at(x, high), self.at(x, low)
        self.parts.append(
            f'<line x1="{px:.1f}" x2="{px:.1f}" y1="{top:.1f}" y2="{bottom:.1f}" '
            f'stroke="{COLOURS[style % len(COLOURS)]}" stroke-width="1" opacity="0.7"/>'
        )

    def dots(self, xs: Sequence[float], ys: Sequence[float], style: int, name: str) -> None:
        """Marks alone."""
        self.parts += [_mark(*self.at(x, y), style) for x, y in zip(xs, ys, strict=True)]
        self.name(name, style)

    def name(self, name: str, style: int) -> None:
        """A line of the legend."""
        if not name:
            return
        y = TOP + 8 + 18 * self.legend
        self.legend += 1
        x, colour = WIDTH - RIGHT + 12, COLOURS[style % len(COLOURS)]
        self.parts.append(
            f'<line x1="{x}" x2="{x + 24}" y1="{y}" y2="{y}" stroke="{colour}" stroke-width="2" '
            f'stroke-dasharray="{DASHES[style % len(DASHES)]}"/>{_mark(x + 12, y, style)}'
            f'<text x="{x + 30}" y="{y + 4}" font-size="11">{escape(name)}</text>'
        )

    def svg(self, x_ticks: Sequence[float], y_ticks: Sequence[float]) -> str:
        """The whole picture."""
        left, bottom = self.at(self.x[0], self.y[0])
        right, top = self.at(self.x[1], self.y[1])
        axes = [f'<path d="M{left} {top}V{bottom}H{right}" fill="none" stroke="{INK}"/>']
        for tick in x_ticks:
            px, _ = self.at(tick, self.y[0])
            axes.append(f'<line x1="{px:.1f}" x2="{px:.1f}" y1="{bottom}" y2="{bottom + 4}" stroke="{INK}"/>')
            axes.append(
                f'<text x="{px:.1f}" y="{bottom + 17}" text-anchor="middle" font-size="11">{tick:g}</text>'
            )
        for tick in y_ticks:
            _, py = self.at(self.x[0], tick)
            axes.append(
                f'<line x1="{left}" x2="{right}" y1="{py:.1f}" y2="{py:.1f}" stroke="{INK}" opacity="0.25"/>'
            )
            axes.append(f'<text x="{left - 7}" y="{py + 4:.1f}" text-anchor="end" font-size="11">{tick:g}</text>')
        middle = (top + bottom) / 2
        words = [
            f'<text x="{LEFT}" y="18" font-size="13" font-weight="600">{escape(self.title)}</text>',
            f'<text x="{(left + right) / 2:.0f}" y="{HEIGHT - 8}" text-anchor="middle" font-size="12">'
            f"{escape(self.x_label)}</text>",
            f'<text transform="translate(15 {middle:.0f}) rotate(-90)" text-anchor="middle" font-size="12">'
            f"{escape(self.y_label)}</text>",
        ]
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
            f'aria-label="{escape(self.title)}" font-family="sans-serif" fill="{INK}">'
            + "".join([*axes, *self.parts, *words])
            + "</svg>\n"
        )


def _share(value: float, ends: tuple[float, float], log: bool) -> float:
    if log:
        value, ends = math.log(max(value, 1e-12)), (math.log(ends[0]), math.log(ends[1]))
    return min(1.0, max(0.0, (value - ends[0]) / (ends[1] - ends[0])))


def _mark(x: float, y: float, style: int) -> str:
    colour = COLOURS[style % len(COLOURS)]
    match MARKS[style % len(MARKS)]:
        case "circle":
            return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>'
        case "square":
            return f'<rect x="{x - 2.8:.1f}" y="{y - 2.8:.1f}" width="5.6" height="5.6" fill="{colour}"/>'
        case "diamond":
            return f'<path d="M{x:.1f} {y - 4:.1f}l4 4l-4 4l-4 -4z" fill="{colour}"/>'
    return f'<path d="M{x:.1f} {y - 3.6:.1f}l3.8 6.6h-7.6z" fill="{colour}"/>'


def undone(results: dict[str, Any]) -> str:
    """Mean refusals of each size along the updates, over volumes and seeds."""
    rows = results["cells"]
    last = max(rows[0]["updates"])
    plot = Plot("Refusals along the updates that undo them", "updates", "refused, %", (0, last), (0, 100))
    for style, size in enumerate(sorted({row["parameters"] for row in rows})):
        of_size = [row for row in rows if row["parameters"] == size]
        score_T = 100 * np.mean([row["score"] for row in of_size], axis=0)
        plot.line(rows[0]["updates"], score_T.tolist(), style, f"{size:,} par. ({len(of_size)})")
    return plot.svg(range(0, last + 1, 4), (0, 25, 50, 75, 100))


def growth(results: dict[str, Any]) -> str:
    """Relaxation rate against volume, a line a size, each dot one seed."""
    rows = [row for row in results["cells"] if row["kappa_last"] and row["kappa_last"] > 0]
    rates, volumes = [row["kappa_last"] for row in rows], sorted({row["volume"] for row in rows})
    ends = (min(rates) / 1.3, max(rates) * 1.3)
    plot = Plot(
        "Relaxation rate by size and volume of pre-training", "updates of pre-training", "kappa, an update",
        (volumes[0] / 1.15, volumes[-1] * 1.15), ends, log_x=True, log_y=True,
    )  # fmt: skip
    sizes = sorted({row["parameters"] for row in rows})
    for style, size in enumerate(sizes):
        of_size = [row for row in rows if row["parameters"] == size]
        shift = 1.03 ** (style - (len(sizes) - 1) / 2)  # dots of one volume side by side
        plot.dots([r["volume"] * shift for r in of_size], [r["kappa_last"] for r in of_size], style, "")
        told = [v for v in volumes if any(r["volume"] == v for r in of_size)]
        means = [math.exp(np.mean([math.log(r["kappa_last"]) for r in of_size if r["volume"] == v])) for v in told]
        plot.line([v * shift for v in told], means, style, f"{size:,} par.", thin=True)
    ticks = [t for t in (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1) if ends[0] <= t <= ends[1]]
    return plot.svg(volumes, ticks)


def real(results: dict[str, Any]) -> str:
    """SmolLM2's refusals along harmless updates, with intervals."""
    entries = results["real"]
    updates = entries[0]["updates"]
    xs = [math.log2(1 + n) for n in updates]  # the grid is logarithmic and has a 0
    plot = Plot(
        "SmolLM2: refusals along harmless updates", "updates (grid: "
        + ", ".join(map(str, updates)) + ")", "refused, %", (0, max(xs)), (0, 100),
    )  # fmt: skip
    for style, entry in enumerate(entries):
        shares = entry["refused"]
        plot.line(xs, [100 * s["value"] for s in shares], style, real_page.SHORT[entry["variant"]])
        for x, share in zip(xs, shares, strict=True):
            if share["low"] is not None:
                plot.bar(x + 0.03 * (style - 1), 100 * share["low"], 100 * share["high"], style)
    return plot.svg([], (0, 25, 50, 75, 100))


def draw(results: dict[str, Any], folder: Path) -> list[str]:
    """Write the pictures that there are numbers for; their names."""
    wanted = {"undone": (undone, "cells"), "growth": (growth, "cells"), "real": (real, "real")}
    made = []
    for name, (make, needs) in wanted.items():
        if results.get(needs):
            write_text(folder / f"{name}.svg", make(results))
            made.append(name)
    return made
