"""``holdfast doctor``: whether a model says the same of a sample alone, padded and packed."""

import math
from typing import TYPE_CHECKING

import typer

from holdfast.cli import options, output

if TYPE_CHECKING:
    from holdfast.gradients.doctor import Diagnosis


def doctor(
    model: options.ModelArgument,
    data: options.OptionalDataOption = None,
    adapter: options.AdapterOption = None,
    scope: options.ScopeOption = "auto",
    loading: options.Loading = options.Loading(),
    rows: options.Rows = options.Rows(limit=64, max_length=256),
    seed: options.SeedOption = 0,
    json: options.JsonOption = False,
) -> None:
    """Compare gradients of samples run alone, padded and packed; name the setting that mends a disagreement.

    Without --data the samples are neutral sentences.

    A few samples are run alone by plain autograd. Against that stand the model as a trainer calls it (padded on
    either side, packed, with its own loss) and holdfast's own per-sample norms, by kind of layer, with the
    tolerance that the model's number type allows. Where one is off, settings are tried on the model until one
    brings agreement. Exit code 0: all agree. 3: something disagrees. 2: it could not be examined.

    Example: holdfast doctor organism:aligned

    Example: holdfast doctor my-model --data train.jsonl --dtype bfloat16
    """
    from holdfast.core.errors import EXIT_FAILED
    from holdfast.gradients.doctor import diagnose

    output.quiet_for_json(json)
    read = output.read_rows(data, model, rows) if data is not None else None
    subject = output.load_subject(model, adapter, scope, loading)
    examples = output.encode(read, subject) if read is not None else None
    diagnosis = diagnose(subject, examples, seed)
    if json:
        output.emit_json({"agrees": diagnosis.agrees, **diagnosis.to_dict()})
    else:
        _print(model, diagnosis)
    if not diagnosis.agrees:
        raise typer.Exit(EXIT_FAILED)


def _print(model: str, diagnosis: "Diagnosis") -> None:
    lengths = ", ".join(map(str, diagnosis.samples))
    output.emit_table(
        f"{model} in {diagnosis.dtype} on {diagnosis.device}: samples of {lengths} tokens against each alone",
        ["run", "verdict", "cosine", "norm error", "furthest off"],
        [
            [f.way, "ok" if f.agrees else "OFF", _cosine(f.cosine), _error(f.norm_error), f.worst]
            for f in diagnosis.findings
        ],
    )
    _print_kinds(diagnosis)
    output.emit_table(
        "how holdfast reads each kind of layer",
        ["layer", "rule", "layers", "parameters", "why"],
        [
            [r.layer, r.rule, str(r.layers), f"{r.numbers:,}", f"{r.reason} ({r.example})" if r.reason else ""]
            for r in diagnosis.routes
        ],
    )
    for finding in diagnosis.findings:
        if not finding.agrees:
            checked = "tried here, agrees then" if finding.tried else "nothing that was tried brings agreement"
            print(f"{finding.way}: {output.printable(finding.cause)}\n    set: {finding.setting} ({checked})")
    rounding = f"norm errors up to {diagnosis.norm_tolerance:g}, 1 - cosine up to {diagnosis.cosine_tolerance:g}"
    print(f"{'all agree' if diagnosis.agrees else 'something disagrees'}; {rounding} count as rounding")


def _print_kinds(diagnosis: "Diagnosis") -> None:
    cells = {(row.kind, row.way): row for row in diagnosis.comparisons}
    ways = [f.way for f in diagnosis.findings if ("all", f.way) in cells]
    heads = ["kind", *(way.replace(", the model's", ",").replace("holdfast, ", "holdfast ") for way in ways)]
    kinds = list(dict.fromkeys(row.kind for row in diagnosis.comparisons))
    norms = [[kind, *(_error(cells[kind, way].norm_error) for way in ways)] for kind in kinds]
    output.emit_table("norm error by kind of layer", heads, norms)
    # Of holdfast's own runs only norms are known.
    angles = [
        [kind, *("" if way.startswith("holdfast") else _error(1 - cells[kind, way].cosine) for way in ways)]
        for kind in kinds
    ]
    output.emit_table("1 - cosine by kind of layer", heads, angles)


def _cosine(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.6f}"


def _error(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.0e}"
