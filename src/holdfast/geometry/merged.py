"""An adapter's update in the weights it changes: overlap there, so that LoRA and full runs compare; intruders.

Knows: merged weights, the Fisher over the base's own weights, singular vectors. Does not know: adapters' kinds.

In its own coordinates an adapter's overlap cannot be compared with that of a full run, and even in the weights it
misses intruder dimensions (Shuttleworth et al., arXiv:2410.21228), so these are counted beside it.
Source: geometry.md 3.8.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from holdfast.core import trees
from holdfast.core.results import Result
from holdfast.core.statistics import bootstrap_mean
from holdfast.core.trees import Tree
from holdfast.curvature import fisher_quadratic, kl_along
from holdfast.data import Example
from holdfast.geometry.overlap import Overlap, overlap_scores
from holdfast.geometry.spectrum import RANKS, Subspace
from holdfast.gradients import gradient_gram, per_sample_dots
from holdfast.models import Subject
from holdfast.models.merged import base_parameters, merged_weights

TOP, THRESHOLD = 10, 0.5


@dataclass(frozen=True)
class Intruders(Result):
    """Leading left singular vectors of the new weights that are nearly orthogonal to all of the old ones.

    Attributes:
        count: over all matrices. looked_at: vectors that were looked at, ``top`` a matrix.
        by_matrix: matrices that have some.
        top, threshold: vectors a matrix; an intruder's largest cosine is below the threshold.
    """

    count: int
    looked_at: int
    by_matrix: dict[str, int]
    top: int = TOP
    threshold: float = THRESHOLD


def merged_update(subject: Subject) -> Tree:
    """What the adapter adds to each weight that it changes, by the weight's name in the base model.

    Raises:
        ValueError: no adapter, or one that changes nothing.
    """
    base, merged = base_parameters(subject.model), merged_weights(subject.model)
    update = {name: (weight - base[name].detach()).float() for name, weight in merged.items()}
    update = {name: change for name, change in sorted(update.items()) if bool(change.any())}
    if not update:
        raise ValueError("the adapter changes no weight; there is no update to score")
    return update


def merged_overlap(
    base: Subject, update: Mapping[str, torch.Tensor], reference: Sequence[Example], seed: int = 0
) -> Overlap:
    """Overlap of a change of weights with the skill's Fisher over just these weights, chance beside it.

    Args:
        base: the aligned model without an adapter.
        update: of :func:`merged_update`, or the weights' change in a full run.
        reference: completions sampled from ``base``.
        seed: of the intervals.
    """
    subject = Subject(base.model, base.tokenizer, ",".join(update))
    change = {name: update[name].to(p) for name, p in subject.parameters().items()}
    space = Subspace.of(gradient_gram(subject, reference, reduction="sum", progress=False).matrix)
    form_N = fisher_quadratic(subject, reference, change)
    kl_N = kl_along(subject, reference, change, [1.0])[0]
    r = -per_sample_dots(subject, reference, change, "sum")
    quadratic, exact = (bootstrap_mean(x.tolist(), seed, 2000) for x in (form_N / 2, kl_N))
    squared, size = trees.dot(change, change), trees.size(change)
    ranks = [k for k in RANKS if k <= len(space.s)]
    return Overlap(
        tuple(overlap_scores(space, r, squared, float(form_N.mean()), k, size) for k in ranks),
        squared**0.5,
        quadratic,
        exact,
        0.5 <= quadratic.value / max(exact.value, 1e-300) <= 2.0,
        size,
    )


@torch.no_grad()
def intruders(
    before: Mapping[str, torch.Tensor],
    update: Mapping[str, torch.Tensor],
    top: int = TOP,
    threshold: float = THRESHOLD,
) -> Intruders:
    """Count them over the matrices of ``update``; ``before`` holds the weights it is added to."""
    found, looked_at = {}, 0
    for name, change in update.items():
        if change.ndim != 2:
            continue
        old = before[name].detach().float()
        u_old = torch.linalg.svd(old, full_matrices=False)[0]
        u_new = torch.linalg.svd(old + change.to(old), full_matrices=False)[0][:, :top]
        nearest = (u_old.mT @ u_new).abs().amax(0)
        looked_at += len(nearest)
        if number := int((nearest < threshold).sum()):
            found[name] = number
    return Intruders(sum(found.values()), looked_at, found, top, threshold)
