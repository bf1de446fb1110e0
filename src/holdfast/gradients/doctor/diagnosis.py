"""A model's diagnosis: what agrees with a sample run alone, what does not, and the setting that mends it.

Knows: the order of the examination, the result. Does not know: how a way is run, which settings there are.

Shapes: K samples examined, N samples of a batch.
"""

import contextlib
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from holdfast.core.errors import UserError
from holdfast.core.progress import bar
from holdfast.core.results import Result
from holdfast.core.seeds import seeded, undisturbed
from holdfast.data import Example
from holdfast.gradients.doctor.compare import (
    TOLERANCES,
    WHOLE,
    Comparison,
    compared,
    dots_by_kind,
    kinds_of,
    squares_by_kind,
)
from holdfast.gradients.doctor.mends import attention_of, in_float32, last_resort, mends_for
from holdfast.gradients.doctor.samples import built_in_examples, few_for
from holdfast.gradients.doctor.ways import ALONE, WAYS, Patient, Way, batch_of, gradient
from holdfast.gradients.ghost import GhostEngine
from holdfast.gradients.names import block_of
from holdfast.gradients.per_sample import per_sample_gradients
from holdfast.gradients.routes import Route
from holdfast.models import Subject

# What a model may raise at a layout that it cannot take.
REFUSALS = (TypeError, ValueError, RuntimeError, IndexError, NotImplementedError, ImportError)
ENGINE = (Way("holdfast, padded", "right"), Way("holdfast, packed", "packed"))


@dataclass(frozen=True)
class Finding(Result):
    """The verdict on one way.

    Attributes:
        way: how the samples were run.
        agrees: whether every kind of layer agrees with the sample alone.
        worst: the kind that is furthest off.
        cosine, norm_error: of the whole gradient; NaN where not known.
        cause: what is wrong; empty where it agrees.
        setting: what mends it: tried on this model, or, with ``tried`` False, not to run samples that way.
        tried: whether the setting was seen to bring agreement.
    """

    way: str
    agrees: bool
    worst: str = ""
    cosine: float = float("nan")
    norm_error: float = float("nan")
    cause: str = ""
    setting: str = ""
    tried: bool = False


@dataclass(frozen=True)
class RouteLine(Result):
    """The way that the parameters of one kind of layer take through the engine.

    Attributes:
        layer: class of the layers.
        rule: closed form, or "generic" (exact, slower).
        layers: how many.
        numbers: parameters in them.
        example: path of the first.
        reason: why not a rule.
    """

    layer: str
    rule: str
    layers: int
    numbers: int
    example: str
    reason: str = ""


@dataclass(frozen=True)
class Diagnosis(Result):
    """What the examination found.

    Attributes:
        dtype: the coarsest type among the model's parameters; it sets the tolerances.
        device, attention: where and with which attention implementation the model ran.
        samples: tokens of each sample examined.
        norm_tolerance: largest relative error of a norm that counts as rounding.
        cosine_tolerance: largest 1 - cosine.
        findings: one verdict a way.
        comparisons: the numbers behind them, by kind of layer.
        routes: of all layers in scope.
    """

    dtype: str
    device: str
    attention: str
    samples: tuple[int, ...]
    norm_tolerance: float
    cosine_tolerance: float
    findings: tuple[Finding, ...]
    comparisons: tuple[Comparison, ...]
    routes: tuple[RouteLine, ...]

    @property
    def agrees(self) -> bool:
        """Whether every way agrees."""
        return all(finding.agrees for finding in self.findings)


