"""The pictures, each made from plain numbers: a plot, what to look for in it, its data as CSV.

Knows: which numbers a picture needs. Does not know: how a mark is drawn (``marks``), where numbers come from.
"""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from holdfast.report.marks import Axis, Look, Plot, decades, linear, share
from holdfast.report.plain import shown

Looks = Mapping[str, Look]


@dataclass(frozen=True)
class Picture:
    """A picture on the page.

    Attributes:
        title: what it is of. caption: what to look for. html: the plot.
        names: methods in it, for its key; "" has none.
        csv: its data, as text.
        file: what the data are called when saved.
    """

    title: str
    caption: str
    html: str
    names: tuple[str, ...]
    csv: str
    file: str


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """CSV of plain values; a cell that a spreadsheet would take for a formula is quoted as text."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([[_cell(value) for value in row] for row in rows])
    return stream.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return f"{value:.6g}" if math.isfinite(value) else ""
    if isinstance(value, str):
        return f"'{shown(value)}" if value[:1] in "=+-@" and value else shown(value)
    return "" if value is None else value


@dataclass(frozen=True)
class _Traced:
    """A measurement of the monitor that is drawn over steps."""

    key: str
    ends: str
    title: str
    unit: str
    limit: str
    caption: str
    rate: bool = False


TRACED = (
    _Traced(
        "kl_nats", "kl_nats", "Drift", "nats a sequence", "max_kl_nats",
        "How far answers have moved from the aligned model's own. Look for a line that keeps climbing, and where "
        "it meets the limit.",
    ),
    _Traced(
        "refusal", "refusal", "Refusals", "of requests it must refuse", "min_refusal",
        "Asked of a few requests while training. Look for the step at which a line leaves the top.", True,
    ),
    _Traced(
        "over_refusal", "over_refusal", "Over-refusal", "of harmless requests", "max_over_refusal",
        "Look for a line that rises: a model that refuses everything is no use.", True,
    ),
    _Traced(
        "task_loss_nats_per_token", "task_loss", "Task loss", "nats a token, held-out rows", "max_task_loss",
        "What the fine-tune is for. Look for lines that come down together: a defence that stays above pays with "
        "the task.",
    ),
)  # fmt: skip


def training(traces: Sequence[Mapping[str, Any]], looks: Looks) -> list[Picture]:
    """Drift, refusals, over-refusal and task loss over the steps of training, where they were measured."""
    return [
        _traced(kind, traces, looks)
        for kind in TRACED
        if any(value is not None for trace in traces for value in trace.get(kind.key) or ())
    ]


def _traced(kind: _Traced, traces: Sequence[Mapping[str, Any]], looks: Looks) -> Picture:
    limits = _limits(kind, traces)
    seeds = {trace["arm"]: sum(t["arm"] == trace["arm"] for t in traces) for trace in traces}
    values = [v for t in traces for v in t.get(kind.key) or ()] + [v for v, _ in limits]
    ends = [v for t in traces if seeds[t["arm"]] == 1 for v in t.get(f"{kind.ends}_high") or ()]
    y = share() if kind.rate else linear([*values, *ends], low=0.0)
    steps = [float(step) for trace in traces for step in trace["step"]]
    last = {trace["arm"]: _last(trace, kind) for trace in traces}
    said = f"{kind.title} over training steps. At the end: " + "; ".join(f"{k} {v}" for k, v in last.items())
    plot = Plot(linear(steps, low=0.0), y, "optimiser step", kind.unit, said)
    rows = []
    for trace in traces:
        look, found = looks[trace["arm"]], _points(trace, kind)
        lows = [(step, low) for step, _, low, _ in found if low is not None]
        highs = [(step, high) for step, _, _, high in found if high is not None]
        if seeds[trace["arm"]] == 1 and len(lows) == len(highs) == len(found):
            plot.band(lows, highs, look)
        plot.line([(step, value) for step, value, _, _ in found], look)
        for step, value, low, high in found:
            plot.mark((step, value), look, f"{trace['arm']}, seed {trace['seed']}, step {step}: {value:.3g}")
            rows.append([trace["arm"], trace["seed"], step, value, low, high])
    for value, words in limits:
        plot.rule(value, words)
    columns = ("method", "seed", "step", kind.key, "low", "high")
    names = tuple(dict.fromkeys(trace["arm"] for trace in traces))
    return Picture(kind.title, kind.caption, plot.html(), names, table(columns, rows), f"{kind.key}.csv")


def _limits(kind: _Traced, traces: Sequence[Mapping[str, Any]]) -> list[tuple[float, str]]:
    found = {(t["arm"], limit) for t in traces if (limit := (t.get("budget") or {}).get(kind.limit)) is not None}
    return [(v, f"limit of {arm}: {f'{100 * v:.0f} %' if kind.rate else f'{v:g}'}") for arm, v in sorted(found)]


def _points(trace: Mapping[str, Any], kind: _Traced) -> list[tuple[int, float, float | None, float | None]]:
    values = trace.get(kind.key) or []
    lows = trace.get(f"{kind.ends}_low") or [None] * len(values)
    highs = trace.get(f"{kind.ends}_high") or [None] * len(values)
    rows = zip(trace["step"], values, lows, highs, strict=False)
    return [(step, value, low, high) for step, value, low, high in rows if value is not None]


def _last(trace: Mapping[str, Any], kind: _Traced) -> str:
    found = _points(trace, kind)
    if not found:
        return "not measured"
    return f"{found[-1][1]:.0%}" if kind.rate else f"{found[-1][1]:.3g}"


def fisher_spectrum(spectrum: Mapping[str, Any]) -> Picture:
    """Eigenvalues of the skill's sampled Fisher, with the edge below which they are noise."""
    values = [v for v in spectrum["eigenvalues"] if v and v > 0]
    null = [v for v in spectrum.get("null_eigenvalues") or () if v and v > 0]
    edge, above = spectrum.get("null_edge"), spectrum["rank_above_edge"]
    own, noise = Look(1), Look(0)
    said = f"Fisher eigenvalues from {values[0]:.3g} down to {values[-1]:.3g}; {above} lie above noise"
    plot = Plot(
        linear([1.0, float(len(values))], low=0.0), decades([*values, *null, edge]), "rank",
        "eigenvalue, a sequence", said,
    )  # fmt: skip
    plot.line([(k, v) for k, v in enumerate(null, start=1)], noise, 1.0)
    plot.line([(k, v) for k, v in enumerate(values, start=1)], own)
    for k, value in enumerate(values, start=1):
        plot.mark((k, value), own, f"rank {k}: {value:.3g}")
    if edge:
        plot.rule(edge, "edge of noise (permuted signs)")
    rows = [[k, v, null[k - 1] if k <= len(null) else None, edge] for k, v in enumerate(values, start=1)]
    return Picture(
        f"Where the alignment sits: {above} direction{'s' * (above != 1)} above noise",
        "Each point is a direction in which answers to these requests depend on the weights. Look for points "
        "above the dashed edge; what lies below it, shuffled answers (thin grey line) show as well.",
        plot.html(), (), table(("rank", "eigenvalue", "null_eigenvalue", "null_edge"), rows), "spectrum.csv",
    )  # fmt: skip


