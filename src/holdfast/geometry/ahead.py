"""The cheap half of an audit: what the forecast and its attribution need, and nothing of the spectrum.

Knows: the order of these measurements and what they cost. Does not know: the Fisher's directions, curvature.

Cost, in ordinary forward-and-backward passes over the reference completions (R) and the task examples (T): a
forward-mode and a backward pass (2.8 R); first updates and a pass of inner products (2.6 T); without shares 1.6 R
and 1.8 T. A pass takes at most a quarter more memory than a training step on one of the updates' mini-batches, or
what is little anyway.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from holdfast.core import trees
from holdfast.core.errors import UserError
from holdfast.core.progress import bar
from holdfast.core.statistics import bootstrap_mean
from holdfast.curvature import fisher_quadratic, in_float32
from holdfast.data import Example
from holdfast.geometry.answers import skill_answers
from holdfast.geometry.attribution import Attribution, pull_of
from holdfast.geometry.calibration import NEW_TOKENS, PROMPTS
from holdfast.geometry.forecast import Forecast, screen
from holdfast.geometry.measure import PlannedRun, mean_first_update
from holdfast.geometry.sizes import LIGHT, fitted, pass_tokens
from holdfast.geometry.updates import OptimizerFactory
from holdfast.models import Subject, mean_loss

if TYPE_CHECKING:
    from holdfast.evaluation import Skill

DRAWS = 2000


@dataclass(frozen=True, eq=False)
class LookAhead:
    """The forecast of a planned run and who carries it.

    Attributes:
        forecast, settings: as in :class:`holdfast.geometry.Audit`. attribution: likewise; None where no shares
            were asked for.
        reference_examples: the aligned model's completions that it is measured along.
    """

    forecast: Forecast
    attribution: Attribution | None
    settings: dict[str, Any]
    reference_examples: tuple[Example, ...] = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, without the completions."""
        return {
            "forecast": self.forecast.to_dict(),
            "attribution": self.attribution.to_dict() if self.attribution is not None else None,
            "settings": self.settings,
        }


def look_ahead(
    subject: Subject,
    skill: "Skill | None",
    examples: Sequence[Example],
    optimizer: str | OptimizerFactory = "adamw",
    learning_rate: float = 1e-4,
    steps: int = 0,
    seed: int = 0,
    reference_examples: Sequence[Example] | None = None,
    max_prompts: int = PROMPTS,
    max_new_tokens: int = NEW_TOKENS,
    update_batch_size: int = 16,
    batch_size: int = 16,
    minutes: float | None = None,
    progress: bool = True,
    say: Callable[[str], None] | None = None,
    shares: bool = True,
) -> LookAhead:
    """Forecast a planned fine-tune without a step; arguments as :func:`holdfast.geometry.audit` takes them.

    Args:
        shares: also who carries it. The forecast is the same without, and a quarter cheaper.

    Raises:
        UserError: no prompts, no task examples.
    """
    if not examples:
        raise UserError("the forecast needs task examples; give at least one")
    if minutes is not None and skill is not None and reference_examples is None:
        prompts = skill.estimate.harmful[:max_prompts]
        max_prompts, examples = fitted(subject, prompts, examples, max_new_tokens, minutes, seed, say, LIGHT)
    plan = PlannedRun(optimizer, learning_rate, steps, {}, update_batch_size, seed)
    with in_float32(subject.model), bar("forecast", 3, progress) as advance:
        advance.note("the model's own answers")
        reference, refusals = skill_answers(
            subject, skill, reference_examples, max_prompts, max_new_tokens, seed, None
        )
        advance(1)
        advance.note("first updates")
        update = mean_first_update(subject, examples, plan, batch_size)
        advance(1)
        most = pass_tokens(subject, examples, reference, update)
        if shares:
            advance.note("who carries it")
            pull = pull_of(subject, reference, examples, update.tree, most)
            form_N, loss, attribution = pull.form_N, pull.task_loss, pull.attribution
        else:
            rows = max(1, most // max(len(example.input_ids) for example in reference))
            form_N, attribution = fisher_quadratic(subject, reference, update.tree, rows), None
            loss = mean_loss(subject, examples).nats_per_token
        advance(1)
        u = bootstrap_mean((0.5 * form_N).tolist(), seed, DRAWS)
        norm = trees.norm(update.gradient)
    forecast = screen(loss, None, u, norm, learning_rate, steps, plan.name, update.batches, update.size)
    settings = {
        "optimizer": plan.name,
        "learning_rate": learning_rate,
        "steps": steps,
        "seed": seed,
        "scope": subject.scope,
        "task_examples": len(examples),
        "prompts": len(reference),
        "labels": "model",
        "refusals": refusals and refusals.to_dict(),
    }
    return LookAhead(forecast, attribution, settings, reference)
