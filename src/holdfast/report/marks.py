"""Drawing by hand: scales, ticks and a plot of lines, points and rules as one piece of SVG in a frame of text.

Knows: percentages, marker shapes, CSS variables ``--c0`` to ``--c7`` (one colour a method).
Does not know: what is drawn.

Everything inside a plot stands at percentages of it, and its words are text of the page around it: so it fits a
phone and a wide screen with letters of one size, and nothing has to be measured by a script.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape

COLOURS = 8
Point = tuple[float, float]


@dataclass(frozen=True)
class Look:
    """How a method looks, everywhere: colour and shape (never colour alone)."""

    number: int

    @property
    def colour(self) -> str:
        """A CSS colour."""
        return f"var(--c{self.number % COLOURS})"

    @property
    def shape(self) -> str:
        """Name of a symbol that the page defines once."""
        return f"m{self.number % COLOURS}"

    @property
    def dash(self) -> str:
        """Of lines."""
        return ("", "", "7 3", "2 3", "9 3 2 3", "4 2", "12 4", "1 2")[self.number % COLOURS]

    def key(self) -> str:
        """The mark alone, beside a name."""
        return (
            f'<svg class="key" aria-hidden="true" style="color:{self.colour}">'
            f'<use href="#{self.shape}" x="50%" y="50%"/></svg>'
        )


def looks(names: Iterable[str]) -> dict[str, Look]:
    """A look for every name, in order of first appearance; the aligned model is always the grey one."""
    others = [name for name in dict.fromkeys(names) if name != "aligned"]
    return {"aligned": Look(0), **{name: Look(1 + k % (COLOURS - 1)) for k, name in enumerate(others)}}


@dataclass(frozen=True)
class Axis:
    """A scale: ends, ticks with their words, and whether it counts in decades."""

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    log: bool = False

    def at(self, value: float) -> float:
        """Where ``value`` stands, in percent of the length; outside values stand at the end."""
        low, high, here = (
            math.log10(v) if self.log else v for v in (self.low, self.high, max(value, self._least))
        )
        return min(100.0, max(0.0, 100.0 * (here - low) / (high - low)))

    @property
    def _least(self) -> float:
        return self.low if self.log else -math.inf


def linear(values: Iterable[float | None], low: float | None = None, high: float | None = None) -> Axis:
    """Ends at round numbers around the values, about five ticks."""
    found = [v for v in values if v is not None and math.isfinite(v)] or [0.0, 1.0]
    low, high = min(found) if low is None else low, max(found) if high is None else high
    if high <= low:
        high = low + (abs(low) or 1.0)
    raw = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return Axis(first * step, last * step, tuple((k * step, f"{k * step:g}") for k in range(first, last + 1)))


def share() -> Axis:
    """From 0 to 100 %."""
    return Axis(0.0, 1.0, tuple((k / 4, f"{25 * k} %") for k in range(5)))


def decades(values: Iterable[float | None]) -> Axis:
    """Powers of ten around positive values."""
    found = [v for v in values if v is not None and v > 0 and math.isfinite(v)] or [1.0]
    first, last = math.floor(math.log10(min(found))), math.ceil(math.log10(max(found)))
    last = max(last, first + 1)
    every = math.ceil((last - first) / 6)
    ticks = tuple((10.0**k, f"{10.0**k:g}") for k in range(first, last + 1, every))
    return Axis(10.0**first, 10.0**last, ticks, log=True)


@dataclass
class Plot:
    """A picture that is being drawn. ``said`` is what a screen reader reads in its place."""

    x: Axis
    y: Axis
    x_title: str
    y_title: str
    said: str
    _under: list[str] = field(default_factory=list)
    _over: list[str] = field(default_factory=list)

    def place(self, point: Point) -> tuple[float, float]:
        """Percent from the left and from the top."""
        return self.x.at(point[0]), 100.0 - self.y.at(point[1])

    def line(self, points: Sequence[Point], look: Look, width: float = 2.0) -> None:
        """A broken line through the points."""
        path = " ".join(f"{x:.2f},{y:.2f}" for x, y in map(self.place, points))
        dash = f' stroke-dasharray="{look.dash}"' if look.dash else ""
        self._under.append(
            f'<polyline points="{path}" fill="none" stroke="{look.colour}" stroke-width="{width:g}"{dash} '
            'stroke-linejoin="round" vector-effect="non-scaling-stroke"/>'
        )

    def band(self, lows: Sequence[Point], highs: Sequence[Point], look: Look) -> None:
        """The area between two lines: an interval."""
        outline = [*map(self.place, lows), *map(self.place, reversed(highs))]
        path = " ".join(f"{x:.2f},{y:.2f}" for x, y in outline)
        self._under.insert(0, f'<polygon points="{path}" fill="{look.colour}" opacity=".14"/>')

    def mark(self, point: Point, look: Look, told: str = "") -> None:
        """A point; ``told`` is shown when one stays on it."""
        x, y = self.place(point)
        title = f"<title>{escape(told)}</title>" if told else ""
        self._over.append(
            f'<use href="#{look.shape}" x="{x:.2f}%" y="{y:.2f}%" style="color:{look.colour}">{title}</use>'
        )

    def stroke(self, start: Point, end: Point, colour: str, style: str = "") -> None:
        """A straight line; ``style`` is more of SVG's attributes."""
        (x1, y1), (x2, y2) = self.place(start), self.place(end)
        self._over.append(
            f'<line x1="{x1:.2f}%" y1="{y1:.2f}%" x2="{x2:.2f}%" y2="{y2:.2f}%" stroke="{colour}" {style}/>'
        )

    def rule(self, value: float, words: str, colour: str = "var(--limit)") -> None:
        """A horizontal limit with its name."""
        _, y = self.place((self.x.low, value))
        below = y < 12
        self._over.append(
            f'<line x1="0" x2="100%" y1="{y:.2f}%" y2="{y:.2f}%" stroke="{colour}" stroke-width="1.5" '
            f'stroke-dasharray="6 4"/><text class="rule" x="100%" y="{y:.2f}%" dx="-4" dy="{14 if below else -5}" '
            f'text-anchor="end" fill="{colour}">{escape(words)}</text>'
        )

    def bar(self, left: float, right: float, low: float, high: float, fill: str, told: str) -> None:
        """A rectangle in the plot's own units."""
        (x1, y1), (x2, y2) = self.place((left, high)), self.place((right, low))
        self._over.append(
            f'<rect x="{x1:.2f}%" y="{y1:.2f}%" width="{max(0.0, x2 - x1 - 0.3):.2f}%" '
            f'height="{max(0.0, y2 - y1):.2f}%" fill="{fill}"><title>{escape(told)}</title></rect>'
        )

    def column(self, left: float, right: float) -> None:
        """A band from top to bottom."""
        x1, x2 = self.x.at(left), self.x.at(right)
        self._under.insert(
            0, f'<rect x="{x1:.2f}" width="{max(0.3, x2 - x1):.2f}" y="0" height="100" fill="var(--wash)"/>'
        )

    def html(self) -> str:
        """The plot in its frame."""
        tops = [(f"{100 - self.y.at(value):.2f}%", words) for value, words in self.y.ticks]
        grid = "".join(f'<line x1="0" x2="100%" y1="{y}" y2="{y}" class="grid-line"/>' for y, _ in tops)
        ups = "".join(f'<span style="top:{y}">{words}</span>' for y, words in tops)
        acrosses = "".join(f'<span style="left:{self.x.at(v):.2f}%">{w}</span>' for v, w in self.x.ticks)
        inner = "".join(self._under)
        return (
            f'<div class="plot"><div class="yt" aria-hidden="true">{escape(self.y_title)}</div>'
            f'<div class="ys" aria-hidden="true">{ups}</div>'
            f'<svg class="area" role="img" aria-label="{escape(self.said)}">{grid}'
            f'<svg viewBox="0 0 100 100" preserveAspectRatio="none" width="100%" height="100%">{inner}</svg>'
            f"{''.join(self._over)}</svg>"
            f'<div class="xs" aria-hidden="true">{acrosses}</div>'
            f'<div class="xt" aria-hidden="true">{escape(self.x_title)}</div></div>'
        )
