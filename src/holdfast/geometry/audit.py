"""Before training: where the alignment sits, whether it is about to be touched, and how drift would start.

Knows: the order of the measurements and what each costs.
Does not know: prompts' content, training, judges.

Cost, in ordinary forward-and-backward passes over the reference completions (R) and the task examples (T): one
Gram (1.3 R), eleven forward-mode passes (about 1.5 R each), three plain forwards (1 R), one Gauss-Newton product
(2 R); g, its splits and the first updates (3 T), one Hessian product over the task and four over a quarter of it
(8 T), one pass of inner products (1.3 T).
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from holdfast.core import trees
from holdfast.core.errors import UserError
from holdfast.core.progress import bar
from holdfast.core.statistics import bootstrap_mean
from holdfast.curvature import hessian_product, in_float32
from holdfast.data import Example
from holdfast.evaluation.drift import Reference
from holdfast.geometry.answers import benign_answers, skill_answers
from holdfast.geometry.attribution import Pull, pull_of
from holdfast.geometry.calibration import NEW_TOKENS
from holdfast.geometry.conditions import Conditions, conditions_at, conditions_by_d, root
from holdfast.geometry.forecast import screen
from holdfast.geometry.measure import (
    MeanUpdate,
    Measured,
    PlannedRun,
    mean_first_update,
    measure,
    task_gradients,
    third_term,
)
from holdfast.geometry.onset import (
    THRESHOLDS,
    Onset,
    ThresholdTime,
    crossover_time,
    drift_after_steps,
    quadratic_onset,
    time_to_threshold,
    validity_time,
)
from holdfast.geometry.result import Audit
from holdfast.geometry.sizes import fitted, pass_tokens
from holdfast.geometry.specific import Specific, specific
from holdfast.geometry.spectrum import RANKS, Spectrum, Subspace, spectrum_of
from holdfast.geometry.start import both_factors_active
from holdfast.geometry.updates import OptimizerFactory
from holdfast.gradients import Gram, gradient_gram
from holdfast.models import Subject

if TYPE_CHECKING:
    from holdfast.evaluation import Skill

log = logging.getLogger(__name__)
DRAWS = 2000
NULL_DRAWS = 3


def audit(
    subject: Subject,
    skill: "Skill | None",
    examples: Sequence[Example],
    optimizer: str | OptimizerFactory = "adamw",
    learning_rate: float = 1e-4,
    steps: int = 0,
    seed: int = 0,
    reference_examples: Sequence[Example] | None = None,
    max_prompts: int = 200,
    max_new_tokens: int = NEW_TOKENS,
    d: int | None = None,
    update_batch_size: int = 16,
    batch_size: int = 16,
    optimizer_options: dict[str, Any] | None = None,
    minutes: float | None = None,
    progress: bool = True,
    say: Callable[[str], None] | None = None,
    controls: int = 0,
    target: str | None = None,
) -> Audit:
    """Audit an aligned model for one skill and one planned fine-tune.

    Args:
        subject: the aligned model and the scope that will be trained; half precision is widened to float32
            meanwhile. A fresh LoRA is measured in the adapter's coordinates just off the start, one mean first
            update on, because at B = 0 its A matrices would not show (``settings["at"]`` says so).
        skill: the model answers its ``estimate.harmful`` prompts; None where ``reference_examples`` are given.
        examples: the task data. Every example enters g and H g, so pass a few hundred, not a million.
        optimizer: "adamw", "adam", "sgd", or a function that makes one; only its first update is used.
        learning_rate, steps: of the planned run (steps 0: unknown).
        seed: of sampling, shuffling and intervals.
        reference_examples: completions sampled from this model before, one a prompt.
        max_prompts, max_new_tokens: of the sampled completions; intervals with fewer than 200 prompts are wide.
        d: retained directions; None takes those before the noise, at least 1.
        update_batch_size: examples in each mini-batch of the mean first update.
        batch_size: examples per pass.
        optimizer_options: further keywords of the optimiser.
        minutes: cut prompts and task examples to what ends in this time here, by a timed first batch; None keeps
            them, and the result does not depend on the machine's speed.
        progress: show a bar when it takes over two seconds.
        say: is told what the audit will take and what was cut; default the log.
        controls: benign prompts of the skill whose answers' Fisher is compared with the skill's; 0: not done.
        target: the same fixed answer to every prompt, whose scores make the Fisher (labels="target", an empirical
            Fisher) in the place of the model's own samples.

    Returns:
        An :class:`Audit`. The model's parameters, gradients, modes and the random state are left as they were.

    Raises:
        UserError: no prompts, no task examples.

    Source: geometry.md 1.4, 1.7, 3; notes-forecast.md.
    """
    if not examples:
        raise UserError("the audit needs task examples; give at least one")
    if minutes is not None and skill is not None and reference_examples is None:
        prompts = skill.estimate.harmful[:max_prompts]
        max_prompts, examples = fitted(subject, prompts, examples, max_new_tokens, minutes, seed, say)
    plan = PlannedRun(optimizer, learning_rate, steps, optimizer_options or {}, update_batch_size, seed)
    with in_float32(subject.model), bar("audit", 8, progress) as advance:
        advance.note("the model's own answers")
        reference, refusals = skill_answers(
            subject, skill, reference_examples, max_prompts, max_new_tokens, seed, target
        )
        benign = benign_answers(subject, skill, controls, max_new_tokens, seed)
        log.info("auditing %d completions and %d task examples", len(reference), len(examples))
        advance(1)
        advance.note("first updates")
        update = mean_first_update(subject, examples, plan, batch_size)
        pull = pull_of(
            subject, reference, examples, update.tree, pass_tokens(subject, examples, reference, update)
        )
        advance(2)
        with both_factors_active(subject, update.tree) as at:
            advance.note(f"gradients of {len(reference)} answers")
            grams = _grams(subject, reference, benign, seed)
            advance(1)
            advance.note(f"gradients and curvature of {len(examples)} rows")
            measured = _measured(subject, examples, reference, update, plan, batch_size)
            advance(4)
        found = _assemble(subject, examples, reference, grams, measured, pull, plan, update, d)
    labels = "model" if target is None else "target"
    more = {
        "refusals": refusals and refusals.to_dict(),
        "at": at,
        "labels": labels,
        "fisher": f"full over the scope, unit=sequence, labels={labels}",
    }
    return replace(found, settings=found.settings | more)


def _measured(
    subject: Subject,
    examples: Sequence[Example],
    reference: Sequence[Example],
    update: MeanUpdate,
    plan: PlannedRun,
    batch_size: int,
) -> Measured:
    """Everything along the completions at the point where the model stands."""
    g, splits = task_gradients(subject, examples, plan.seed, batch_size)
    Hg = hessian_product(subject, examples, g, "tokens", batch_size)
    if Hg.displacement:
        log.warning("this model has no exact second derivatives; central differences instead")
    Hg_splits = [
        hessian_product(subject, part, gradient, "tokens", batch_size).product for part, gradient in splits.crossed
    ]
    third = third_term(subject, splits.crossed[0][0] if splits.crossed else examples, batch_size)
    directions = {"g": g, "Hg": Hg.product, "first_update": trees.scale(update.tree, 1.0 / plan.learning_rate)}
    measured = measure(subject, reference, directions, third, splits, Hg_splits, batch_size)
    return replace(measured, hessian={"displacement": Hg.displacement, "spread": Hg.spread})


def _grams(
    subject: Subject, reference: Sequence[Example], benign: Sequence[Example], seed: int
) -> tuple[Gram, Specific | None]:
    """Inner products of the answers' scores, and how the skill's stand against a benign control's."""
    joint = gradient_gram(
        subject, [*reference, *benign], reduction="sum", null_draws=NULL_DRAWS, seed=seed, progress=False
    )
    if not benign:
        return joint, None
    n = len(reference)
    nulls = tuple(null[:n, :n] for null in joint.nulls)
    own = replace(joint, matrix=joint.matrix[:n, :n], ids=joint.ids[:n], nulls=nulls)
    return own, specific(joint.matrix, n, seed)