def diagnose(
    subject: Subject, examples: Sequence[Example] | None = None, seed: int = 0, progress: bool = True
) -> Diagnosis:
    """Compare a few samples run alone, padded and packed, by plain autograd and by the engine.

    The reference is plain autograd on each sample alone, unpadded, without dropout. It is held against the model
    as a trainer would call it (in the mode it is in), and against the engine's norms. Where one disagrees,
    settings are tried on the model until one brings agreement. The model is left as it was.

    Args:
        subject: model and scope.
        examples: the user's rows, of which up to three of different lengths are used; None takes neutral ones.
        seed: of random token ids (without a tokenizer) and of dropout.
        progress: show a bar when it takes over two seconds.

    Raises:
        UserError: parameters in scope that cannot have a gradient (quantised ones); rows that are all equally
            long; a model that cannot be run on a single sample, or whose gradient is not finite there.

    Cost: some thirty passes of three samples, and memory for two gradients; twice that where a copy in float32 is
    tried.
    """
    parameters = subject.parameters()
    _refuse_quantised(parameters, subject.has_adapter)
    chosen = few_for(subject, examples if examples is not None else built_in_examples(subject, seed))
    training = tuple(module for module in subject.model.modules() if module.training)
    patient = Patient(subject.model, parameters, chosen, subject.pad_id, training)
    engine = GhostEngine(patient.model, parameters)
    findings, comparisons = [], []
    with undisturbed(subject.model), seeded(seed, "doctor"), _without_warnings():
        _check_alone(patient)
        with bar("examination", len(WAYS) + len(ENGINE), progress) as advance:
            for way in WAYS + ENGINE:
                finding, table = _examined(patient, way)
                findings.append(finding)
                comparisons += table
                advance(1)
        engine.plan(batch_of(patient, "right"))
    norm_tolerance, cosine_tolerance = TOLERANCES[patient.dtype]
    return Diagnosis(
        str(patient.dtype).removeprefix("torch."),
        str(patient.device),
        attention_of(subject.model),
        tuple(len(example.input_ids) for example in chosen),
        norm_tolerance,
        cosine_tolerance,
        tuple(findings),
        tuple(comparisons),
        tuple(_route_lines(engine.routes, parameters)),
    )


def _refuse_quantised(parameters: Mapping[str, torch.Tensor], has_adapter: bool) -> None:
    for name, parameter in parameters.items():
        if not parameter.is_floating_point():
            way_out = "--scope adapter" if has_adapter else "--adapter FOLDER, or an unquantised model"
            raise UserError(
                f"parameter {name} is quantised ({parameter.dtype}) and has no gradient; use {way_out}"
            )


def _check_alone(patient: Patient) -> None:
    """There is nothing to compare with unless a sample alone has a gradient."""
    try:
        square = sum(float(grad.double().square().sum()) for grad in gradient(patient, ALONE, 0).values())
    except torch.OutOfMemoryError:
        raise
    except REFUSALS as error:
        raise UserError(
            f"{type(patient.model).__name__} cannot be run on one sample ({_first_line(error)}); another --dtype "
            "may help"
        ) from error
    if not math.isfinite(square):
        kind = str(patient.dtype).removeprefix("torch.")
        raise UserError(
            f"the gradient of a sample alone is not finite in {kind}; try --dtype float32 or other rows"
        )


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Routes and refusals are in the result; warning of them as well would say everything twice."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def _examined(patient: Patient, way: Way) -> tuple[Finding, list[Comparison]]:
    """The verdict on one way, with its numbers as they were before any mend."""
    try:
        table = _table(patient, way)
    except torch.OutOfMemoryError:
        raise
    except REFUSALS as error:
        if way.loss == "own" and isinstance(error, TypeError):  # it takes no labels, so it has no loss of its own
            return Finding(way.name, True, cause="the model computes no loss"), []
        table, refusal = [], f"the model cannot be run this way ({_first_line(error)})"
    else:
        refusal = ""
        if all(row.agrees for row in table):
            return _finding(way, table, "", "", False), table
    cause, setting, tried = _mended(patient, way)
    return _finding(way, table, refusal or cause, setting, tried), table


