"""One look at one checkpoint: code length of several texts, distance from the base model both ways, gradients.

Source: elasticity.md 3.2. Knows: what is measured on a single checkpoint. Does not know: how it was trained, or
what two probes say together (coefficients.py).

Shapes: N documents.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from holdfast.core import trees
from holdfast.core.errors import UserError
from holdfast.core.results import Result
from holdfast.core.seeds import undisturbed
from holdfast.core.statistics import Interval, bootstrap_mean, bootstrap_ratio
from holdfast.data import Example
from holdfast.elasticity.coefficients import DRAWS
from holdfast.elasticity.divergence import Base, Divergence, Prompts, pair
from holdfast.gradients import mean_gradient
from holdfast.models import Subject, base_parameters, mean_loss, merged_weights

BITS = 1 / math.log(2)


@dataclass(frozen=True)
class GradientReading(Result):
    """Which way the losses of two texts pull at this checkpoint (elasticity.md 1.8, 3.2).

    Attributes:
        cosine: cos(g_p, g_a); near -1 the two pull in opposite directions and the law applies with k_eff.
        norm_ratio: ||g_a|| / ||g_p||, equal to k at a joint optimum.
        k_toward: -(g_a . u) / (g_p . u) for a small step u = -g_t toward the perturbation; NaN without one.
    """

    cosine: float
    norm_ratio: float
    k_toward: float


@dataclass(frozen=True)
class Probe(Result):
    """What one checkpoint says.

    Attributes:
        name: of the checkpoint.
        bits_per_token: per text, token-weighted, with a document bootstrap interval.
        document_bits, document_tokens: per text, summed bits and tokens of every document, in input order.
        kl_to_base_nats: KL(current || base), nats a sequence, on completions sampled from the current model.
        kl_from_base_nats: KL(base || current) on completions sampled from the base model.
        distance: ||theta - theta_0|| / ||theta_0|| over effective weights (an adapter counts as its s B A).
        noise_floor_bits: largest change of any text's bits when only the batching changes; differences below
            three times this mean nothing.
        gradients: None unless asked for.
        seed: of sampling and bootstrap.
    """

    name: str
    bits_per_token: dict[str, Interval]
    document_bits: dict[str, tuple[float, ...]]
    document_tokens: dict[str, tuple[int, ...]]
    kl_to_base_nats: Interval
    kl_from_base_nats: Interval
    distance: float
    noise_floor_bits: float
    gradients: GradientReading | None
    seed: int


def probe(
    subject: Subject,
    base: Subject | None,
    texts: Mapping[str, Sequence[Example]],
    prompts: Prompts = (),
    seed: int = 0,
    *,
    max_new_tokens: int = 64,
    batch_size: int = 32,
    gradients: tuple[str, ...] = (),
    name: str = "",
) -> Probe:
    """Measure one checkpoint; leaves models and the random state as they were.

    Args:
        subject: the checkpoint.
        base: the model it came from; None (or the same model) means the subject with its adapter off.
        texts: named examples; loss is read where the examples carry it.
        prompts: texts or token ids that both models answer at temperature 1, without truncation.
        gradients: names of (pretraining, alignment) or (pretraining, alignment, perturbation) texts; two or three
            gradients over the subject's scope. Empty: none.

    Raises:
        UserError: no base to compare with, a text without examples, unknown names in ``gradients``.
    """
    run_base = pair(subject, base)
    for text, examples in texts.items():
        if not examples:
            raise UserError(f"text '{text}': no examples; leave it out or give some")
    if gradients and (len(gradients) not in (2, 3) or not set(gradients) <= set(texts)):
        raise UserError(f"gradients {gradients}: name two or three of the texts {sorted(texts)}")
    with undisturbed(subject.model):
        bits = {text: _code_length(subject, examples, batch_size) for text, examples in texts.items()}
        # the second pass differs in nothing but its batches (another size, hence other padding and order)
        again = {text: _code_length(subject, e, max(1, batch_size // 2 - 1)) for text, e in texts.items()}
        to_base, from_base = _divergences(subject, run_base, prompts, max_new_tokens, batch_size, seed)
    floor = [abs(bits[text][0].sum() - again[text][0].sum()) / bits[text][1].sum() for text in texts]
    return Probe(
        name,
        {text: bootstrap_ratio(bits[text][0].tolist(), bits[text][1].tolist(), seed, DRAWS) for text in texts},
        {text: tuple(bits[text][0].tolist()) for text in texts},
        {text: tuple(int(n) for n in bits[text][1]) for text in texts},
        to_base,
        from_base,
        distance(subject, base),
        float(max(floor, default=0.0)),
        _gradients(subject, [texts[text] for text in gradients]) if gradients else None,
        seed,
    )


def _code_length(subject: Subject, examples: Sequence[Example], batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Summed bits and counted tokens of every document (elasticity.md 1.4)."""
    loss = mean_loss(subject, examples, batch_size)
    return np.asarray(loss.nll_N) * BITS, np.asarray(loss.tokens_N)


def _divergences(
    subject: Subject, run_base: Base, prompts: Prompts, max_new_tokens: int, batch_size: int, seed: int
) -> tuple[Interval, Interval]:
    if not prompts:
        nothing = bootstrap_mean([])
        return nothing, nothing
    between = Divergence(subject, run_base, prompts, max_new_tokens, batch_size, seed)
    return bootstrap_mean(between.to_base().tolist(), seed), bootstrap_mean(between.from_base().tolist(), seed)


def _gradients(subject: Subject, texts: Sequence[Sequence[Example]]) -> GradientReading:
    g_p, g_a, *rest = (mean_gradient(subject, examples, reduction="tokens") for examples in texts)
    norm_p, norm_a = trees.norm(g_p), trees.norm(g_a)
    k_toward = math.nan
    if rest:
        along_p = trees.dot(g_p, rest[0])
        k_toward = -trees.dot(g_a, rest[0]) / along_p if along_p else math.nan
    if norm_p == 0 or norm_a == 0:
        return GradientReading(math.nan, math.nan, k_toward)
    return GradientReading(trees.dot(g_p, g_a) / (norm_p * norm_a), norm_a / norm_p, k_toward)


@torch.no_grad()
def distance(subject: Subject, base: Subject | None) -> float:
    """``||theta - theta_0|| / ||theta_0||`` over effective weights, accumulated in float64; exact.

    Raises:
        UserError: the two models do not have the same parameters.
    """
    same = base is None or base.model is subject.model
    reference = dict(_effective(subject.model if base is None else base.model, with_adapter=not same))
    moved = size = 0.0
    for name, weight in _effective(subject.model, with_adapter=True):
        if name not in reference or reference[name].shape != weight.shape:
            raise UserError(f"base: no '{name}' of shape {tuple(weight.shape)}; give the model's own base")
        before = reference[name].double()
        moved += float((weight.double() - before).square().sum())
        size += float(before.square().sum())
    return math.sqrt(moved / size)


def _effective(model: Any, with_adapter: bool) -> Iterator[tuple[str, torch.Tensor]]:
    """Weights by the name they have in a model without PEFT; an adapter's updates added in on request."""
    changed = merged_weights(model) if with_adapter else {}
    for name, parameter in base_parameters(model).items():
        yield name, changed.get(name, parameter.detach())