def _assemble(
    subject: Subject,
    examples: Sequence[Example],
    reference: tuple[Example, ...],
    grams: tuple[Gram, Specific | None],
    measured: Measured,
    pull: Pull,
    plan: PlannedRun,
    update: MeanUpdate,
    d: int | None,
) -> Audit:
    gram, compared = grams
    tokens = sum(example.completion_tokens for example in reference)
    spectrum = spectrum_of(gram.matrix, gram.nulls, tokens, plan.seed)
    space = Subspace.of(gram.matrix)
    chosen = min(d if d is not None else max(1, spectrum.leading), len(space.s))
    conditions = _conditions(space, spectrum, measured, pull, plan, chosen, len(examples))
    along = [space.coordinates(measured.dots[name], chosen) for name in ("g", "Hg")]
    cross = float(along[0] @ along[1]) / space.n
    onset = _onset(conditions, measured, plan, update.size, cross)
    u = bootstrap_mean((0.5 * pull.form_N).tolist(), plan.seed, DRAWS)
    forecast = screen(
        pull.task_loss,
        onset.c2,
        u,
        measured.norms["g"],
        plan.learning_rate,
        plan.steps,
        plan.name,
        update.batches,
        update.size,
    )
    parameters = subject.parameters()
    settings = {
        "optimizer": plan.name,
        "learning_rate": plan.learning_rate,
        "steps": plan.steps,
        "seed": plan.seed,
        "scope": subject.scope,
        "parameters": trees.size(parameters),
        "task_examples": len(examples),
        "task_loss_reduction": "tokens",
        "prompts": len(reference),
        "tokens_per_completion": tokens / len(reference),
        "hessian": measured.hessian,
        "left_out": ["weight decay", "gradient clipping", "dropout", "learning-rate schedule"],
    }
    return Audit(
        spectrum,
        conditions,
        onset,
        forecast,
        settings,
        reference,
        gram.matrix,
        measured.dots,
        _monitor_reference(subject, reference),
        compared,
        pull.attribution,
    )