def _mended(patient: Patient, way: Way) -> tuple[str, str, bool]:
    """Cause and setting of the first change that brings agreement, and that it did."""
    for mend in [in_float32(patient)] if way in ENGINE else mends_for(patient, way):
        try:
            with mend.change(patient, way) as (changed, how):
                if all(row.agrees for row in _table(changed, how)):
                    return mend.cause, mend.setting, True
        except REFUSALS:  # what cannot be set mends nothing
            continue
    if way in ENGINE:
        if all(row.agrees for row in _loop_table(patient, way)):
            cause = "this model's samples cannot be scored together, and the engine's short trial did not show it"
            return (
                cause,
                "gradient_norms(..., engine='loop'), one sample at a time; please report this model",
                True,
            )
        return "the engine is wrong here", "nothing helps; please report this model", False
    return *last_resort(patient, way), False


def _table(patient: Patient, way: Way) -> list[Comparison]:
    """One way against the samples alone."""
    kinds = kinds_of(list(patient.parameters))
    tolerance = TOLERANCES[patient.dtype]
    alone_K, found_K, dots_K = [], [], []
    for sample in range(len(patient.examples)):
        alone = gradient(patient, ALONE, sample)
        alone_K.append(squares_by_kind(alone, kinds))
        if way not in ENGINE:
            found = gradient(patient, way, sample)
            found_K.append(squares_by_kind(found, kinds))
            dots_K.append(dots_by_kind(alone, found, kinds))
    if way in ENGINE:
        return compared(way.name, alone_K, _engine_squares(patient, way, kinds), None, tolerance)
    return compared(way.name, alone_K, found_K, dots_K, tolerance)


def _engine_squares(patient: Patient, way: Way, kinds: Mapping[str, str]) -> list[dict[str, float]]:
    """Squared norms by kind of every sample, from the engine."""
    batch = batch_of(patient, way.layout)
    squares = GhostEngine(patient.model, patient.parameters).norms(batch, by_block=True).squares
    kind_of_block = {block_of(name): kind for name, kind in kinds.items()}
    found: list[dict[str, float]] = [dict.fromkeys(kinds.values(), 0.0) for _ in patient.examples]
    for block, square_N in squares.items():
        for place, sample in enumerate(batch.index):
            found[sample][kind_of_block[block]] += float(square_N[place])
    return found


def _loop_table(patient: Patient, way: Way) -> list[Comparison]:
    """The engine's slow reference against the samples alone."""
    kinds = kinds_of(list(patient.parameters))
    rows = per_sample_gradients(patient.model, patient.parameters, batch_of(patient, "right"), "mean", "loop")[0]
    alone_K, found_K = [], []
    for sample in range(len(patient.examples)):
        alone_K.append(squares_by_kind(gradient(patient, ALONE, sample), kinds))
        found_K.append(squares_by_kind({name: row[sample] for name, row in rows.items()}, kinds))
    return compared(way.name, alone_K, found_K, None, TOLERANCES[patient.dtype])


def _finding(way: Way, table: Sequence[Comparison], cause: str, setting: str, tried: bool) -> Finding:
    agrees = bool(table) and all(row.agrees for row in table)
    if not table:
        return Finding(way.name, False, cause=cause, setting=setting, tried=tried)
    whole = next(row for row in table if row.kind == WHOLE)
    parts = [row for row in table if row.kind != WHOLE]
    worst = max(parts, key=lambda row: (not row.agrees, row.norm_error)).kind
    return Finding(way.name, agrees, worst, whole.cosine, whole.norm_error, cause, setting, tried)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:120]}" if lines else type(error).__name__


def _route_lines(routes: Mapping[str, Route], parameters: Mapping[str, torch.Tensor]) -> list[RouteLine]:
    """Routes by kind of layer, closed forms first."""
    groups: dict[tuple[str, str, str], list[str]] = {}
    for name, route in routes.items():
        groups.setdefault((route.kind, route.rule, route.reason), []).append(name)
    lines = [
        RouteLine(
            kind,
            rule,
            len({routes[name].module for name in names}),
            sum(parameters[name].numel() for name in names),
            routes[names[0]].module,
            reason,
        )
        for (kind, rule, reason), names in groups.items()
    ]
    return sorted(lines, key=lambda line: (bool(line.reason), -line.numbers))
