"""The four pictures, each a plotly figure made from plain numbers.

Knows: plotly, colours. Does not know: where the numbers came from.
"""

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

# One colour an arm, the same in every picture (Okabe and Ito's palette, safe for colour-blind readers).
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LAYOUT = {
    "template": "plotly_white",
    "height": 420,
    "margin": {"l": 60, "r": 20, "t": 50, "b": 50},
    "legend": {"orientation": "h", "y": -0.22},
}


def colours(names: list[str]) -> dict[str, str]:
    """A fixed colour for each name, in order of first appearance."""
    return {name: PALETTE[k % len(PALETTE)] for k, name in enumerate(dict.fromkeys(names))}


def drift_over_steps(traces: list[dict[str, Any]]) -> "Figure":
    """KL(aligned ‖ current) along training, a line a seed."""
    import plotly.graph_objects as go

    figure = go.Figure()
    colour = colours([trace["arm"] for trace in traces])
    shown: set[str] = set()
    for trace in traces:
        arm = trace["arm"]
        figure.add_scatter(
            x=trace["step"],
            y=trace["kl_nats"],
            name=arm,
            legendgroup=arm,
            showlegend=arm not in shown,
            mode="lines+markers",
            line={"color": colour[arm]},
            marker={"size": 5},
            customdata=trace["refusal"],
            hovertemplate=f"{arm}, seed {trace['seed']}<br>step %{{x}}<br>drift %{{y:.3f}} nats"
            "<br>refusals %{customdata:.0%}<extra></extra>",
        )
        shown.add(arm)
    figure.update_layout(
        title="Drift while training",
        xaxis_title="optimiser step",
        yaxis_title="drift: KL(aligned ‖ current), nats a sequence",
        **LAYOUT,
    )
    return figure


def fisher_spectrum(spectrum: dict[str, Any]) -> "Figure":
    """Eigenvalues of the skill's sampled Fisher, with the edge below which they are noise."""
    import plotly.graph_objects as go

    values = [value for value in spectrum["eigenvalues"] if value and value > 0]
    figure = go.Figure()
    figure.add_scatter(
        x=list(range(1, len(values) + 1)),
        y=values,
        mode="lines+markers",
        name="eigenvalues",
        line={"color": PALETTE[0]},
        marker={"size": 5},
    )
    edge = spectrum.get("null_edge")
    if edge:
        figure.add_hline(
            y=edge, line={"color": PALETTE[1], "dash": "dash"}, annotation_text="null edge (permuted signs)"
        )
    figure.update_yaxes(type="log", dtick=1)
    figure.update_layout(
        title=f"Where the alignment sits: {spectrum['rank_above_edge']} directions above the noise",
        xaxis_title="rank",
        yaxis_title="Fisher eigenvalue (unit: sequence, labels: model)",
        **LAYOUT,
    )
    return figure


def gradient_norms(scores: dict[str, Any]) -> "Figure":
    """Histogram of per-sample gradient norms (heavy-tailed, so in decades) with the band that the rule keeps."""
    import plotly.graph_objects as go

    pairs = [(g, k) for g, k in zip(scores["grad_norm"], scores["kept"], strict=True) if g is not None and g > 0]
    decades = [math.log10(g) for g, _ in pairs]
    low, high = min(decades, default=0.0), max(decades, default=1.0)
    figure = go.Figure()
    for kept, name, colour in ((True, "kept", PALETTE[2]), (False, "left out", PALETTE[1])):
        chosen = [x for x, (_, k) in zip(decades, pairs, strict=True) if bool(k) is kept]
        bins = {"start": low, "end": high + 1e-9, "size": max((high - low) / 50, 1e-6)}
        figure.add_histogram(x=chosen, name=name, marker={"color": colour}, xbins=bins, opacity=0.75)
    if scores["kept_low"] and scores["kept_high"]:
        left, right = math.log10(scores["kept_low"]), math.log10(scores["kept_high"])
        figure.add_vrect(x0=left, x1=right, fillcolor=PALETTE[2], opacity=0.12, line_width=0)
    ticks = [m * 10.0**t for t in range(math.floor(low), math.ceil(high) + 1) for m in (1, 2, 5)]
    figure.update_xaxes(tickvals=[math.log10(t) for t in ticks], ticktext=[f"{t:g}" for t in ticks])
    figure.update_layout(
        title=f"Gradient norms and the kept band ({scores['rule']})",
        barmode="stack",
        xaxis_title="gradient norm of a row's mean token loss",
        yaxis_title="training rows",
        **LAYOUT,
    )
    return figure


def safety_task_plane(rows: list[dict[str, Any]]) -> "Figure":
    """Refusals against task score; arrows lead from an adapter to its repair."""
    import plotly.graph_objects as go

    figure = go.Figure()
    colour = colours([row["name"] for row in rows])
    place: dict[str, tuple[float, float]] = {}
    for row in rows:
        x, y = row["task_score"]["value"], row["refusal"]["value"]
        place[row["name"]] = (x, y)
        figure.add_scatter(
            x=[x],
            y=[y],
            name=row["label"],
            mode="markers",
            marker={"size": 13, "color": colour[row["name"]]},
            error_y={
                "type": "data",
                "array": [row["refusal"]["high"] - y],
                "arrayminus": [y - row["refusal"]["low"]],
                "thickness": 1,
            },
        )
        figure.add_scatter(
            x=row["task_score"]["per_seed"],
            y=row["refusal"]["per_seed"],
            mode="markers",
            showlegend=False,
            hoverinfo="skip",
            marker={"size": 6, "color": colour[row["name"]], "symbol": "circle-open"},
        )
    for row in rows:
        start = row.get("repaired_from")
        if start in place:
            (x0, y0), (x1, y1) = place[start], place[row["name"]]
            figure.add_annotation(
                x=x1, y=y1, ax=x0, ay=y0, xref="x", yref="y", axref="x", ayref="y", arrowhead=3, opacity=0.5
            )
    figure.update_layout(
        title="Safety and task, before and after repair",
        xaxis_title="task score on held-out rows",
        yaxis_title="refusals on held-out requests",
        xaxis_tickformat=".0%",
        yaxis_tickformat=".0%",
        **LAYOUT,
    )
    return figure