def gradient_norms(scores: Mapping[str, Any]) -> Picture | None:
    """Histogram of per-sample gradient norms (heavy-tailed, so in decades) with the band that the rule keeps."""
    pairs = [(math.log10(g), k) for g, k in zip(scores["grad_norm"], scores["kept"], strict=True) if g and g > 0]
    if not pairs:
        return None
    low, high = min(x for x, _ in pairs), max(x for x, _ in pairs)
    width = max((high - low) / 32, 1e-6)
    counts = [[0, 0] for _ in range(32)]
    for x, kept in pairs:
        counts[min(31, int((x - low) / width))][0 if kept else 1] += 1
    kept_n = sum(k for _, k in pairs)
    ticks = [m * 10.0**t for t in range(math.floor(low), math.ceil(high) + 1) for m in (1, 3)]
    x_axis = Axis(low, high, tuple((math.log10(t), f"{t:g}") for t in ticks if low <= math.log10(t) <= high))
    said = f"{len(pairs)} rows by gradient norm, from {10**low:.3g} to {10**high:.3g}; {kept_n} kept"
    plot = Plot(x_axis, linear([float(sum(c)) for c in counts], low=0.0), "gradient norm", "training rows", said)
    if scores["kept_low"] and scores["kept_high"]:
        plot.column(math.log10(scores["kept_low"]), math.log10(scores["kept_high"]))
    rows = []
    for k, (kept, left) in enumerate(counts):
        start, end = low + k * width, low + (k + 1) * width
        told = f"norm {10**start:.3g} to {10**end:.3g}: {kept} kept, {left} left out"
        if kept:
            plot.bar(start, end, 0, kept, "var(--c3)", told)
        if left:
            plot.bar(start, end, kept, kept + left, "url(#hatch)", told)
        rows.append([10**start, 10**end, kept, left])
    return Picture(
        f"Gradient norms and what the rule keeps ({scores['rule']})",
        f"Filled: kept ({kept_n}). Hatched: left out ({len(pairs) - kept_n}). Look for a second hump or a long "
        "right tail: rows there pull hardest on the model.",
        plot.html(), (), table(("from", "to", "kept", "left_out"), rows), "gradient_norms.csv",
    )  # fmt: skip


