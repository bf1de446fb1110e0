"""An audit in words: the lines that terminals and reports print.

Knows: which numbers a reader needs first, and what each may be used for.
Does not know: tables, pages.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from holdfast.core.results import Result
from holdfast.core.statistics import Interval
from holdfast.geometry.attribution import Attribution
from holdfast.geometry.calibration import Calibrated
from holdfast.geometry.forecast import EarlyForecast
from holdfast.geometry.result import Audit

RELIABLE_PROMPTS = 200


@dataclass(frozen=True)
class Line(Result):
    """A quantity, its value with interval as text, and what it means."""

    name: str
    value: str
    meaning: str


def describe(audit: Audit) -> list[Line]:
    """The audit's main numbers, in reading order."""
    return [*_where(audit), *_compared(audit), *_conditions(audit), *_onset(audit), *_forecast(audit)]


def calibrated_rows(found: Calibrated, early: EarlyForecast | None = None) -> list[list[str]]:
    """The forecast's numbers: what, value, meaning."""
    rows = [
        ["rank", f"{found.rank:.0%}", f"of {found.references} reference runs have a smaller score"],
        ["drift at the end", f"{found.kl_nats:.3g} nats [{found.kl_low:.3g}, {found.kl_high:.3g}]",
         "90 % conformal interval, each task left out of its own fit"],
    ]  # fmt: skip
    for one in found.chances:
        when = "not within the run" if one.step is None else f"forecast at step {one.step}"
        rows.append([f"chance: {one.budget}", f"{one.probability:.0%}", when])
    if early is not None:
        rows.append(
            ["validity", f"{early.valid_multiple:g} x the probe's displacement ({early.valid_norm:.3g})",
             "beyond it no quadratic form speaks about this model"]
        )  # fmt: skip
    return [*rows, ["reference runs", str(found.references), found.source]]


def attribution_rows(found: Attribution, sources: Mapping[str, str], most: int = 5) -> list[list[str]]:
    """Sources, then the rows and the matrices that carry most: name, share of the drift, share of the tokens."""
    rows = [[f"source {one.source} ({one.rows} rows)", f"{one.drift_share:.0%}", f"{one.token_share:.0%}"]
            for one in found.by_source(sources)[:most]]  # fmt: skip
    total = max(1, sum(found.tokens))
    order = sorted(range(len(found.ids)), key=lambda k: -found.row_shares[k])[:most]
    rows += [
        [f"row {found.ids[k]}", f"{found.row_shares[k]:.0%}", f"{found.tokens[k] / total:.0%}"] for k in order
    ]
    blocks = sorted(found.block_shares.items(), key=lambda item: -item[1])[:most]
    return rows + [[name, f"{share:.0%}", ""] for name, share in blocks]


def _with_interval(interval: Interval) -> str:
    return interval.said(".3g")


def _where(audit: Audit) -> list[Line]:
    spectrum, d = audit.spectrum, audit.conditions.chosen.d
    captures = {int(k): share for k, share in spectrum.heldout_capture.items()}
    largest = max(captures, default=0)
    few = "" if spectrum.n >= RELIABLE_PROMPTS else f"; fewer than {RELIABLE_PROMPTS} prompts, so read it as rough"
    lines = [
        Line(
            "directions above noise",
            f"{spectrum.above_edge} of {spectrum.n}",
            f"shared by answers; {spectrum.single_answer} more belong to one answer each" + few,
        ),
        Line("Fisher trace", _with_interval(spectrum.trace), "mean squared score of an answer (unit: sequence)"),
        Line(
            "largest single answer",
            f"{spectrum.largest_share:.0%} of the trace",
            "near 100 % the spectrum speaks about one unlikely answer; sample more prompts",
        ),
    ]
    if largest:
        meaning = f"share of unseen answers' trace inside the top {largest} directions of the others"
        lines.append(Line("held-out capture", f"{captures[largest]:.0%}", meaning))
    at = audit.conditions.chosen
    lines.append(
        Line(
            f"tail beyond d={d}",
            f"{at.tail / spectrum.trace.value:.0%}",
            "condition 1: trace left outside the top d",
        )
    )
    return lines


def _compared(audit: Audit) -> list[Line]:
    found = audit.compared
    if found is None:
        return []
    d = "5" if "5" in found.shared_trace else next(iter(found.shared_trace))
    return [
        Line(
            "directions of its own",
            f"{found.above_null}",
            f"matter over {found.null_ratio:.3g} times more to the skill than to {found.m} benign answers",
        ),
        Line(
            f"benign trace in the skill's top {d}",
            f"{found.shared_trace[d]:.0%}",
            f"chance {found.chance_trace[d]:.0%}; near 100 % the skill sits where everything sits",
        ),
        Line(
            "sharpness, skill and benign",
            f"{found.skill_top_share:.0%} and {found.control_top_share:.0%}",
            "of the trace in the first five directions of each",
        ),
    ]


def _conditions(audit: Audit) -> list[Line]:
    found = audit.conditions
    name = found.optimizer
    return [
        Line("epsilon_F", _with_interval(found.epsilon_F), "condition 2: pull of the task gradient on the skill"),
        Line("gamma_F", _with_interval(found.gamma_F), "condition 3: how curvature turns the gradient towards it"),
        Line(
            f"first {name} update",
            _with_interval(found.epsilon_first_update),
            f"the same pull for the real first update (learning rate {found.learning_rate:g}); replaces epsilon_F",
        ),
    ]


def _onset(audit: Audit) -> list[Line]:
    onset, rate = audit.onset, audit.conditions.learning_rate
    trust = "" if onset.spread < 0.05 else f"; differences disagree by {onset.spread:.0%}, read as rough"
    return [
        Line(
            "c2",
            _with_interval(onset.c2),
            "drift = c2 t² + ...: nats a sequence, t = summed learning rates of SGD",
        ),
        Line("c4", _with_interval(onset.c4), "quartic coefficient where c2 vanishes" + trust),
        Line(
            "gamma_F²/8",
            f"{onset.gamma_F_squared_over_8:.3g}",
            "the paper's c4, without the model's own curvature",
        ),
        Line(
            "crossover",
            f"t = {onset.crossover_t:.3g} ({onset.crossover_t / rate:.3g} SGD steps)",
            "before it drift grows quadratically, not quartically",
        ),
        Line(
            "validity",
            f"t = {onset.validity_t:.3g} ({onset.validity_t / rate:.3g} SGD steps)",
            "beyond it c2, c3 and c4 claim nothing",
        ),
        Line(
            "drift from gradient noise",
            f"{onset.noise_nats * rate**2:.3g} nats a step of SGD",
            "linear in steps, even from an orthogonal start",
        ),
    ]


def _forecast(audit: Audit) -> list[Line]:
    lines = []
    for predictor in audit.forecast.predictors:
        interval = "" if predictor.low != predictor.low else f" [{predictor.low:.3g}, {predictor.high:.3g}]"
        value = f"{predictor.value:.3g}{interval} {predictor.unit}"
        lines.append(Line(predictor.name, value, f"{predictor.what}; {predictor.use}"))
    return lines