def _conditions(
    space: Subspace,
    spectrum: Spectrum,
    measured: Measured,
    pull: Pull,
    plan: PlannedRun,
    d: int,
    task_examples: int,
) -> Conditions:
    r_g, r_Hg = measured.dots["g"], measured.dots["Hg"]
    trace = spectrum.trace.value
    at = conditions_at(space, trace, r_g, r_Hg, d)
    forms = measured.forms | {"first_update": pull.form_N / plan.learning_rate**2}
    lengths = {name: root(bootstrap_mean(form.tolist(), plan.seed, DRAWS)) for name, form in forms.items()}
    norms = measured.norms
    sharpest = float(space.eigenvalues[0]) ** 0.5
    return Conditions(
        at,
        conditions_by_d(space, trace, r_g, r_Hg, RANKS),
        lengths["g"],
        lengths["Hg"],
        lengths["first_update"],
        norms["first_update"],
        norms["g"],
        norms["Hg"],
        measured.split_squares["g"],
        measured.split_squares["Hg"],
        {
            "lambda_d_over_trace": at.lambda_d / trace,
            "epsilon_E_over_g_norm": _ratio(at.epsilon_E, norms["g"]),
            "gamma_F_over_sharpest": _ratio(lengths["Hg"].value, sharpest * norms["Hg"]),
            "epsilon_F_over_sharpest": _ratio(lengths["g"].value, sharpest * norms["g"]),
        },
        plan.name,
        plan.learning_rate,
        task_examples,
    )


def _ratio(a: float, b: float) -> float:
    return a / b if b > 0 else float("nan")


def _onset(conditions: Conditions, measured: Measured, plan: PlannedRun, batch: int, cross: float) -> Onset:
    path = measured.path
    epsilon, gamma = conditions.epsilon_F.value, conditions.gamma_F.value
    times = tuple(
        ThresholdTime(tau, t, t / plan.learning_rate)
        for tau in THRESHOLDS
        for t in (time_to_threshold(tau, epsilon, gamma, measured.third_F),)
    )
    # The naive square of g's length is too large by its noise; a batch's noise is that of all rows, times N / B.
    excess = max(0.0, epsilon**2 - conditions.epsilon_F_squared_split)
    noise = 0.5 * excess * conditions.task_examples / batch if excess == excess else 0.0
    c2, c3, c4 = (bootstrap_mean(c.tolist(), plan.seed, DRAWS) for c in (path.c2_N, path.c3_N, path.c4_N))
    return Onset(
        c2,
        c3,
        c4,
        gamma**2 / 8,
        conditions.chosen.lambda_d * conditions.chosen.gamma_E**2 / 8,
        crossover_time(epsilon, gamma),
        times,
        quadratic_onset(conditions.chosen.epsilon_F**2, cross, conditions.chosen.gamma_F**2),
        validity_time(gamma, measured.third_F),
        noise,
        drift_after_steps(plan.steps, plan.learning_rate, gamma, noise),
        path.step,
        path.spread,
    )


def _monitor_reference(subject: Subject, reference: Sequence[Example]) -> Reference | None:
    try:
        return Reference.on(subject, reference)
    except UserError as error:
        log.info("the audit keeps no drift reference: %s", error)
        return None