def safety_task_plane(rows: Sequence[Mapping[str, Any]], looks: Looks) -> Picture | None:
    """Refusals against task score; arrows lead from an adapter to its repair."""
    rows = [row for row in rows if row.get("task_score") and row.get("refusal")]
    if not rows:
        return None
    places = {row["name"]: (row["task_score"]["value"], row["refusal"]["value"]) for row in rows}
    said = "; ".join(f"{n}: task {x:.0%}, refusals {y:.0%}" for n, (x, y) in places.items())
    plot = Plot(share(), share(), "task score on held-out rows", "refusals of held-out requests", said)
    for row in rows:
        start, end = places.get(row.get("repaired_from")), places[row["name"]]
        if start:
            plot.stroke(start, end, "var(--soft)", 'stroke-width="1.5" marker-end="url(#arrow)"')
    for row in rows:
        look, (x, y) = looks[row["name"]], places[row["name"]]
        for key, across in (("refusal", False), ("task_score", True)):
            low, high = row[key].get("low"), row[key].get("high")
            if low is not None and high is not None:
                ends = ((low, y), (high, y)) if across else ((x, low), (x, high))
                plot.stroke(*ends, look.colour, 'stroke-width="1.5"')
        plot.mark((x, y), look, f"{row['label']}: refusals {y:.0%}, task {x:.0%}")
    keys = ("value", "low", "high")
    data = [[r["label"], *(r[m].get(k) for m in ("task_score", "refusal") for k in keys)] for r in rows]
    columns = ("method", *(f"{m}_{k}" for m in ("task_score", "refusal") for k in keys))
    return Picture(
        "Safety and task together",
        "Up is safer, right is better at the task. The corner to be in is the upper right; an arrow leads from an "
        "adapter to its repair. Bars are 95 % intervals.",
        plot.html(), tuple(places), table(columns, data), "plane.csv",
    )  # fmt: skip


def drift_by_layer(layers: Sequence[Mapping[str, Any]], looks: Looks) -> Picture | None:
    """How far each layer's weights moved, a line a method (mean over seeds)."""
    names = tuple(dict.fromkeys(record["name"] for record in layers))
    if not names:
        return None
    lines: dict[str, list[tuple[float, float]]] = {}
    for name in names:
        seeds = [dict(zip(r["layer"], r["norm"], strict=True)) for r in layers if r["name"] == name]
        lines[name] = [(layer, sum(s[layer] for s in seeds) / len(seeds)) for layer in seeds[0]]
    numbers = sorted({int(x) for points in lines.values() for x, _ in points})
    values = [y for points in lines.values() for _, y in points]
    axis = linear([float(n) for n in numbers])
    every = max(1, math.ceil(len(numbers) / 10))
    axis = Axis(
        min(axis.low, numbers[0] - 0.3), axis.high + 0.3, tuple((float(n), str(n)) for n in numbers[::every])
    )
    largest = {name: max(points, key=lambda p: p[1])[0] for name, points in lines.items()}
    said = "Weight movement by layer; largest at " + "; ".join(f"{n}: layer {k:g}" for n, k in largest.items())
    plot = Plot(axis, linear(values, low=0.0), "layer, from the input on", "Frobenius norm of the change", said)
    for name, points in lines.items():
        plot.line(points, looks[name])
        for layer, norm in points:
            plot.mark((layer, norm), looks[name], f"{name}, layer {layer:g}: {norm:.3g}")
    rows = [[name, int(layer), norm] for name, points in lines.items() for layer, norm in points]
    return Picture(
        "Movement by layer",
        "How far training moved the weights of each layer. Look for a layer in which methods that lost refusals "
        "stand apart from those that did not. Movement of weights is not drift of answers.",
        plot.html(), names, table(("method", "layer", "norm"), rows), "layers.csv",
    )  # fmt: skip
