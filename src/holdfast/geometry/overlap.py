"""Overlap of a finished update with the alignment subspace: four scores, chance beside them. Post hoc.

Knows: the formulas of geometry.md 2.3. None of them may be called "the paper's score".
Does not know: why the update happened. An overlap is no forecast.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from holdfast.core import trees
from holdfast.core.errors import UserError
from holdfast.core.results import Result
from holdfast.core.statistics import Interval, bootstrap_mean
from holdfast.curvature import fisher_quadratic, kl_along
from holdfast.geometry.spectrum import RANKS, Subspace
from holdfast.geometry.start import AT
from holdfast.gradients import per_sample_dots
from holdfast.models import Subject

if TYPE_CHECKING:
    from holdfast.geometry.result import Audit

Array = NDArray[np.float64]


@dataclass(frozen=True)
class OverlapAt(Result):
    """Scores for k directions.

    Attributes:
        os_energy: share of the squared update inside the top k, in [0, 1].
        chance_energy: what a random update of the same size would have, k / p.
        os_weighted: the same, eigenvalue-weighted and scale-free.
        os_rayleigh: untruncated form over lambda_1 ||update||^2.
        kl_quadratic_top: 1/2 of the form inside the top k, nats.
    """

    k: int
    os_energy: float
    chance_energy: float
    os_weighted: float
    os_rayleigh: float
    kl_quadratic_top: float


@dataclass(frozen=True)
class Overlap(Result):
    """Overlap of an update with an audited skill.

    Attributes:
        by_k: scores by number of directions.
        update_norm: print it beside every score: scores that carry scale grow with it.
        kl_quadratic: 1/2 update^T F update, nats a sequence: the drift if the update were small.
        kl_exact: the drift along the audit's completions.
        local: whether the two agree within a factor of two; if not, the update left the local region and the
            scores are not interpretable.
        parameters: size of the scope.
    """

    by_k: tuple[OverlapAt, ...]
    update_norm: float
    kl_quadratic: Interval
    kl_exact: Interval
    local: bool
    parameters: int


def overlap_scores(
    space: Subspace, r: Array, update_squared: float, form: float, k: int, parameters: int
) -> OverlapAt:
    """All scores from ``r = G update``, ``||update||^2`` and the untruncated form ``update^T F update``."""
    eigenvalues = space.eigenvalues
    coordinates = space.coordinates(r, k)
    top = float((coordinates**2).sum()) / space.n
    return OverlapAt(
        k,
        space.euclidean_squared(r, k) / update_squared,
        k / parameters,
        top / (float(eigenvalues[:k].sum()) * update_squared),
        form / (float(eigenvalues[0]) * update_squared),
        top / 2,
    )


def overlap(
    audit: "Audit", before: Subject, after: Subject | Mapping[str, torch.Tensor], batch_size: int = 16
) -> Overlap:
    """Overlap of the update from ``before`` to ``after`` with the audited skill.

    Args:
        audit: of ``before``.
        before: the audited model, at the audited parameters.
        after: the fine-tuned model, or its parameters, over the same scope (with LoRA: adapter coordinates, so do
            not compare the numbers with those of a full run).
        batch_size: examples per forward-mode pass.

    Raises:
        ValueError: other parameters, or no difference between the two.
        UserError: an audit of a fresh LoRA, whose directions are not those of the start.
    """
    if audit.settings.get("at", AT) != AT:
        raise UserError(
            "this audit of a fresh LoRA stands just off the start, so its directions are not those of the update; "
            "score the merged weights with holdfast.geometry.merged_overlap"
        )
    start = {name: p.detach() for name, p in before.parameters().items()}
    end = after.parameters() if isinstance(after, Subject) else after
    update = trees.subtract({name: p.detach() for name, p in end.items()}, start)
    squared = trees.dot(update, update)
    if squared == 0:
        raise ValueError("before and after are the same point; there is no update to score")
    examples = audit.reference_examples
    form_N = fisher_quadratic(before, examples, update, batch_size)
    kl_N = kl_along(before, examples, update, [1.0], batch_size)[0]
    r = -per_sample_dots(before, examples, update, "sum", batch_size)
    space, size = Subspace.of(audit.gram), trees.size(update)
    ranks = [k for k in RANKS if k <= len(space.s)]
    form = float(form_N.mean())
    quadratic, exact = (bootstrap_mean(x.tolist(), audit.seed, 2000) for x in (form_N / 2, kl_N))
    return Overlap(
        tuple(overlap_scores(space, r, squared, form, k, size) for k in ranks),
        squared**0.5,
        quadratic,
        exact,
        0.5 <= quadratic.value / max(exact.value, 1e-300) <= 2.0,
        size,
    )
